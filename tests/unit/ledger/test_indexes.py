"""Indexes on a real ledger: the same results as without, from fewer documents, always true."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import LedgerStorageError
from peer.ledger import open_ledger, rebuild_databases
from peer.ledger.api import (
    CollectionPolicy,
    Ledger,
    SimulationResults,
    TxSimulator,
)
from peer.ledger.collation import collated, encoded
from peer.ledger.indexes import Index
from peer.ledger.mango import parse_selector
from peer.ledger.planning import KEYS_AT_ONCE
from peer.ledger.snapshot import Snapshot
from tests.unit.ledger.conftest import Channel

COLLECTIONS = {"cc": {"secrets", "short"}}


def index(*fields: Any, partial: Any = None, **names: str) -> bytes:
    content = {"fields": list(fields)}
    if partial is not None:
        content["partial_filter_selector"] = partial
    return json.dumps({"index": content, "type": "json", **names}).encode()


async def keys(source: Any, query: Any, **page: Any) -> list[str]:
    results = await source.execute_query("cc", json.dumps(query), **page)
    return [record.key for record in await results.take(100_000)]


class Reads:
    """Counts the documents that queries are given to look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        get, scan = Snapshot.get, Snapshot.scan_documents

        def counted_get(snapshot: Snapshot, *where: Any) -> Any:
            self.count += 1
            return get(snapshot, *where)

        def counted_scan(snapshot: Snapshot, *where: Any) -> Any:
            rows = scan(snapshot, *where)
            self.count += len(rows)
            return rows

        monkeypatch.setattr(Snapshot, "get", counted_get)
        monkeypatch.setattr(Snapshot, "scan_documents", counted_scan)

    async def of(self, source: Any, query: Any) -> int:
        """Run a query; return how many documents it was given."""
        self.count = 0
        await keys(source, query)
        return self.count


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


NUMBERED = {
    f"k{i:04}": json.dumps({"n": i, "odd": bool(i % 2), "tens": i // 10}).encode()
    for i in range(400)
}


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ({"n": 7}, 1),
        ({"n": {"$gt": 7, "$lte": 9}}, 2),
        ({"n": {"$gte": 7, "$lt": 9}}, 2),
        ({"$and": [{"n": {"$gte": 7}}, {"n": {"$lt": 9}}]}, 2),
        ({"$or": [{"n": 7}]}, 1),
        ({"$nor": [{"$not": {"n": 7}}]}, 1),
        ({"n": 7, "$or": [{"odd": True}, {"odd": False}]}, 1),
        ({"n": {"$lt": 0}}, 0),
        ({"n": 7, "$and": [{"n": 8}]}, 0),
        ({"n": {"$gt": "text"}}, 0),
        ({"tens": 3, "odd": {"$gt": None}}, 10),
        ({"tens": 3, "odd": True}, 5),
        ({"tens": 3, "odd": {"$exists": True}}, 10),
        ({"tens": 3, "odd": {"$nin": [7]}}, 10),
        ({"tens": {"$in": [3]}, "odd": True}, 400),
        ({"tens": 3}, 400),
        ({"tens": 3, "odd": {"$exists": False}}, 400),
        ({"odd": True}, 400),
        ({"$not": {"n": 7}}, 400),
        ({"$or": [{"n": 7}, {"n": 8}]}, 400),
        ({"n": {"$gt": 7, "$elemMatch": {"$eq": 1}}}, 392),
        ({}, 400),
    ],
    ids=str,
)
async def test_a_query_reads_what_its_index_leaves(
    channel: Any, reads: Reads, selector: Any, wanted: int
) -> None:
    await channel.put(**NUMBERED)
    executor = channel.ledger.new_query_executor()
    before = await keys(executor, {"selector": selector})
    executor.done()
    await channel.ledger.set_indexes("cc", {"": [index("n"), index("tens", {"odd": "desc"})]})
    executor = channel.ledger.new_query_executor()
    assert await reads.of(executor, {"selector": selector}) == wanted
    assert await keys(executor, {"selector": selector}) == before
    executor.done()


async def test_a_sort_needs_its_fields_so_their_index_holds_all(channel: Any, reads: Reads) -> None:
    await channel.put(**NUMBERED)
    await channel.ledger.set_indexes("cc", {"": [index("tens", "odd")]})
    executor = channel.ledger.new_query_executor()
    query = {"selector": {"tens": 3}, "sort": [{"odd": "desc"}]}
    found = await keys(executor, query)
    assert found == [f"k{i:04}" for i in (39, 37, 35, 33, 31, 38, 36, 34, 32, 30)]
    assert await reads.of(executor, query) == 20  # once to rank, once to give
    executor.done()


async def test_a_wide_range_does_not_delay_what_is_found_at_once(
    channel: Any, reads: Reads
) -> None:
    count = 3 * KEYS_AT_ONCE
    await channel.put(**{f"k{i:05}": b'{"n":1,"rare":%d}' % (i // 5990) for i in range(count)})
    await channel.ledger.set_indexes("cc", {"": [index("n"), index("n", "rare")]})
    executor = channel.ledger.new_query_executor()
    page = await executor.execute_query("cc", '{"selector":{"n":{"$gt":0}}}', page_size=5)
    reads.count = 0
    assert [record.key for record in await page.take(5)] == [f"k{i:05}" for i in range(5)]
    assert reads.count <= 200
    assert await keys(executor, {"selector": {"n": {"$gt": 0}}}) == [
        f"k{i:05}" for i in range(count)
    ]
    # The index with more bounded fields is taken, whatever it is called.
    assert await reads.of(executor, {"selector": {"n": 1, "rare": 1}}) == 10
    executor.done()


async def test_a_named_index_is_taken_if_it_can_be(channel: Any, reads: Reads) -> None:
    await channel.put(**NUMBERED)
    definitions = [
        index("n", ddoc="byN", name="n"),
        index("tens", ddoc="_design/byTens", name="tens"),
        index("tens", "odd", ddoc="byTens", name="both"),
    ]
    await channel.ledger.set_indexes("cc", {"": definitions})
    executor = channel.ledger.new_query_executor()
    selector = {"n": 31, "tens": 3, "odd": True}
    for use_index, wanted in (
        ("byN", 1),
        ("_design/byN", 1),
        (["byTens", "tens"], 10),
        (["byTens", "both"], 5),
        (["_design/byTens"], 5),
        (["byN", "other"], 5),
        ("nowhere", 5),
        ([], 5),
        (7, 5),
    ):
        query = {"selector": selector, "use_index": use_index}
        assert await reads.of(executor, query) == wanted, use_index
        assert await keys(executor, query) == ["k0031"]
    query = {"selector": {"odd": True}, "use_index": "byN"}
    assert await reads.of(executor, query) == 400
    executor.done()


async def test_a_partial_index_is_for_queries_that_name_it(channel: Any, reads: Reads) -> None:
    await channel.put(**NUMBERED)
    partial = index("tens", partial={"odd": True, "n": {"$ne": 35}}, ddoc="odd", name="tens")
    await channel.ledger.set_indexes("cc", {"": [partial]})
    executor = channel.ledger.new_query_executor()
    query: Any = {"selector": {"tens": 3}}
    assert len(await keys(executor, query)) == 10
    query["use_index"] = "odd"
    assert await reads.of(executor, query) == 4
    assert await keys(executor, query) == ["k0031", "k0033", "k0037", "k0039"]
    query["selector"] = {"n": {"$lt": 3}}  # it cannot be used
    assert await keys(executor, query) == ["k0000", "k0001", "k0002"]
    query["selector"] = {"tens": {"$exists": True}}
    assert len(await keys(executor, query)) == 199
    executor.done()


async def test_indexes_are_replaced_and_those_that_stay_are_not_built_again(
    channel: Any, tmp_path: Path
) -> None:
    await channel.put(**NUMBERED)
    ledger: Ledger = channel.ledger

    def stored() -> list[tuple[int, str, str, int]]:
        with closing(sqlite3.connect(tmp_path / "ch" / "ledger.sqlite")) as database:
            return database.execute(
                "SELECT id, namespace, definition, "
                "(SELECT count(*) FROM index_rows r WHERE r.id = i.id) FROM indexes i ORDER BY id"
            ).fetchall()

    await ledger.set_indexes("cc", {"": [index("n"), index("none")], "secrets": [index("p")]})
    first = stored()
    assert [(namespace, rows) for _, namespace, _, rows in first] == [
        ("cc", 400),
        ("cc", 0),
        ("cc$$psecrets", 0),
    ]
    await ledger.set_indexes("cc2", {"": [index("n")]})
    await ledger.set_indexes("cc", {"": [b' {"type":"json", "index":{"fields":["n"]}}']})
    assert [row for row in stored() if row[1] == "cc"] == first[:1]
    assert [row[1] for row in stored()] == ["cc", "cc2"]
    await ledger.set_indexes("cc", {})
    assert [row[1] for row in stored()] == ["cc2"]


async def test_what_cannot_be_used_is_left_out(
    channel: Any, caplog: pytest.LogCaptureFixture, reads: Reads
) -> None:
    await channel.put(**NUMBERED)
    broken = [index("a..b"), index("a", partial={"a": {"$nope": 1}}), b"no JSON"]
    await channel.ledger.set_indexes("cc", {"": [*broken, index("n")]})
    refused = "an index of namespace cc is not used: rich query: "
    assert [record.getMessage().removeprefix(refused) for record in caplog.records] == [
        "index.fields.0 'a..b' is no name of a field",
        "partial_filter_selector.a.$nope $nope is no operator here",
        "index is no JSON object",
    ]
    executor = channel.ledger.new_query_executor()
    assert await reads.of(executor, {"selector": {"n": 7}}) == 1
    executor.done()


async def test_a_simulation_keeps_the_indexes_of_its_begin(channel: Any, reads: Reads) -> None:
    await channel.put(**NUMBERED)
    before = channel.simulate()
    await channel.ledger.set_indexes("cc", {"": [index("n")]})
    between = channel.simulate()
    await channel.put(k0008=b'{"n":7}', k0007=b'{"n":8}')
    after = channel.simulate()
    await channel.ledger.set_indexes("cc", {})
    last = channel.simulate()
    seen = []
    for simulator in (before, between, after, last):
        seen.append((await reads.of(simulator, {"selector": {"n": 7}}), reads.count))
        assert await keys(simulator, {"selector": {"n": 7}}) == (
            ["k0008"] if simulator in (after, last) else ["k0007"]
        )
        simulator.done()
    assert [count for count, _ in seen] == [400, 1, 1, 400]


async def test_indexes_survive_reopening_and_end_with_the_databases(
    tmp_path: Path, wrap: Any, reads: Reads
) -> None:
    async def cost() -> int:
        async with open_ledger(tmp_path, "ch") as ledger:
            executor = ledger.new_query_executor()
            try:
                return await reads.of(executor, {"selector": {"n": 7}})
            finally:
                executor.done()

    async with open_ledger(tmp_path, "ch") as ledger:
        await wrap(ledger).put(**NUMBERED)
        await ledger.set_indexes("cc", {"": [index("n")]})
    assert await cost() == 1
    await rebuild_databases(tmp_path, "ch")
    assert await cost() == 400


async def test_a_commit_that_fails_leaves_indexes_as_they_were(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await channel.put(k=b'{"n":1}')
    await channel.ledger.set_indexes("cc", {"": [index("n")]})

    def fails(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    simulator = channel.simulate()
    simulator.set_state("cc", "k", b'{"n":2}')
    with monkeypatch.context() as patch:
        patch.setattr("peer.ledger.durable.commit", fails)
        with pytest.raises(LedgerStorageError):
            await channel.commit(simulator)
        with pytest.raises(LedgerStorageError):
            await channel.ledger.set_indexes("cc", {})
    executor = channel.ledger.new_query_executor()
    assert await keys(executor, {"selector": {"n": 1}}) == ["k"]
    assert await keys(executor, {"selector": {"n": 2}}) == []
    executor.done()
    await channel.put(k=b'{"n":2}')
    executor = channel.ledger.new_query_executor()
    assert await keys(executor, {"selector": {"n": 2}}) == ["k"]
    executor.done()


def held_rows(path: Path) -> set[tuple[int, bytes, bytes]]:
    with closing(sqlite3.connect(path)) as database:
        return set(database.execute("SELECT * FROM index_rows"))


def expected_rows(path: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the rows that the state and the definitions ask for, worked out without the ledger."""
    with closing(sqlite3.connect(path)) as database:
        for id_, namespace, text in database.execute("SELECT * FROM indexes").fetchall():
            fields = json.loads(text)["index"]["fields"]
            found = database.execute(
                "SELECT key, value FROM state WHERE namespace = ?", (namespace,)
            )
            for key, value in found:
                try:
                    document = json.loads(value)
                except ValueError:
                    continue
                if isinstance(document, dict) and all(name in document for name in fields):
                    yield id_, b"".join(encoded(document[name]) for name in fields), key


VALUES = st.one_of(
    st.fixed_dictionaries({}, optional={"a": st.integers(0, 2), "b": st.sampled_from(["", "x"])}),
    st.sampled_from(["text", [1]]),
).map(lambda value: json.dumps(value).encode())
WRITES = st.lists(
    st.tuples(
        st.sampled_from(["", "secrets", "short"]),
        st.sampled_from(["put", "put", "put", "delete", "purge", "metadata"]),
        st.sampled_from("klm"),
        VALUES,
    ),
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(WRITES, min_size=1, max_size=5), st.integers(0, 4))
def test_whatever_blocks_change_the_rows_follow(blocks: list[Any], defined_at: int) -> None:
    def policy(namespace: str, collection: str) -> CollectionPolicy:
        return CollectionPolicy(block_to_live=1 if collection == "short" else 0)

    definitions = {
        "": [index("a"), index("b", "a")],
        "secrets": [index("a")],
        "short": [index("b")],
    }

    async def run() -> None:
        with TemporaryDirectory() as directory:
            path = Path(directory) / "ch" / "ledger.sqlite"
            async with open_ledger(
                Path(directory), "ch", collections=COLLECTIONS.get, policies=policy
            ) as ledger:
                channel = Channel(ledger)
                for number, writes in enumerate(blocks):
                    if number == min(defined_at, len(blocks) - 1):
                        await ledger.set_indexes("cc", definitions)
                    await channel.commit(*simulated(channel, writes))
                    assert held_rows(path) == set(expected_rows(path))
                assert await ledger_agrees(channel)

    trio.run(run)


def simulated(channel: Channel, writes: Sequence[Any]) -> Iterator[TxSimulator]:
    """Yield a transaction for each write; the second to touch a key is valid, too."""
    for collection, change, key, value in writes:
        simulator = channel.simulate()
        match change, collection:
            case "put", "":
                simulator.set_state("cc", key, value)
            case "put", _:
                simulator.set_private_data("cc", collection, key, value)
            case "metadata", "":
                simulator.set_state_metadata("cc", key, {"VALIDATION_PARAMETER": b"x"})
            case "metadata", _:
                simulator.set_private_data_metadata("cc", collection, key, {"V": b"x"})
            case "purge", name if name:
                simulator.purge_private_data("cc", collection, key)
            case _, "":
                simulator.delete_state("cc", key)
            case _:
                simulator.delete_private_data("cc", collection, key)
        yield simulator


async def ledger_agrees(channel: Channel) -> bool:
    """Tell whether a query through an index finds what a plain look does."""
    executor = channel.ledger.new_query_executor()
    try:
        found = await keys(executor, {"selector": {"a": 1}})
        plain = [
            key
            for key in "klm"
            if (value := executor.get_state("cc", key)) is not None
            and isinstance(document := json.loads(value), dict)
            and document.get("a") == 1
        ]
        return found == plain
    finally:
        executor.done()


# The same documents in the same order, whatever the indexes

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 1.0, 2**53, float(2**53), 2**53 + 1, -(10**400), 1e308])
    | st.sampled_from(["", "a", "a\0", "a\0b", "b", "\ud800", "\U0001f600"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner),
    max_leaves=4,
)
FIELDS = st.sampled_from(["a", "b", "a.b", "b.0", "_id"])
DOCUMENTS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON, max_size=3), min_size=1, max_size=8
)
COMPARED = st.dictionaries(
    st.sampled_from(["$lt", "$lte", "$eq", "$gte", "$gt", "$ne"]), JSON, min_size=1, max_size=2
)
CONDITIONS = COMPARED | JSON | st.fixed_dictionaries({"$exists": st.booleans()})
SELECTORS = st.recursive(
    st.dictionaries(FIELDS, CONDITIONS, max_size=2),
    lambda inner: (
        st.fixed_dictionaries({"$not": inner})
        | st.tuples(st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, max_size=2)).map(
            lambda pair: {pair[0]: pair[1]}
        )
        | st.tuples(inner, inner).map(lambda pair: {**pair[0], "$and": [pair[1]]})
    ),
    max_leaves=3,
)


@given(JSON, JSON)
def test_encoded_values_compare_as_the_values_do(one: Any, other: Any) -> None:
    first, second = encoded(one), encoded(other)
    assert (first < second) == (collated(one) < collated(other))
    assert (first == second) == (collated(one) == collated(other))
    assert first == second or not second.startswith(first)


@settings(max_examples=40, deadline=None)
@given(
    DOCUMENTS,
    st.lists(
        st.tuples(SELECTORS, st.lists(FIELDS, max_size=2, unique=True), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.lists(FIELDS, min_size=1, max_size=2, unique=True), min_size=1, max_size=3),
)
def test_queries_find_the_same_in_the_same_order(
    documents: list[Any], asked: list[tuple[Any, list[str], bool]], fields: list[list[str]]
) -> None:
    queries = [
        {
            "selector": selector,
            "sort": [{name: "desc" if descending else "asc"} for name in sort],
        }
        for selector, sort, descending in asked
    ]

    async def run() -> None:
        with TemporaryDirectory() as directory:
            async with open_ledger(Path(directory), "ch") as ledger:
                channel = Channel(ledger)
                await channel.put(
                    **{f"k{i}": json.dumps(each).encode() for i, each in enumerate(documents)}
                )
                found = []
                for definitions in ([], [index(*each) for each in fields]):
                    await ledger.set_indexes("cc", {"": definitions})
                    executor = ledger.new_query_executor()
                    found.append([await keys(executor, query) for query in queries])
                    executor.done()
                assert found[0] == found[1]

    trio.run(run)


@given(SELECTORS, DOCUMENTS, st.booleans())
def test_what_matches_lies_within_reach(selector: Any, documents: Any, backwards: bool) -> None:
    compiled = parse_selector(selector)
    fields = tuple(sorted(compiled.present, reverse=backwards))
    definition = Index("", "", fields, None)
    _, bounds = definition.reach(compiled)
    for document in documents:
        known = {**document, "_id": "k"}
        if compiled.matches(known):
            position = definition.position(known)
            assert position is not None
            assert bounds.low <= position < bounds.high


def test_results_are_endorsed_the_same() -> None:
    """What a query reads is part of what is endorsed, so it must not depend on indexes."""

    async def endorsed(definitions: list[bytes]) -> SimulationResults:
        with TemporaryDirectory() as directory:
            async with open_ledger(Path(directory), "ch") as ledger:
                channel = Channel(ledger)
                await channel.put(**NUMBERED)
                await ledger.set_indexes("cc", {"": definitions})
                simulator = channel.simulate()
                results = await simulator.execute_query(
                    "cc", '{"selector":{"tens":{"$gt":3,"$lt":9},"odd":true}}'
                )
                assert len(await results.take(12)) == 12
                return simulator.get_tx_simulation_results()

    assert trio.run(endorsed, []) == trio.run(endorsed, [index("tens")])
