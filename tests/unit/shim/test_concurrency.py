"""Many transactions at once, calls that are given up, and the ends of a stream."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import shim
from fabric_protos import protos as p
from fabric_protos.stream import ChaincodeInput, ChaincodeMessage
from fabric_protos.stream import ChaincodeMessageType as T
from shim import handler as handler_module
from shim.handler import Handler
from tests.unit.shim.scripted_peer import LIMIT_S, Calls, ScriptedPeer, SyncCalls, play, transact
from tests.unit.shim.test_handler import Returns, response_of
from tests.unit.shim.test_stub_wire import both_styles


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
