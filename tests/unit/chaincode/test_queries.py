"""Ranges, rich queries and history: batches, pages, limits, and what is closed when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import pytest
import trio

from fabric_protos.stream import (
    ChaincodeMessage,
    GetHistoryForKey,
    GetQueryResult,
    GetStateByRange,
    KeyModification,
    Kv,
    PutState,
    QueryMetadata,
    QueryResponse,
    QueryResponseMetadata,
    QueryResultBytes,
    QueryStateClose,
    QueryStateNext,
)
from peer.chaincode import requests
from peer.chaincode.handler import Handler
from peer.errors import ExecuteTimeout
from peer.ledger.api import KV, Ledger, TxSimulator
from tests.fakes.ledger import ListResults
from tests.fakes.stream import FakeChaincode, Type

from .conftest import NS, Bench, Collections, Execution, Executor, commit, params, put


def keys(count: int) -> list[str]:
    return [f"k{number:04}" for number in range(count)]


def records(count: int) -> list[KV]:
    return [KV(NS, key, key.encode()) for key in keys(count)]


class Queries:
    """A transaction that queries."""

    def __init__(
        self,
        handler: Handler,
        chaincode: FakeChaincode,
        execution: Execution,
        simulator: TxSimulator,
    ) -> None:
        self.chaincode = chaincode
        self.execution = execution
        self.simulator = simulator
        self._handler = handler

    @property
    def open(self) -> int:
        """Number of queries the peer holds open."""
        context = self._handler._contexts.get("ch1", "tx1")
        assert context is not None
        return len(context.iterators)

    async def ask(self, kind: int, payload: bytes) -> QueryResponse:
        answer = await self.chaincode.ask(kind, payload)
        assert answer.type == Type.RESPONSE, answer.payload
        return QueryResponse.decode(answer.payload)

    async def range(
        self,
        start: str = "",
        end: str = "",
        *,
        page: int = 0,
        bookmark: str = "",
        collection: str = "",
    ) -> QueryResponse:
        metadata = QueryMetadata(page_size=page, bookmark=bookmark).encode()
        request = GetStateByRange(
            start_key=start, end_key=end, collection=collection, metadata=metadata
        )
        return await self.ask(Type.GET_STATE_BY_RANGE, request.encode())

    async def rich(
        self, query: str = "{}", *, page: int = 0, bookmark: str = "", collection: str = ""
    ) -> QueryResponse:
        metadata = QueryMetadata(page_size=page, bookmark=bookmark).encode()
        request = GetQueryResult(query=query, collection=collection, metadata=metadata)
        return await self.ask(Type.GET_QUERY_RESULT, request.encode())

    async def next(self, query: QueryResponse) -> QueryResponse:
        return await self.ask(Type.QUERY_STATE_NEXT, QueryStateNext(id=query.id).encode())

    async def next_error(self, query: QueryResponse) -> str:
        request = QueryStateNext(id=query.id).encode()
        answer = await self.chaincode.ask(Type.QUERY_STATE_NEXT, request)
        assert answer.type == Type.ERROR
        return answer.payload.decode().removeprefix(
            "QUERY_STATE_NEXT failed: transaction ID: tx1: "
        )

    async def close(self, query: QueryResponse) -> None:
        request = QueryStateClose(id=query.id).encode()
        assert await self.ask(Type.QUERY_STATE_CLOSE, request) == QueryResponse(id=query.id)

    async def drain(self, batch: QueryResponse) -> list[int]:
        """Follow a query to its end and return the sizes of its batches."""
        found, sizes = list(kvs(batch)), [len(batch.results)]
        while batch.has_more:
            batch = await self.next(batch)
            assert batch.results, "after has_more there must be something"
            found += kvs(batch)
            sizes.append(len(batch.results))
        assert [item.key for item in found] == keys(len(found))
        return sizes


def kvs(batch: QueryResponse) -> list[Kv]:
    return [Kv.decode(result.result_bytes) for result in batch.results]


@pytest.fixture
async def stored(request: pytest.FixtureRequest, ledger: Ledger) -> int:
    """Put as many records as the test names; classes below put others."""
    count: int = getattr(request, "param", 0)
    if count:
        await put(ledger, {key: key.encode() for key in keys(count)})
    return count


@pytest.fixture
async def queries(
    bench: Bench, execute: Executor, ledger: Ledger, collections: Collections, stored: int
) -> AsyncIterator[Queries]:
    """A transaction on what is stored."""
    handler, chaincode = await bench.ready()
    simulator = ledger.new_tx_simulator("tx1")
    history = ledger.new_history_query_executor()
    execution = execute(
        handler, params(simulator=simulator, history=history, collections=collections)
    )
    await chaincode.receive(Type.TRANSACTION)
    yield Queries(handler, chaincode, execution, simulator)
    simulator.done()


def batches(count: int) -> list[int]:
    """Hundreds, then the rest; a query without results answers with one empty batch."""
    return [100] * ((count - 1) // 100) + [(count - 1) % 100 + 1] if count else [0]


@pytest.mark.parametrize("size", [1, 0x74, 0x75, 0x7F, 0x80, 0x3FF0, 0x4000])
def test_records_are_encoded_as_any_message_is(size: int) -> None:
    found = [KV(NS, "é", b"v" * size), KV(NS, "k" * size, b"v")]
    results = [
        QueryResultBytes(result_bytes=Kv(namespace=name, key=key, value=value).encode())
        for name, key, value in found
    ]
    assert requests.key_values(found) == QueryResponse(results=results).encode()
    assert requests.key_values([]) == b""


@pytest.mark.parametrize("stored", [0, 1, 99, 100, 101, 200, 201], indirect=True)
async def test_results_come_in_hundreds_and_more_is_never_a_promise(
    stored: int, queries: Queries
) -> None:
    first = await queries.range()
    assert first.has_more == (stored > 100)
    assert first.id
    assert await queries.drain(first) == batches(stored)
    assert queries.open == 0
    assert await queries.next_error(first) == "query iterator not found"
    await queries.close(first)


class TestOddRecords:
    """Sizes at which lengths take another byte."""

    found: ClassVar = [
        Kv(namespace=NS, key=key, value=b"v" * size)
        for key, size in (
            ("a", 1),
            ("b" * 127, 127),
            ("c" * 128, 128),
            ("d", 20_000),
            ("\u20ac", 9),
        )
    ]

    @pytest.fixture
    async def stored(self, ledger: Ledger) -> int:
        await put(ledger, {kv.key: kv.value for kv in self.found})
        return len(self.found)

    async def test_records_have_the_bytes_of_their_messages(self, queries: Queries) -> None:
        answer = await queries.chaincode.ask(Type.GET_STATE_BY_RANGE, b"")
        results = [QueryResultBytes(result_bytes=kv.encode()) for kv in self.found]
        unique = QueryResponse.decode(answer.payload).id
        assert answer.payload == QueryResponse(results=results, id=unique).encode()


@pytest.mark.parametrize("limit", [1, 99, 100, 101, 150, 200])
async def test_the_total_limit_ends_a_query_without_a_sign(
    bench: Bench, execute: Executor, ledger: Ledger, limit: int
) -> None:
    await put(ledger, {key: key.encode() for key in keys(201)})
    bench.limit = limit
    handler, chaincode = await bench.ready()
    simulator = ledger.new_tx_simulator("tx1")
    execution = execute(handler, params(simulator=simulator))
    await chaincode.receive(Type.TRANSACTION)
    queries = Queries(handler, chaincode, execution, simulator)
    assert await queries.drain(await queries.range()) == batches(limit)
    assert queries.open == 0
    simulator.done()


class TestOnTwoHundredRecords:
    """More than one batch, on a state that does not change."""

    @pytest.fixture
    async def stored(self, ledger: Ledger) -> None:
        await put(ledger, {key: key.encode() for key in keys(201)})

    async def test_bounds(self, queries: Queries) -> None:
        found = kvs(await queries.range("k0003", "k0006"))
        assert [(item.namespace, item.key, item.value) for item in found] == [
            (NS, f"k000{number}", f"k000{number}".encode()) for number in (3, 4, 5)
        ]

    async def test_closing_early_and_twice(self, queries: Queries) -> None:
        first = await queries.range()
        assert queries.open == 1
        await queries.close(first)
        assert queries.open == 0
        await queries.close(first)
        assert await queries.next_error(first) == "query iterator not found"

    async def test_queries_do_not_disturb_each_other(self, queries: Queries) -> None:
        one, two = await queries.range(), await queries.range()
        assert one.id != two.id
        assert queries.open == 2
        assert await queries.drain(one) == [100, 100, 1]
        assert await queries.drain(two) == [100, 100, 1]

    @pytest.mark.parametrize(("size", "bookmark"), [(1, "k0001"), (100, "k0100"), (101, "k0101")])
    async def test_a_page_is_one_message(self, queries: Queries, size: int, bookmark: str) -> None:
        page = await queries.range(page=size)
        assert [item.key for item in kvs(page)] == keys(size)
        assert not page.has_more
        assert page.id
        assert queries.open == 0
        assert QueryResponseMetadata.decode(page.metadata) == QueryResponseMetadata(
            fetched_records_count=size, bookmark=bookmark
        )
        await queries.close(page)

    async def test_pages_follow_each_other_by_bookmark(self, queries: Queries) -> None:
        sizes, bookmark, found = [], "", []
        while True:
            page = await queries.range("k0000", "k0180", page=80, bookmark=bookmark)
            metadata = QueryResponseMetadata.decode(page.metadata)
            found += [item.key for item in kvs(page)]
            sizes.append(metadata.fetched_records_count)
            bookmark = metadata.bookmark
            if not bookmark:
                break
        assert sizes == [80, 80, 20]
        assert found == keys(180)

    async def test_a_bookmark_alone_makes_a_page_of_everything(self, queries: Queries) -> None:
        page = await queries.range(bookmark="k0050")
        assert len(page.results) == 151
        assert not page.has_more
        assert QueryResponseMetadata.decode(page.metadata).fetched_records_count == 151

    async def test_a_bookmark_can_be_used_again(self, queries: Queries) -> None:
        pages = [await queries.range(page=3, bookmark="k0007") for _ in range(2)]
        assert kvs(pages[0]) == kvs(pages[1])

    async def test_page_size_zero_is_no_page(self, queries: Queries) -> None:
        first = await queries.range(page=0)
        assert first.has_more
        assert first.metadata == b""

    @pytest.mark.parametrize("size", [-1, 500])
    async def test_the_total_limit_holds_for_pages_too(
        self, bench: Bench, execute: Executor, ledger: Ledger, stored: None, size: int
    ) -> None:
        bench.limit = 120
        handler, chaincode = await bench.ready()
        simulator = ledger.new_tx_simulator("tx1")
        execution = execute(handler, params(simulator=simulator))
        await chaincode.receive(Type.TRANSACTION)
        page = await Queries(handler, chaincode, execution, simulator).range(page=size)
        assert len(page.results) == 120
        assert QueryResponseMetadata.decode(page.metadata).bookmark == "k0120"
        simulator.done()

    async def test_writing_and_paging_exclude_each_other(self, queries: Queries) -> None:
        await queries.range(page=1)
        write = PutState(key="a", value=b"1").encode()
        answer = await queries.chaincode.ask(Type.PUT_STATE, write)
        assert answer.type == Type.ERROR
        assert b"has already performed a paginated query. Writes are not allowed" in answer.payload

    async def test_paging_after_writing(self, queries: Queries) -> None:
        write = PutState(key="a", value=b"1").encode()
        assert (await queries.chaincode.ask(Type.PUT_STATE, write)).type == Type.RESPONSE
        page = GetStateByRange(metadata=QueryMetadata(page_size=1).encode()).encode()
        answer = await queries.chaincode.ask(Type.GET_STATE_BY_RANGE, page)
        assert answer.type == Type.ERROR
        assert b"Paginated queries are supported only in a read-only" in answer.payload

    async def test_open_queries_end_with_their_transaction(
        self, queries: Queries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        results = ListResults(records(300))
        monkeypatch.setattr(queries.simulator, "get_state_range", lambda *_: results)
        assert (await queries.range()).has_more
        assert not results.is_closed
        queries.chaincode.complete()
        assert isinstance(await queries.execution.result(), ChaincodeMessage)
        assert results.is_closed


async def test_a_query_that_fails_later_is_closed(
    queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ListResults(records(300), fails_at=150)
    monkeypatch.setattr(queries.simulator, "get_state_range", lambda *_: results)
    first = await queries.range()
    assert await queries.next_error(first) == "the database went away"
    assert results.is_closed
    assert queries.open == 0
    assert await queries.next_error(first) == "query iterator not found"


@pytest.mark.parametrize("page", [0, 10])
async def test_a_query_that_fails_at_once_is_closed(
    queries: Queries, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    results = ListResults([], fails_at=0)
    monkeypatch.setattr(queries.simulator, "get_state_range", lambda *_: results)
    monkeypatch.setattr(queries.simulator, "get_state_range_page", lambda *_: results)
    request = GetStateByRange(metadata=QueryMetadata(page_size=page).encode())
    answer = await queries.chaincode.ask(Type.GET_STATE_BY_RANGE, request.encode())
    assert answer.payload.endswith(b": the database went away")
    assert results.is_closed
    assert queries.open == 0


async def test_a_query_cut_off_by_the_limit_is_closed(
    bench: Bench,
    execute: Executor,
    ledger: Ledger,
    autojump_clock: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler, chaincode = await bench.ready()
    simulator = ledger.new_tx_simulator("tx1")
    results = ListResults([], hangs=True)
    monkeypatch.setattr(simulator, "get_state_range", lambda *_: results)
    execution = execute(handler, params(simulator=simulator), limit_s=3.0)
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(Type.GET_STATE_BY_RANGE, tx="tx1", channel="ch1")
    assert isinstance(await execution.error(), ExecuteTimeout)
    assert results.is_closed
    await chaincode.receive(Type.ERROR)
    simulator.done()


async def test_metadata_that_is_no_protobuf(queries: Queries) -> None:
    request = GetStateByRange(metadata=b"\xff").encode()
    answer = await queries.chaincode.ask(Type.GET_STATE_BY_RANGE, request)
    assert answer.type == Type.ERROR
    assert queries.open == 0


class TestPrivate:
    """Private queries do not paginate."""

    @pytest.fixture
    async def stored(self, ledger: Ledger) -> None:
        simulator = ledger.new_tx_simulator("setup")
        for key in keys(201):
            simulator.set_private_data(NS, "secrets", key, key.encode())
        await commit(ledger, simulator)

    @pytest.mark.parametrize(
        ("page", "sizes"),
        [(0, [100, 100, 1]), (1, [1]), (100, [100]), (101, [100, 100, 1]), (-5, [100, 100, 1])],
    )
    async def test_a_small_page_size_cuts_the_first_message(
        self, queries: Queries, page: int, sizes: list[int]
    ) -> None:
        first = await queries.range(page=page, collection="secrets")
        assert first.metadata == b""
        assert await queries.drain(first) == sizes
        assert queries.open == 0

    async def test_a_bookmark_is_ignored(self, queries: Queries) -> None:
        first = await queries.range(bookmark="k0100", collection="secrets")
        assert await queries.drain(first) == [100, 100, 1]

    async def test_writes_are_refused_afterwards(self, queries: Queries) -> None:
        await queries.range(collection="secrets")
        write = PutState(key="a", value=b"1").encode()
        answer = await queries.chaincode.ask(Type.PUT_STATE, write)
        assert b"queries on pvt data. Writes are not allowed" in answer.payload


class TestRich:
    """Rich queries, on a state database that knows them."""

    @pytest.fixture
    async def asked(
        self, queries: Queries, monkeypatch: pytest.MonkeyPatch
    ) -> list[tuple[object, ...]]:
        asked: list[tuple[object, ...]] = []

        async def execute_query(
            namespace: str, query: str, *, bookmark: str = "", page_size: int = 0
        ) -> ListResults:
            await trio.lowlevel.checkpoint()
            asked.append((namespace, query, bookmark, page_size))
            return ListResults(records(201))

        async def on_private_data(namespace: str, collection: str, query: str) -> ListResults:
            await trio.lowlevel.checkpoint()
            asked.append((namespace, collection, query))
            return ListResults(records(201))

        monkeypatch.setattr(queries.simulator, "execute_query", execute_query)
        monkeypatch.setattr(queries.simulator, "execute_query_on_private_data", on_private_data)
        return asked

    async def test_batches(self, queries: Queries, asked: list[object]) -> None:
        assert await queries.drain(await queries.rich("q")) == [100, 100, 1]
        assert asked == [(NS, "q", "", 0)]

    async def test_pages(self, queries: Queries, asked: list[object]) -> None:
        page = await queries.rich("q", page=150, bookmark="opaque")
        assert [item.key for item in kvs(page)] == keys(150)
        assert QueryResponseMetadata.decode(page.metadata) == QueryResponseMetadata(
            fetched_records_count=150, bookmark="k0150"
        )
        assert asked == [(NS, "q", "opaque", 150)]

    async def test_private(self, queries: Queries, asked: list[object]) -> None:
        assert await queries.drain(await queries.rich("q", collection="secrets")) == [100, 100, 1]
        assert len((await queries.rich("q", collection="secrets", page=7)).results) == 7
        assert asked == [(NS, "secrets", "q")] * 2


async def test_history_is_newest_first_with_whole_timestamps(
    bench: Bench, execute: Executor, ledger: Ledger
) -> None:
    for number in (1, 2):
        simulator = ledger.new_tx_simulator(f"t{number}")
        simulator.set_state(NS, "k", str(number).encode())
        await commit(ledger, simulator, f"t{number}", seconds=number)
    simulator = ledger.new_tx_simulator("t3")
    simulator.delete_state(NS, "k")
    await commit(ledger, simulator, "t3", seconds=3)
    handler, chaincode = await bench.ready()
    execute(handler, params(history=ledger.new_history_query_executor()))
    await chaincode.receive(Type.TRANSACTION)
    answer = await chaincode.ask(Type.GET_HISTORY_FOR_KEY, GetHistoryForKey(key="k").encode())
    batch = QueryResponse.decode(answer.payload)
    assert not batch.has_more
    found = [KeyModification.decode(result.result_bytes) for result in batch.results]
    assert [(m.tx_id, m.value, m.is_delete) for m in found] == [
        ("t3", b"", True),
        ("t2", b"2", False),
        ("t1", b"1", False),
    ]
    assert [(m.timestamp.seconds, m.timestamp.nanos) for m in found if m.timestamp] == [
        (3, 5),
        (2, 5),
        (1, 5),
    ]


async def test_what_is_left_over_of_a_batch_is_taken_only_once(
    queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every record taken counts as read: no more may be taken than the rules name."""
    results = ListResults(records(250))
    monkeypatch.setattr(queries.simulator, "get_state_range", lambda *_: results)
    assert await queries.drain(await queries.range()) == [100, 100, 50]
    assert results.taken == [101, 100, 100]
