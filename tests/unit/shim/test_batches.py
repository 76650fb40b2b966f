"""Write batches: what is collected, in which order and chunks it is sent, and how it fails."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

import shim
from fabric_protos import protos as p
from fabric_protos.stream import ChaincodeMessage
from fabric_protos.stream import ChaincodeMessageType as T
from tests.unit.shim.scripted_peer import Calls, transact
from tests.unit.shim.test_stub_wire import ALL_OFFERED, both_styles

READY = bytes(ALL_OFFERED)


def written(request: ChaincodeMessage) -> list[p.WriteRecord]:
    assert request.type == T.WRITE_BATCH_STATE
    return p.WriteBatchState.parse(request.payload).rec


async def write_everything(stub: shim.ChaincodeStub) -> None:
    async with stub.write_batch():
        await stub.put_state("a", b"first")
        await stub.put_private_data("c1", "a", b"private")
        await stub.set_state_validation_parameter("a", b"pol")
        await stub.del_state("b")
        await stub.purge_private_data("c1", "p")
        await stub.put_state("a", b"last")


def write_everything_sync(stub: shim.SyncChaincodeStub) -> None:
    with stub.write_batch():
        stub.put_state("a", b"first")
        stub.put_private_data("c1", "a", b"private")
        stub.set_state_validation_parameter("a", b"pol")
        stub.del_state("b")
        stub.purge_private_data("c1", "p")
        stub.put_state("a", b"last")


class SyncEverything(shim.Chaincode):
    def invoke(self, stub: shim.SyncChaincodeStub) -> None:
        write_everything_sync(stub)


EVERYTHING = pytest.mark.parametrize(
    "chaincode", [Calls(write_everything), SyncEverything()], ids=["async", "sync"]
)


@EVERYTHING
def test_the_last_write_wins_and_order_is_kept(chaincode: shim.Chaincode) -> None:
    [request], _ = transact(chaincode, [b""], ready=READY)
    policy = p.StateMetadata(metakey="VALIDATION_PARAMETER", value=b"pol")
    kinds = p.WriteRecordType
    records = [
        p.WriteRecord(key="a", value=b"last", type=kinds.PUT_STATE),
        p.WriteRecord(key="a", value=b"private", collection="c1", type=kinds.PUT_STATE),
        p.WriteRecord(key="a", metadata=policy, type=kinds.PUT_STATE_METADATA),
        p.WriteRecord(key="b", type=kinds.DEL_STATE),
        p.WriteRecord(key="p", collection="c1", type=kinds.PURGE_PRIVATE_DATA),
    ]
    assert written(request) == records
    assert request.payload == bytes(p.WriteBatchState(rec=records))


@EVERYTHING
def test_a_peer_without_batches_gets_every_write(chaincode: shim.Chaincode) -> None:
    requests, _ = transact(chaincode, [b""] * 6)
    assert [request.type for request in requests] == [9, 9, 21, 10, 23, 9]


@both_styles
@pytest.mark.parametrize(("count", "chunks"), [(99, [99]), (100, [100]), (101, [100, 1])])
def test_chunks(style: Any, count: int, chunks: list[int]) -> None:
    class Async(shim.Chaincode):
        async def invoke(self, stub: shim.ChaincodeStub) -> None:
            assert stub.start_write_batch()
            for number in range(count):
                await stub.put_state(f"k{number}", b"v")
            await stub.finish_write_batch()
            await stub.finish_write_batch()  # there is none: sends nothing

    class Sync(shim.Chaincode):
        def invoke(self, stub: shim.SyncChaincodeStub) -> None:
            assert stub.start_write_batch()
            for number in range(count):
                stub.put_state(f"k{number}", b"v")
            stub.finish_write_batch()

    chaincode = Async() if style is Calls else Sync()
    requests, _ = transact(chaincode, [b""] * len(chunks), ready=READY)
    assert [len(written(request)) for request in requests] == chunks


class LeavesOpen(shim.Chaincode):
    """Writes in a batch and returns what it was made with."""

    def __init__(self, result: Any) -> None:
        self.result = result

    async def invoke(self, stub: shim.ChaincodeStub) -> Any:
        stub.start_write_batch()
        await stub.put_state("k", b"v")
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def init(self, stub: shim.ChaincodeStub) -> Any:
        return await self.invoke(stub)


class LeavesOpenSync(LeavesOpen):
    def invoke(self, stub: shim.SyncChaincodeStub) -> Any:  # type: ignore[override]
        stub.start_write_batch()
        stub.put_state("k", b"v")
        return self.result


@pytest.mark.parametrize("style", [LeavesOpen, LeavesOpenSync])
def test_an_open_batch_is_sent_after_the_function(style: Any) -> None:
    [request], last = transact(style(b"ok"), [b""], ready=READY)
    assert [record.key for record in written(request)] == ["k"]
    assert p.Response.parse(last.payload).payload == b"ok"


@pytest.mark.parametrize("style", [LeavesOpen, LeavesOpenSync])
def test_a_refused_last_batch_fails_the_transaction(style: Any) -> None:
    _, last = transact(style(b"ok"), ["disk full"], ready=READY)
    assert (last.type, last.payload) == (T.ERROR, b"failed send batch: disk full")


def test_a_function_that_raises_sends_no_batch() -> None:
    requests, last = transact(LeavesOpen(ValueError("no")), [], ready=READY)
    assert requests == []
    assert p.Response.parse(last.payload).status == 500


def test_a_failed_init_sends_no_batch() -> None:
    requests, last = transact(LeavesOpen(shim.error("no")), [], ready=READY, kind=T.INIT)
    assert requests == []
    assert (last.type, last.payload) == (T.ERROR, b"no")


def test_a_nested_batch_joins_the_outer_one() -> None:
    async def nested(stub: shim.ChaincodeStub) -> None:
        async with stub.write_batch():
            async with stub.write_batch():
                await stub.put_state("a", b"1")
            await stub.put_state("b", b"2")

    [request], _ = transact(Calls(nested), [b""], ready=READY)
    assert [record.key for record in written(request)] == ["a", "b"]


def test_a_block_that_raises_still_writes_as_without_batches() -> None:
    async def caught(stub: shim.ChaincodeStub) -> None:
        with suppress(LookupError):
            async with stub.write_batch():
                await stub.put_state("a", b"1")
                raise LookupError

    [request], _ = transact(Calls(caught), [b""], ready=READY)
    assert [record.key for record in written(request)] == ["a"]


def test_a_refused_batch_raises_where_it_is_finished() -> None:
    _, last = transact(Calls(write_everything), ["no"], ready=READY)
    assert p.Response.parse(last.payload).message == "no"
