"""Rich queries on a real ledger: results, order, pages, what is recorded and what is refused."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric_protos.kvrwset import KvrwSet
from fabric_protos.kvrwset import Version as VersionMessage
from peer.errors import LedgerError, QueryError
from peer.ledger import open_ledger
from peer.ledger.api import (
    KV,
    SimulationResults,
    Timestamp,
    TxSimulator,
    ValidationCode,
    Version,
)
from peer.ledger.collation import collated
from peer.ledger.queries import QueryResults, parse_query
from peer.ledger.snapshot import DocumentRow
from tests.unordered import CommittingTransaction, commit_unordered

PublicSet = Callable[[TxSimulator], KvrwSet]
TOMOKO = {"selector": {"owner": "Tomoko"}}
MARBLES = {
    "m1": b'{"owner":"Tomoko","size":5}',
    "m2": b'{ "owner" : "Brad", "size" : 50.0 }',
    "m3": b'{"size":1,"owner":"Tomoko"}',
    "m4": b'{"owner":"T\\u006fmoko","size":3}',
    "m5": b'{"owner":"Tomoko"}',
    "x1": b"no JSON, but Tomoko",
    "x2": b'["Tomoko"]',
    "x3": b'"Tomoko"',
    "x4": b'\xff{"owner":"Tomoko"}',
    "x5": b'{"owner":"Tomoko","size":NaN}',
    "x6": b'\xef\xbb\xbf{"owner":"Tomoko"}',
    "x7": '{"owner":"Tomoko"}'.encode("utf-16"),
    "m6": b'{"owner":"Tomoko","deep":' + b"[" * 199 + b"]" * 199 + b"}",
    "x9": b'{"owner":"Tomoko","deep":' + b"[" * 200 + b"]" * 200 + b"}",
    "x8": b'{"owner":"Tomoko","deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


async def keys(source: Any, query: Any, **page: Any) -> list[str]:
    results = await source.execute_query("cc", json.dumps(query), **page)
    return [record.key for record in await results.take(10_000)]


async def test_objects_are_found_in_the_order_of_keys_and_given_as_stored(channel: Any) -> None:
    await channel.put(**MARBLES)
    executor = channel.ledger.new_query_executor()
    results = await executor.execute_query("cc", json.dumps(TOMOKO))
    assert await results.take(99) == [
        KV("cc", key, MARBLES[key]) for key in ("m1", "m3", "m4", "m5", "m6")
    ]
    assert await results.take(99) == []
    assert await keys(executor, {"selector": {}}) == ["m1", "m2", "m3", "m4", "m5", "m6"]
    assert await keys(executor, {"selector": {"deep": {"$ne": [[]]}}}) == ["m6"]
    assert await keys(executor, {"selector": {"size": 50}}) == ["m2"]
    assert await keys(executor, {"selector": {"_id": {"$gte": "m2", "$lt": "m4"}}}) == ["m2", "m3"]
    assert await executor.execute_query("elsewhere", '{"selector":{}}')
    executor.done()


async def test_sorted_results_hold_every_field_of_the_sort(channel: Any) -> None:
    await channel.put(
        a=b'{"n":2,"s":"y"}',
        b=b'{"n":1}',
        c=b'{"n":"1","s":"x"}',
        d=b'{"n":2,"s":"x"}',
        e=b'{"s":"x"}',
        f=b'{"n":null,"s":[]}',
        g=b'{"n":2.0,"s":"x"}',
    )
    executor = channel.ledger.new_query_executor()

    async def found(*sort: Any, **more: Any) -> str:
        return "".join(await keys(executor, {"selector": {}, "sort": sort, **more}))

    assert await found("n") == "fbadgc"
    assert await found({"n": "desc"}) == "cgdabf"
    assert await found("n", {"s": "asc"}) == "fdgac"
    assert await found({"n": "desc"}, {"s": "desc"}) == "cagdf"
    assert await found({"_id": "desc"}) == "gfedcba"
    assert await found("n", skip=2) == "adgc"
    assert await found("missing") == ""
    assert await found() == "abcdefg"
    executor.done()


async def test_fields_cut_the_value_and_the_key_is_no_field(channel: Any) -> None:
    await channel.put(m=b'{"z":1.0,"a":{"c":2,"b":3},"_id":"forged"}')
    executor = channel.ledger.new_query_executor()

    async def value(fields: Any, selector: Any) -> bytes:
        query = json.dumps({"selector": selector, "fields": fields})
        (record,) = await (await executor.execute_query("cc", query)).take(9)
        return bytes(record.value)

    assert await value(["z", "a.b", "none"], {"_id": "m"}) == b'{"a":{"b":3},"z":1.0}'
    assert await value([], {"z": 1}) == b"{}"
    executor.done()


async def test_limit_is_ignored_and_skip_is_not(channel: Any) -> None:
    await channel.put(**{f"k{i}": b"{}" for i in range(5)})
    executor = channel.ledger.new_query_executor()
    query = {"selector": {}, "limit": 1, "use_index": ["_design/a", "b"]}
    assert len(await keys(executor, query)) == 5
    results = await executor.execute_query("cc", json.dumps({"selector": {}, "skip": 3}))
    assert [record.key for record in await results.take(1)] == ["k3"]
    assert [record.key for record in await results.take(9)] == ["k4"]
    assert await keys(executor, {"selector": {}, "skip": 9}) == []
    executor.done()


@pytest.mark.parametrize("sort", [[], ["n"], [{"n": "desc"}], ["n", "s"]], ids=str)
async def test_pages_joined_are_the_whole(channel: Any, sort: list[Any]) -> None:
    await channel.put(
        **{f"k{i:03}": json.dumps({"n": i % 7, "s": i % 2}).encode() for i in range(500)}
    )
    executor = channel.ledger.new_query_executor()
    query = {"selector": {"n": {"$gt": 1}}, "sort": sort, "skip": 3}
    whole = await keys(executor, query)
    assert len(whole) > 300
    pages: list[str] = []
    bookmark = ""
    while len(pages) < len(whole):
        results = await executor.execute_query(
            "cc", json.dumps(query), bookmark=bookmark, page_size=50
        )
        pages += [record.key for record in await results.take(50)]
        bookmark = results.bookmark()
    assert pages == whole
    # The last page has a bookmark, too: of an empty page, which keeps it.
    results = await executor.execute_query("cc", json.dumps(query), bookmark=bookmark)
    assert (await results.take(50), results.bookmark()) == ([], bookmark)
    assert await keys(executor, {**query, "bookmark": bookmark}) == []
    assert await keys(executor, {**query, "bookmark": "nil"}) == whole
    executor.done()


async def test_no_results_have_no_bookmark(channel: Any) -> None:
    executor = channel.ledger.new_query_executor()
    results = await executor.execute_query("cc", '{"selector":{}}', page_size=5)
    assert (await results.take(5), results.bookmark()) == ([], "nil")
    results.close()
    executor.done()


async def test_only_what_is_taken_is_recorded_and_no_phantoms(
    channel: Any, public_set: PublicSet
) -> None:
    await channel.put(a=b'{"n":1}', b=b'{"n":2}')
    await channel.put(c=b'{"n":1}', d=b'{"n":1}')
    simulator = channel.simulate()
    results = await simulator.execute_query("cc", '{"selector":{"n":1},"fields":["n"]}')
    assert [record.key for record in await results.take(2)] == ["a", "c"]
    simulator.set_state("cc", "e", b"{}")
    rwset = public_set(simulator)
    read = [(each.key, each.version) for each in rwset.reads]
    assert read == [("a", VersionMessage()), ("c", VersionMessage(block_num=1))]
    assert rwset.range_queries_info == []


@pytest.mark.parametrize("query", ['{"selector":{"n":1}}', '{"selector":{"n":1},"sort":["n"]}'])
async def test_a_returned_key_that_changes_is_a_conflict_and_a_phantom_is_not(
    channel: Any, query: str
) -> None:
    await channel.put(a=b'{"n":1}', b=b'{"n":2}')

    async def simulated() -> TxSimulator:
        simulator: TxSimulator = channel.simulate()
        results = await simulator.execute_query("cc", query)
        assert [record.key for record in await results.take(9)] == ["a"]
        simulator.set_state("cc", "sum", b"1")
        return simulator

    stale, undisturbed = await simulated(), await simulated()
    await channel.put(b=b'{"n":1}', c=b'{"n":1}')  # both would be found now
    assert await channel.commit(undisturbed) == [ValidationCode.VALID]
    await channel.put(a=b'{"n":1}')  # the same value, but another version
    assert await channel.commit(stale) == [ValidationCode.MVCC_READ_CONFLICT]


async def test_queries_see_the_snapshot_and_none_of_the_writes(channel: Any) -> None:
    await channel.put(a=b'{"n":1}')
    simulator = channel.simulate()
    simulator.set_state("cc", "b", b'{"n":1}')
    simulator.delete_state("cc", "a")
    results = await simulator.execute_query("cc", '{"selector":{"n":1}}')
    await channel.put(c=b'{"n":1}')
    assert [record.key for record in await results.take(9)] == ["a"]
    simulator.get_tx_simulation_results()
    with pytest.raises(LedgerError, match="after calling Done"):
        await (await simulator.execute_query("cc", '{"selector":{}}')).take(1)


async def test_pages_forbid_writes(channel: Any) -> None:
    for page in ({"page_size": 1}, {"bookmark": "nil"}):
        simulator = channel.simulate()
        await simulator.execute_query("cc", '{"selector":{}}', **page)
        with pytest.raises(LedgerError, match="performed a paginated query"):
            simulator.set_state("cc", "k", b"v")
        simulator.done()


async def test_private_values_are_found_in_their_collection_and_not_recorded(channel: Any) -> None:
    simulator = channel.simulate()
    simulator.set_private_data("cc", "secrets", "p", b'{"n":1}')
    simulator.set_private_data("cc", "others", "q", b'{"n":1}')
    simulator.set_state("cc", "r", b'{"n":1}')
    await channel.commit(simulator)
    simulator = channel.simulate()
    query = '{"selector":{"n":1}}'
    results = await simulator.execute_query_on_private_data("cc", "secrets", query)
    assert await results.take(9) == [KV("cc", "p", b'{"n":1}')]
    with pytest.raises(LedgerError, match="performed queries on pvt data"):
        simulator.set_state("cc", "k", b"v")
    expected = SimulationResults(public=b"", private_reads=frozenset({("cc", "secrets")}))
    assert simulator.get_tx_simulation_results() == expected

    executor = channel.ledger.new_query_executor()
    with pytest.raises(LedgerError, match="not defined in the collection config"):
        await executor.execute_query_on_private_data("cc", "nope", query)
    with pytest.raises(QueryError, match="selector is missing"):
        await executor.execute_query_on_private_data("cc", "secrets", "{}")
    executor.done()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "query is no JSON object of at most 200 levels"),
        ("[]", "query is no JSON object of at most 200 levels"),
        ('{"selector":NaN}', "query is no JSON object of at most 200 levels"),
        ("{}", "selector is missing"),
        ('{"selector":[]}', "selector must be an object"),
        ('{"selector":{},"conflicts":true}', "conflicts is no part of a query"),
        ('{"selector":{},"fields":"a"}', "fields definition must be an array"),
        ('{"selector":{},"fields":[1]}', "fields.0 must be a string"),
        ('{"selector":{},"fields":["a",""]}', "fields.1 '' is no name of a field"),
        ('{"selector":{},"sort":"a"}', "sort must be an array"),
        ('{"selector":{},"sort":[1]}', "sort.0 must be a field, or an object of a field and a"),
        ('{"selector":{},"sort":[{"a":"up"}]}', "sort.0.a must be asc or desc"),
        ('{"selector":{},"sort":[{"a":["asc"]}]}', "sort.0.a must be asc or desc"),
        ('{"selector":{},"sort":["a",{"b":"desc"}]}', "sort must have one direction for all"),
        ('{"selector":{},"skip":-1}', "skip must be a whole number from 0 on"),
        ('{"selector":{},"skip":true}', "skip must be a whole number from 0 on"),
        ('{"selector":{},"bookmark":5}', "bookmark must be a string"),
        ('{"selector":{},"bookmark":"?"}', "bookmark is none that this query gave"),
        ('{"selector":{},"bookmark":"\\ud800"}', "bookmark is none that this query gave"),
        ('{"selector":{},"bookmark":"W10="}', "bookmark is none that this query gave"),
        ('{"selector":{},"sort":["a"],"bookmark":"WyJhIl0="}', "bookmark is none that this query"),
        ('{"selector":{},"bookmark":"WyJhIiwgWzFdXQ=="}', "bookmark is none that this query"),
    ],
)
async def test_malformed_queries_are_refused_with_the_place(
    channel: Any, query: str, text: str
) -> None:
    simulator = channel.simulate()
    with pytest.raises(QueryError) as caught:
        await simulator.execute_query("cc", query)
    assert str(caught.value).startswith(f"rich query: {text}")
    simulator.done()


@pytest.mark.parametrize("query", ['{"selector":{"n":-1}}', '{"selector":{},"sort":["n"]}'])
async def test_a_long_search_gives_way_and_a_cancelled_one_took_nothing(
    channel: Any, query: str
) -> None:
    await channel.put(**{f"k{i:05}": b'{"n":%d}' % i for i in range(3_000)})
    executor = channel.ledger.new_query_executor()
    results = await executor.execute_query("cc", query)

    async def cancel_at_third_turn(scope: trio.CancelScope) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_at_third_turn, scope)
            await results.take(3_000)
    assert scope.cancelled_caught
    everything = 0 if "-1" in query else 3_000
    assert len(await results.take(4_000)) == everything
    executor.done()


TEXTS = st.text(st.sampled_from('aé"\\/\n\x7f\U0001f600\ud800\0') | st.characters(), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_sqlite_rules_out_nothing_that_matches_however_it_was_written(texts: list[str]) -> None:
    written: dict[str, tuple[str, bytes]] = {}
    for number, text in enumerate(texts):
        pure = json.dumps({"x": text})
        forms = [pure, pure.replace("/", r"\/")]
        if "\\" not in pure:
            forms.append(pure.replace("a", r"\u0061"))
        if text.isprintable():
            forms.append(json.dumps({"x": text}, ensure_ascii=False))
        for form, value in enumerate(forms):
            written[f"k{number}-{form}"] = (text, value.encode())

    async def search() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with open_ledger(Path(directory), "ch") as ledger:
                simulator = ledger.new_tx_simulator("tx")
                for key, (_, value) in written.items():
                    simulator.set_state("cc", key, value)
                results = simulator.get_tx_simulation_results()
                transaction = CommittingTransaction(
                    tx_id="tx", timestamp=Timestamp(1), results=results
                )
                await commit_unordered(ledger, [transaction])
                executor = ledger.new_query_executor()
                for text in texts:
                    found = await keys(executor, {"selector": {"x": text}})
                    assert found == sorted(
                        key for key, (each, _) in written.items() if each == text
                    )
                executor.done()

    trio.run(search)


class OfMemory:
    """What `Snapshot.scan_documents` promises, over a dictionary."""

    def __init__(self, documents: Sequence[dict[str, Any]]) -> None:
        self._values = {
            f"k{i:02}".encode(): json.dumps(each).encode() for i, each in enumerate(documents)
        }

    def __call__(self, start: bytes, literal: str, limit: int) -> list[DocumentRow]:
        found = [key for key in sorted(self._values) if key >= start]
        return [DocumentRow(key, self._values[key], 0, 0) for key in found[:limit]]


NUMBERS = st.lists(
    st.fixed_dictionaries({}, optional={"a": st.integers(0, 3), "b": st.sampled_from(["", "x"])}),
    max_size=12,
)


@settings(max_examples=60)
@given(
    NUMBERS,
    st.sampled_from([[], ["a"], ["b", "a"]]),
    st.booleans(),
    st.integers(0, 3),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_order_skip_and_pages_agree_with_a_plain_sort(
    documents: list[dict[str, Any]], sort: list[str], descending: bool, skip: int, sizes: list[int]
) -> None:
    entries: list[Any] = [{name: "desc"} for name in sort] if descending else sort
    query = parse_query(json.dumps({"selector": {}, "sort": entries, "skip": skip}))
    ranked = [
        ([collated(each[name]) for name in sort], f"k{i:02}")
        for i, each in enumerate(documents)
        if all(name in each for name in sort)
    ]
    expected = [key for _, key in sorted(ranked, reverse=descending and bool(sort))][skip:]

    async def found() -> list[str]:
        taken: list[str] = []
        noted: list[tuple[str, Version]] = []
        bookmark = ""
        for size in [*sizes, 99]:
            results = QueryResults(
                "cc",
                query,
                OfMemory(documents),
                bookmark=bookmark,
                record=lambda key, version: noted.append((key, version)),
            )
            taken += [record.key for record in await results.take(size)]
            bookmark = results.bookmark()
        assert noted == [(key, Version(0, 0)) for key in taken]
        return taken

    assert trio.run(found) == expected
