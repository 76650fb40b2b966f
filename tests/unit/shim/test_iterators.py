"""Iterators: pages on demand, closing, and failures that must not look like an end."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import shim
from fabric_protos import protos as p
from fabric_protos.stream import ChaincodeMessageType as T
from tests.unit.shim.scripted_peer import Calls, ScriptedPeer, play, transact
from tests.unit.shim.test_stub_wire import both_styles, kv, results

FIRST = results(kv("a", b"1"), kv("b", b"2"), more=True)
LAST = results(kv("c", b"3"))
CLOSE = bytes(p.QueryStateClose(id="it"))


def text_of(message: Any) -> str:
    return p.Response.parse(message.payload).message


@both_styles
def test_pages_are_fetched_on_demand_and_the_end_is_not_closed(style: Any) -> None:
    chaincode = style(lambda stub: stub.get_state_by_range("a", "z"))
    requests, _ = transact(chaincode, [FIRST, LAST])
    assert [request.type for request in requests] == [T.GET_STATE_BY_RANGE, T.QUERY_STATE_NEXT]
    assert requests[1].payload == bytes(p.QueryStateNext(id="it"))
    assert [record.key for record in chaincode.result] == ["a", "b", "c"]


@both_styles
def test_no_results(style: Any) -> None:
    chaincode = style(lambda stub: stub.get_state_by_range("a", "z"))
    transact(chaincode, [results()])
    assert chaincode.result == []


def test_a_context_manager_closes_an_early_exit() -> None:
    async def first_key(stub: shim.ChaincodeStub) -> str:
        async with stub.get_state_by_range("a", "z") as records:
            async for record in records:
                return record.key
        raise AssertionError

    chaincode = Calls(first_key)
    requests, _ = transact(chaincode, [FIRST, b""])
    assert (requests[1].type, requests[1].payload) == (T.QUERY_STATE_CLOSE, CLOSE)
    assert chaincode.result == "a"


def test_a_sync_context_manager_closes_an_early_exit() -> None:
    class Early(shim.Chaincode):
        def invoke(self, stub: shim.SyncChaincodeStub) -> str:
            with stub.get_state_by_range("a", "z") as records:
                key = next(records).key
            assert not records.has_next()
            records.close()
            return key

    requests, last = transact(Early(), [FIRST, b""])
    assert [request.type for request in requests] == [T.GET_STATE_BY_RANGE, T.QUERY_STATE_CLOSE]
    assert p.Response.parse(last.payload).payload == b"a"


@pytest.mark.parametrize("refused", [False, True])
def test_a_dropped_iterator_is_closed_before_the_next_request(refused: bool) -> None:
    async def drop(stub: shim.ChaincodeStub) -> bytes | None:
        async for _ in stub.get_state_by_range("a", "z"):
            break
        gc.collect()
        return await stub.get_state("k")

    chaincode = Calls(drop)
    close = "query iterator not found" if refused else b""
    requests, last = transact(chaincode, [FIRST, close, b"v"])
    assert [r.type for r in requests] == [T.GET_STATE_BY_RANGE, T.QUERY_STATE_CLOSE, T.GET_STATE]
    assert chaincode.result == b"v"
    assert p.Response.parse(last.payload).status == 200


def test_a_dropped_sync_iterator_is_closed_before_the_next_request() -> None:
    class Drop(shim.Chaincode):
        def invoke(self, stub: shim.SyncChaincodeStub) -> bytes | None:
            for _ in stub.get_state_by_range("a", "z"):
                break
            gc.collect()
            return stub.get_state("k")

    requests, _ = transact(Drop(), [FIRST, "gone", b"v"])
    assert [r.type for r in requests] == [T.GET_STATE_BY_RANGE, T.QUERY_STATE_CLOSE, T.GET_STATE]


def test_an_iterator_that_was_never_used_sends_nothing() -> None:
    async def unused(stub: shim.ChaincodeStub) -> None:
        async with stub.get_state_by_range("a", "z") as records:
            assert records
        async for record in records:
            raise AssertionError(record)

    requests, last = transact(Calls(unused), [])
    assert requests == []
    assert p.Response.parse(last.payload).status == 200


def test_await_opens_at_once() -> None:
    async def opened(stub: shim.ChaincodeStub) -> list[str]:
        records = await stub.get_state_by_range("a", "z")
        assert await stub.get_state("k") == b"v"
        return [record.key async for record in records]

    chaincode = Calls(opened)
    requests, _ = transact(chaincode, [LAST, b"v"])
    assert [request.type for request in requests] == [T.GET_STATE_BY_RANGE, T.GET_STATE]
    assert chaincode.result == ["c"]


@both_styles
def test_a_refused_query_raises(style: Any) -> None:
    _, last = transact(style(lambda stub: stub.get_query_result("{")), ["bad query"])
    assert text_of(last) == "bad query"


@both_styles
def test_a_promise_of_more_must_be_kept(style: Any) -> None:
    chaincode = style(lambda stub: stub.get_state_by_range("a", "z"))
    _, last = transact(chaincode, [results(more=True)])
    assert text_of(last) == "iterator it promised more and holds nothing"


def test_after_a_failed_page_the_iterator_does_not_end_quietly() -> None:
    async def insist(stub: shim.ChaincodeStub) -> str:
        records = stub.get_state_by_range("a", "z")
        assert [(await anext(records)).key for _ in range(2)] == ["a", "b"]
        with pytest.raises(shim.PeerError, match="database is gone"):
            await anext(records)
        with pytest.raises(shim.PeerError, match="cannot continue"):
            await records.has_next()
        return "seen"

    chaincode = Calls(insist)
    transact(chaincode, [FIRST, "database is gone"])
    assert chaincode.result == "seen"


def test_a_cancelled_page_is_not_skipped() -> None:
    cancelled = asyncio.Event()

    async def impatient(stub: shim.ChaincodeStub) -> str:
        records = await stub.get_state_by_range("a", "z")
        await anext(records), await anext(records)
        waiter = asyncio.create_task(records.has_next())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        cancelled.set()
        with pytest.raises(shim.PeerError, match="cannot continue"):
            await anext(records)
        await records.close()
        return "refused"

    chaincode = Calls(impatient)

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        peer.answer(await peer.receive(), FIRST)
        following = await peer.receive()
        await cancelled.wait()
        peer.answer(following, LAST)
        close = await peer.receive()
        assert (close.type, close.payload) == (T.QUERY_STATE_CLOSE, CLOSE)
        peer.answer(close)
        assert p.Response.parse((await peer.receive()).payload).status == 200

    play(chaincode, script)
    assert chaincode.result == "refused"


@both_styles
def test_a_page_the_peer_cuts_is_completed(style: Any) -> None:
    """Private data: Fabric takes the page size for the first message only."""
    chaincode = style(lambda stub: stub.get_state_by_range_with_pagination("a", "z", 200))
    requests, _ = transact(chaincode, [FIRST, LAST])
    assert requests[1].type == T.QUERY_STATE_NEXT
    assert [record.key for record in chaincode.result] == ["a", "b", "c"]
