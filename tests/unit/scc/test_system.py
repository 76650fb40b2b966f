"""System chaincodes on an in-memory stream, seen from the peer's side of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    Response,
)
from peer.chaincode.stream import MemoryStream, StreamClosed, memory_pipe
from peer.chaincode.transactions import TransactionParams
from peer.errors import PeerError
from peer.scc.runner import SystemCall, SystemChaincode, serve

T = ChaincodeMessageType


def params(channel_id: str, tx_id: str) -> TransactionParams:
    return TransactionParams(channel_id=channel_id, tx_id=tx_id, namespace="scripted")


def executions(channel_id: str, tx_id: str) -> TransactionParams | None:
    return None if tx_id == "ended" else params(channel_id, tx_id)


class Scripted:
    """Does what its first argument says."""

    name = "scripted"

    def __init__(self) -> None:
        self.calls: list[SystemCall] = []
        self.released = trio.Event()

    async def invoke(self, call: SystemCall) -> Response:
        self.calls.append(call)
        match bytes(call.args[0]):
            case b"wait":
                await self.released.wait()
            case b"refuse":
                raise PeerError("not like this")
            case b"tell":
                call.event = ChaincodeEvent(event_name="told", payload=call.params.tx_id.encode())
            case b"break":
                raise RuntimeError("with a secret in its text")
        return Response(status=200, payload=bytes(call.args[0]))


class Caller:
    """The peer's end of the stream."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._into, self.answers = trio.open_memory_channel[ChaincodeMessage](100)

    async def read(self, stream: MemoryStream) -> None:
        with suppress(StreamClosed):  # the test closes it
            await stream.run(self.on_message)

    def on_message(self, data: bytes) -> None:
        self._into.send_nowait(ChaincodeMessage.decode(data))

    def send(self, kind: int, txid: str = "", payload: bytes = b"") -> None:
        message = ChaincodeMessage(type=kind, txid=txid, channel_id="c", payload=payload)
        self._send(message.encode())

    def call(self, txid: str, args: Sequence[bytes], kind: int = T.TRANSACTION) -> None:
        self.send(kind, txid, ChaincodeInput(args=list(args)).encode())

    async def answer(self) -> tuple[str, Response]:
        message = await self.answers.receive()
        assert (message.type, message.channel_id) == (T.COMPLETED, "c")
        return message.txid, Response.decode(message.payload)


@asynccontextmanager
async def served(chaincode: SystemChaincode) -> AsyncIterator[Caller]:
    """Hold a chaincode; of an execution of the id ``ended`` nobody knows any more."""
    near, far = memory_pipe()
    caller = Caller(near.send)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, chaincode, far, executions)
            nursery.start_soon(caller.read, near)
            registered = await caller.answers.receive()
            assert registered.type == T.REGISTER
            assert ChaincodeId.decode(registered.payload).name == f"{chaincode.name}.syscc"
            caller.send(T.REGISTERED)
            caller.send(T.READY)
            yield caller
            near.close()  # and both tasks end


async def test_calls_are_answered_while_others_wait() -> None:
    scripted = Scripted()
    async with served(scripted) as caller:
        caller.call("1", [b"wait"])
        caller.call("2", [b"quick", b"more"])
        caller.call("3", [b"init"], T.INIT)
        answered = dict([await caller.answer(), await caller.answer()])
        assert answered["2"] == Response(status=200, payload=b"quick")
        assert answered["3"] == Response(status=200, payload=b"init")
        scripted.released.set()
        assert await caller.answer() == ("1", Response(status=200, payload=b"wait"))
    seen = {call.tx_id: (call.channel_id, list(call.args)) for call in scripted.calls}
    assert seen["2"] == ("c", [b"quick", b"more"])


async def test_errors_become_responses_and_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Scripted()) as caller:
        caller.call("1", [b"refuse"])
        assert await caller.answer() == ("1", Response(status=500, message="not like this"))
        caller.call("2", [b"break"])
        assert await caller.answer() == ("2", Response(status=500, message="internal error"))
        assert "with a secret in its text" in caplog.text
        caller.send(T.TRANSACTION, "3", b"\xff")
        txid, response = await caller.answer()
        assert (txid, response.status) == ("3", 500)
        caller.call("4", [b"fine"])
        assert (await caller.answer())[1].status == 200


async def test_an_event_goes_with_the_answer() -> None:
    async with served(Scripted()) as caller:
        caller.call("1", [b"tell"])
        message = await caller.answers.receive()
        assert message.chaincode_event == ChaincodeEvent(event_name="told", payload=b"1")


async def test_what_has_ended_meanwhile_is_not_begun() -> None:
    scripted = Scripted()
    async with served(scripted) as caller:
        caller.call("ended", [b"quick"])
        caller.call("1", [b"quick"])
        await caller.answer()
    assert [call.tx_id for call in scripted.calls] == ["1"]


async def test_the_end_of_the_stream_ends_what_runs() -> None:
    scripted = Scripted()
    async with served(scripted) as caller:
        caller.call("1", [b"wait"])
        await trio.testing.wait_all_tasks_blocked()
        assert len(scripted.calls) == 1


async def test_an_answer_nobody_waits_for_any_more_is_dropped() -> None:
    scripted = Scripted()
    near, far = memory_pipe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, scripted, far, executions)
        message = ChaincodeMessage(
            type=T.TRANSACTION, payload=ChaincodeInput(args=[b"wait"]).encode()
        )
        near.send(message.encode())
        await trio.testing.wait_all_tasks_blocked()
        scripted.released.set()
        near.close()
