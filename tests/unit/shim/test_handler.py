"""The handler: handshake, dispatch, answers, concurrency, and the ends of a stream."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

import shim
from fabric_protos import protos as p
from fabric_protos.stream import ChaincodeInput, ChaincodeMessage
from fabric_protos.stream import ChaincodeMessageType as T
from shim import handler as handler_module
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


# Concurrency


class Busy(shim.Chaincode):
    """Asks for five keys at once and returns them joined."""

    async def invoke(self, stub: shim.ChaincodeStub) -> str:
        keys = [f"{stub.tx_id}-{number}" for number in range(5)]
        values = await asyncio.gather(*(stub.get_state(key) for key in keys))
        return ",".join((value or b"").decode() for value in values)


class BusySync(shim.Chaincode):
    """The same with threads of its own."""

    def invoke(self, stub: shim.SyncChaincodeStub) -> str:
        values: dict[int, str] = {}

        def ask(number: int) -> None:
            values[number] = (stub.get_state(f"{stub.tx_id}-{number}") or b"").decode()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ",".join(values[number] for number in range(5))


@pytest.mark.parametrize("chaincode", [Busy(), BusySync()], ids=["async", "sync"])
def test_200_transactions_with_parallel_requests(chaincode: shim.Chaincode) -> None:
    """Requests of one transaction queue, those of others do not wait for them."""

    async def script(peer: ScriptedPeer) -> None:
        ids = [f"tx{number}" for number in range(200)]
        for txid in ids:
            peer.begin(b"f", txid=txid)
        pending: dict[str, ChaincodeMessage] = {}
        done: dict[str, str] = {}
        while len(done) < len(ids):
            message = await peer.receive()
            if message.type == T.COMPLETED:
                done[message.txid] = response_of(message).payload.decode()
            else:
                assert message.txid not in pending, "two requests of one transaction at a time"
                pending[message.txid] = message
            if peer.messages.empty():  # answer in the reverse order, when nothing else comes
                for request in reversed(list(pending.values())):
                    del pending[request.txid]
                    peer.answer(request, p.GetState.parse(request.payload).key.encode())
        for txid in ids:
            assert done[txid] == ",".join(f"{txid}-{number}" for number in range(5))

    play(chaincode, script)


def test_the_answer_to_a_cancelled_call_is_not_taken_for_the_next() -> None:
    cancelled = asyncio.Event()

    async def impatient(stub: shim.ChaincodeStub) -> bytes | None:
        task = asyncio.create_task(stub.get_state("slow"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        return await stub.get_state("next")

    chaincode = Calls(impatient)

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        slow = await peer.receive()
        await cancelled.wait()
        peer.answer(slow, b"late")
        following = await peer.receive()
        assert p.GetState.parse(following.payload).key == "next"
        peer.answer(following, b"right")
        await peer.receive()

    play(chaincode, script)
    assert chaincode.result == b"right"


def test_completed_waits_for_the_answer_to_a_cancelled_call() -> None:
    cancelled = asyncio.Event()

    async def impatient(stub: shim.ChaincodeStub) -> None:
        task = asyncio.create_task(stub.put_state("k", b"v"))
        await asyncio.sleep(0)
        task.cancel()
        cancelled.set()

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        request = await peer.receive()
        await cancelled.wait()
        peer.send(T.KEEPALIVE)
        assert (await peer.receive()).type == T.KEEPALIVE  # and not COMPLETED
        peer.answer(request)
        assert (await peer.receive()).type == T.COMPLETED

    play(Calls(impatient), script)


def test_a_stub_is_of_no_use_after_its_transaction() -> None:
    kept: list[shim.ChaincodeStub] = []
    chaincode = Calls(lambda stub: kept.append(stub))

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        await peer.receive()
        with pytest.raises(shim.StreamClosed, match="the transaction has ended"):
            await kept[0].get_state("k")

    play(chaincode, script)


def test_a_sync_stub_is_of_no_use_after_its_transaction() -> None:
    kept: list[shim.SyncChaincodeStub] = []
    transact(SyncCalls(lambda stub: kept.append(stub)))
    with pytest.raises(shim.StreamClosed, match="the transaction has ended"):
        kept[0].get_state("k")


def test_a_call_queued_behind_the_last_answer_finds_the_transaction_over() -> None:
    """Two threads ask, the function returns; the thread that still waits is refused or answered."""
    outcomes: list[str] = []
    waiting = threading.Event()

    class Leaky(shim.Chaincode):
        def invoke(self, stub: shim.SyncChaincodeStub) -> None:
            def ask() -> None:
                waiting.set()
                try:
                    stub.get_state("background")
                    outcomes.append("answered")
                except shim.StreamClosed:
                    outcomes.append("refused")

            thread = threading.Thread(target=ask)
            thread.start()
            assert waiting.wait(LIMIT_S)
            self.thread = thread

    chaincode = Leaky()

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        message = await peer.receive()
        if message.type == T.GET_STATE:
            peer.answer(message)
            message = await peer.receive()
        assert message.type == T.COMPLETED

    play(chaincode, script)
    chaincode.thread.join(LIMIT_S)
    assert outcomes in (["answered"], ["refused"])


def test_an_overloaded_pool_answers_error() -> None:
    gate = threading.Event()

    def wait(stub: Any) -> None:
        assert gate.wait(LIMIT_S)

    async def script(peer: ScriptedPeer) -> None:
        for number in range(3):
            peer.begin(b"f", txid=f"tx{number}")
        refusal = await peer.receive()
        assert (refusal.txid, refusal.type) == ("tx2", T.ERROR)
        assert refusal.payload == b"Failed to submit task for processing"
        gate.set()
        assert {(await peer.receive()).txid for _ in range(2)} == {"tx0", "tx1"}

    workers = shim.Workers(threads=1, max_waiting=1)
    play(SyncCalls(wait), script, workers=workers)
    workers.close()


# The end of a stream


@both_styles
def test_a_lost_stream_fails_the_waiting_call_and_later_ones(style: Any) -> None:
    raised: list[BaseException] = []
    done = threading.Event()

    class Persistent(shim.Chaincode):
        async def invoke(self, stub: shim.ChaincodeStub) -> None:
            for _ in range(2):
                try:
                    await stub.get_state("k")
                except shim.StreamClosed as exc:
                    raised.append(exc)
            done.set()

    class PersistentSync(shim.Chaincode):
        def invoke(self, stub: shim.SyncChaincodeStub) -> None:
            for _ in range(2):
                try:
                    stub.get_state("k")
                except shim.StreamClosed as exc:
                    raised.append(exc)
            done.set()

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        await peer.receive()
        peer.stream.close()

    play(Persistent() if style is Calls else PersistentSync(), script)
    assert done.wait(LIMIT_S)
    assert [str(exc) for exc in raised] == ["the stream has ended"] * 2


def test_a_transaction_that_ignores_the_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_module, "LEAVE_LIMIT_S", 0.01)
    cancelled: list[bool] = []

    async def stubborn(stub: shim.ChaincodeStub) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(b"f")
        peer.send(T.KEEPALIVE)
        await peer.receive()

    play(Calls(stubborn), script)
    assert cancelled == [True]


class MuteStream:
    """Delivers one transaction and sends nothing after REGISTER."""

    def __init__(self) -> None:
        self.sent = 0
        self.seen = threading.Event()

    def send(self, data: bytes) -> None:
        self.sent += 1
        if self.sent > 1:
            raise shim.StreamClosed("cannot send")

    async def run(self, on_message: Any) -> None:
        for kind in (T.REGISTERED, T.READY):
            on_message(ChaincodeMessage(type=kind).encode())
        payload = ChaincodeInput(args=[b"f"]).encode()
        on_message(ChaincodeMessage(type=T.TRANSACTION, txid="t", payload=payload).encode())
        assert await asyncio.to_thread(self.seen.wait, LIMIT_S)

    def close(self) -> None: ...


@both_styles
def test_a_request_on_a_stream_that_cannot_send_raises(style: Any) -> None:
    raised: list[str] = []

    async def ask(stub: shim.ChaincodeStub) -> None:
        with pytest.raises(shim.StreamClosed) as caught:
            await stub.get_state("k")
        raised.append(str(caught.value))
        stream.seen.set()

    def ask_sync(stub: shim.SyncChaincodeStub) -> None:
        with pytest.raises(shim.StreamClosed) as caught:
            stub.get_state("k")
        raised.append(str(caught.value))
        stream.seen.set()

    stream = MuteStream()
    chaincode = style(ask if style is Calls else ask_sync)
    asyncio.run(shim.start_in_process(chaincode, "cc", stream))
    assert raised == ["cannot send"]


@pytest.mark.parametrize("in_time", [True, False])
def test_stop_lets_running_transactions_finish(
    in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_time:
        monkeypatch.setattr(handler_module, "STOP_LIMIT_S", 0.01)

    async def both() -> None:
        here, there = shim.memory_streams()
        stop = asyncio.Event()
        chaincode = Calls(lambda stub: stub.get_state("k"))
        task = asyncio.create_task(Handler(chaincode, "cc", here).run(stop))
        async with ScriptedPeer(there) as peer:
            await peer.shake_hands()
            peer.begin(b"f")
            request = await peer.receive()
            stop.set()
            if in_time:
                peer.send(T.KEEPALIVE)
                await peer.receive()
                peer.begin(b"f", txid="late")
                refusal = await peer.receive()
                assert (refusal.type, refusal.txid) == (T.ERROR, "late")
                assert refusal.payload == b"the chaincode is shutting down"
                peer.answer(request)
                assert (await peer.receive()).type == T.COMPLETED
            await peer.ended()
        await task

    asyncio.run(both())


def test_stop_of_an_idle_chaincode_ends_at_once() -> None:
    async def both() -> None:
        here, there = shim.memory_streams()
        stop = asyncio.Event()
        task = asyncio.create_task(Handler(Returns(b""), "cc", here).run(stop))
        async with ScriptedPeer(there) as peer:
            await peer.shake_hands()
            stop.set()
            await peer.ended()
        await task

    asyncio.run(both())


def test_cancelling_the_handler_ends_its_transactions() -> None:
    async def both() -> None:
        here, there = shim.memory_streams()
        task = asyncio.create_task(
            shim.start_in_process(Calls(lambda stub: stub.get_state("k")), "cc", here)
        )
        async with ScriptedPeer(there) as peer:
            await peer.shake_hands()
            peer.begin(b"f")
            await peer.receive()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await peer.ended()

    asyncio.run(both())
