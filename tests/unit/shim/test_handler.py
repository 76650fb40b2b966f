"""The handler: handshake, dispatch, and what a function's result becomes."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

import shim
from fabric_protos import protos as p
from fabric_protos.stream import ChaincodeMessage
from fabric_protos.stream import ChaincodeMessageType as T
from shim.handler import Handler, State
from tests.unit.shim.scripted_peer import LIMIT_S, Calls, ScriptedPeer, SyncCalls, play, transact
from tests.unit.shim.test_stub_wire import both_styles


def response_of(message: ChaincodeMessage) -> p.Response:
    assert message.type == T.COMPLETED
    return p.Response.parse(message.payload)


class Returns(shim.Chaincode):
    """Returns, or raises, what it was made with."""

    def __init__(self, result: Any) -> None:
        self.result = result

    async def invoke(self, stub: shim.ChaincodeStub) -> Any:
        stub.set_event("old", b"")
        stub.set_event("ev", b"x")
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    async def init(self, stub: shim.ChaincodeStub) -> Any:
        return await self.invoke(stub)


class ReturnsSync(Returns):
    def invoke(self, stub: shim.SyncChaincodeStub) -> Any:  # type: ignore[override]
        stub.set_event("ev", b"x")
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


both_returns = pytest.mark.parametrize("style", [Returns, ReturnsSync], ids=["async", "sync"])


# Handshake


def test_the_messages_of_the_handshake_are_fabrics() -> None:
    async def script(peer: ScriptedPeer) -> None:
        assert peer.raw == [bytes.fromhex("08011a0a12086d7963633a312e30")]
        peer.stream.send(bytes.fromhex("0812"))
        peer.begin(b"f")
        await peer.receive()
        await peer.receive()
        assert peer.raw[1:] == [bytes.fromhex("0812"), COMPLETED_WITH_EVENT]

    play(Returns(b"v1"), script)


COMPLETED_WITH_EVENT = bytes.fromhex("08061a0708c8011a027631220374783132071a0265762201783a03636831")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([T.READY], "cannot handle message (READY) while in state: created"),
        ([T.REGISTERED, T.REGISTERED], "(REGISTERED) while in state: established"),
        ([T.TRANSACTION], "cannot handle message (TRANSACTION) while in state: created"),
        ([99], "cannot handle message (99) while in state: created"),
        ([T.ERROR], "the peer refused: no such chaincode"),
    ],
)
def test_a_broken_handshake_is_answered_and_ends_the_stream(
    messages: list[int], reason: str
) -> None:
    async def both() -> None:
        here, there = shim.memory_streams()
        task = asyncio.create_task(shim.start_in_process(Returns(b""), "cc:1", here))
        async with ScriptedPeer(there) as peer:
            await peer.receive()
            for kind in messages:
                peer.send(kind, b"no such chaincode")
            assert (await peer.receive()).type == T.ERROR
            await peer.ended()
        with pytest.raises(shim.StreamClosed) as caught:
            await task
        assert reason in str(caught.value)

    asyncio.run(both())


def test_unreadable_bytes_end_the_stream() -> None:
    async def both() -> None:
        here, there = shim.memory_streams()
        task = asyncio.create_task(shim.start_in_process(Returns(b""), "cc:1", here))
        there.send(b"\x08")
        with pytest.raises(shim.StreamClosed, match="unreadable message"):
            await task

    asyncio.run(both())


def test_keepalive_is_echoed_in_every_state() -> None:
    async def both() -> None:
        here, there = shim.memory_streams()
        handler = Handler(Returns(b""), "cc:1", here)
        task = asyncio.create_task(handler.run())
        async with ScriptedPeer(there) as peer:
            await peer.receive()
            for state, following in (
                (State.CREATED, T.REGISTERED),
                (State.ESTABLISHED, T.READY),
                (State.READY, None),
            ):
                peer.send(T.KEEPALIVE)
                assert (await peer.receive()).type == T.KEEPALIVE
                assert handler.state is state
                if following is not None:
                    peer.send(following)
        await task

    asyncio.run(both())


def test_ready_parameters_that_cannot_be_read_offer_nothing() -> None:
    async def batch(stub: shim.ChaincodeStub) -> bool:
        return stub.start_write_batch()

    chaincode = Calls(batch)
    transact(chaincode, [], ready=b"\xff")
    assert chaincode.result is False


# In state ready


def test_strange_messages_do_not_disturb_a_transaction() -> None:
    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        request = await peer.receive()
        peer.send(T.REGISTERED)  # repeated: ignored
        peer.send(T.READY, txid="tx1", channel="ch1")
        peer.send(99)  # unknown, no transaction: ignored
        peer.send(T.RESPONSE, b"stray", "other", "ch1")
        peer.send(99, b"", "tx9", "ch1")
        refusal = await peer.receive()
        assert (refusal.type, refusal.txid) == (T.ERROR, "tx9")
        assert b"cannot handle message (99) while in state: ready" in refusal.payload
        peer.answer(request, b"v")
        assert response_of(await peer.receive()).status == 200

    chaincode = Calls(lambda stub: stub.get_state("k"))
    play(chaincode, script)
    assert chaincode.result == b"v"


@both_styles
def test_a_second_answer_is_ignored(style: Any, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def slow(stub: Any) -> Any:
        value = stub.get_state("k")
        if isinstance(stub, shim.SyncChaincodeStub):
            assert gate.wait(LIMIT_S)
        return value

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        request = await peer.receive()
        peer.answer(request, b"v")
        peer.answer(request, b"again")
        peer.send(T.KEEPALIVE)
        first = await peer.receive()
        gate.set()
        last = first if first.type == T.COMPLETED else await peer.receive()
        assert response_of(last).status == 200

    chaincode = style(slow)
    play(chaincode, script)
    assert chaincode.result == b"v"
    if style is SyncCalls:
        assert "nothing waits for" in caplog.text


def test_the_same_transaction_twice_is_refused() -> None:
    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        request = await peer.receive()
        peer.begin(b"f")
        refusal = await peer.receive()
        assert (refusal.type, refusal.payload) == (T.ERROR, b"txid: tx1(ch1) exists")
        peer.begin(b"f", channel="ch2")  # another channel is another transaction
        other = await peer.receive()
        assert (other.type, other.channel_id) == (T.GET_STATE, "ch2")
        peer.answer(other)
        peer.answer(request)
        assert {(await peer.receive()).type for _ in range(2)} == {T.COMPLETED}

    play(Calls(lambda stub: stub.get_state("k")), script)


@both_styles
def test_a_transaction_that_cannot_be_read_is_an_error(style: Any) -> None:
    async def script(peer: ScriptedPeer) -> None:
        peer.send(T.TRANSACTION, b"\x0a", "tx1", "ch1")
        answer = await peer.receive()
        assert (answer.type, answer.txid, answer.channel_id) == (T.ERROR, "tx1", "ch1")
        assert b"ChaincodeInput" in answer.payload

    play(style(lambda stub: None), script)


# What a function returns


@both_returns
@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, p.Response(status=200)),
        (b"v", p.Response(status=200, payload=b"v")),
        ("ü", p.Response(status=200, payload="ü".encode())),
        (shim.success("x"), p.Response(status=200, payload=b"x")),
        (shim.error("no", 404, b"p"), p.Response(status=404, message="no", payload=b"p")),
        (shim.Response(299), p.Response(status=299)),
        (shim.ChaincodeError("no"), p.Response(status=500, message="no")),
        (
            shim.ChaincodeError("no", 403, "why"),
            p.Response(status=403, message="no", payload=b"why"),
        ),
        (ZeroDivisionError("x"), p.Response(status=500, message="ZeroDivisionError: x")),
        (shim.PeerError("x" * 2000), p.Response(status=500, message="x" * 1000)),
        (
            5,
            p.Response(
                status=500,
                message="TypeError: the chaincode has not called success or error: it returned int",
            ),
        ),
        (
            shim.Response(0),
            p.Response(
                status=500,
                message="TypeError: the chaincode has not called success or error: its status is 0",
            ),
        ),
    ],
)
def test_results(style: Any, result: Any, expected: p.Response) -> None:
    _, last = transact(style(result))
    assert response_of(last) == expected
    assert last.chaincode_event is not None
    assert (last.chaincode_event.event_name, last.chaincode_event.payload) == ("ev", b"x")


def test_exceptions_are_logged_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    transact(Returns(ZeroDivisionError("x")))
    assert "tx=tx1 channel=ch1: ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text


def test_payloads_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shim")
    transact(Calls(lambda stub: stub.put_state("k", b"secret")), [b""], args=[b"secret"])
    assert "ready as mycc:1.0" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "response",
    [shim.Response(1 << 40), shim.error("\ud800"), shim.success(bytes(101 << 20))],
    ids=["status", "text", "size"],
)
def test_a_response_that_cannot_be_sent_is_an_error_response(response: shim.Response) -> None:
    _, last = transact(Returns(response))
    assert response_of(last).status == 500
    assert "the response cannot be sent" in response_of(last).message


def test_a_plain_function_must_not_return_a_coroutine() -> None:
    class Forgetful(shim.Chaincode):
        async def work(self) -> None: ...

        def invoke(self, stub: shim.SyncChaincodeStub) -> Any:
            return self.work()

    _, last = transact(Forgetful())
    assert "write it as async def" in response_of(last).message


def test_sys_exit_in_a_thread_is_a_failed_transaction() -> None:
    _, last = transact(ReturnsSync(SystemExit(3)))
    assert response_of(last).message == "SystemExit: 3"


def test_a_chaincode_that_cancels_itself_answers() -> None:
    _, last = transact(Returns(asyncio.CancelledError()))
    assert response_of(last).message == "the chaincode cancelled its transaction"


def test_the_base_class_has_no_invoke() -> None:
    _, last = transact(shim.Chaincode())
    assert response_of(last).message == "NotImplementedError: Chaincode has no invoke method"


# Init


def test_init_succeeds_by_default() -> None:
    _, last = transact(Calls(lambda stub: None), kind=T.INIT)
    assert response_of(last) == p.Response(status=200)


@pytest.mark.parametrize(
    ("result", "kind", "payload"),
    [
        (shim.error("bad", 499), T.COMPLETED, bytes(p.Response(status=499, message="bad"))),
        (shim.error("bad"), T.ERROR, b"bad"),
        (shim.ChaincodeError("bad", 501), T.ERROR, b"bad"),
        (KeyError("k"), T.ERROR, b"KeyError: 'k'"),
    ],
)
def test_init_fails_as_error_from_500_on(result: Any, kind: int, payload: bytes) -> None:
    _, last = transact(Returns(result), kind=T.INIT)
    assert (last.type, last.payload) == (kind, payload)
    assert last.chaincode_event is not None
