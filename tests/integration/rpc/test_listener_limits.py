"""What a listener bounds: queues, connections, its own life."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio

from peer.chaincode.stream import MessageStream, StreamClosed, StreamRefused
from peer.rpc import http2, listener, streams
from peer.rpc.listener import MAX_CONNECTIONS

from .conftest import Server, listening, settle
from .raw import client, dial, h2_frame

pytestmark = pytest.mark.usefixtures("both_ways")

OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 3, 8, 12
PERMISSION_DENIED, FAILED_PRECONDITION, INTERNAL = 7, 9, 13


class TestSlowClients:
    async def test_one_that_does_not_read_is_bounded(
        self, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "MAX_QUEUED_BYTES", 2**20)
        async with (
            listening(served, tmp_path) as endpoint,
            client(endpoint.address, generous=False) as chaincode,
        ):
            await chaincode.call()
            await chaincode.send(b"x")
            await chaincode.messages(1)
            sent = 0

            def send_much() -> None:
                nonlocal sent
                while sent < 2**24:
                    served.streams[0].send(bytes(2**16))
                    sent += 2**16

            with pytest.raises(StreamClosed, match=r"does not read \(\d+ bytes wait\)"):
                send_much()
            assert 15 * 2**16 <= sent <= 18 * 2**16
            await served.wait_ended()
            assert "does not read" in served.reasons[0]
            # It is told so, although it still does not take in what was sent before.
            status, text = await chaincode.status()
            assert status == RESOURCE_EXHAUSTED
            assert "does not read" in text

    @pytest.mark.parametrize("calls", [True, False])
    async def test_one_that_pings_and_does_not_read_is_cut_off(
        self, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: bool
    ) -> None:
        monkeypatch.setattr(http2, "MAX_BACKLOG_BYTES", 10_000)
        pings = h2_frame(6, 0, b"12345678") * 1000
        async with (
            listening(served, tmp_path, first_call_s=3600) as endpoint,
            client(endpoint.address) as chaincode,
        ):
            if calls:
                await chaincode.call()
                await chaincode.send(b"x")
                await chaincode.messages(1)

            async def ping() -> None:
                while True:
                    await chaincode.transport.send_all(pings)

            with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
                await ping()
            if calls:
                await served.wait_ended()

    async def test_what_waits_is_sent_before_the_status(
        self, served: Server, tmp_path: Path
    ) -> None:
        """A client with little credit reads everything, however late."""
        big = [bytes([number]) * 200_000 for number in range(5)]

        def answer(stream: MessageStream, data: bytes) -> None:
            for message in big:
                stream.send(message)
            raise StreamRefused("PERMISSION_DENIED", "and now go")

        served.answer = answer
        async with (
            listening(served, tmp_path) as endpoint,
            client(endpoint.address, generous=False) as chaincode,
        ):
            await chaincode.call()
            await chaincode.send(b"x")
            await settle()
            chaincode._generous = True
            chaincode.h2.increment_flow_control_window(2**24)
            chaincode.h2.increment_flow_control_window(2**24, chaincode.stream_id)
            await chaincode.flush()
            assert await chaincode.messages(5) == big
            assert await chaincode.status() == (PERMISSION_DENIED, "and now go")

    async def test_order_is_kept_when_some_had_to_wait(
        self, served: Server, tmp_path: Path
    ) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await chaincode.call()
            await chaincode.send(b"x")
            await chaincode.messages(1)
            sizes = [10, 2**20, 11, 12, 2**18, 13] * 5
            for number, size in enumerate(sizes):
                served.streams[0].send(bytes([number]) * size)
            found = await chaincode.messages(len(sizes))
            assert [(message[0], len(message)) for message in found] == list(enumerate(sizes))


class TestConnections:
    async def test_there_is_a_limit(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, trio.open_nursery() as nursery:
            full = trio.Event()
            open_now: list[object] = []

            async def stay() -> None:
                async with client(endpoint.address) as chaincode:
                    await chaincode.call()
                    await chaincode.send(b"x")
                    await chaincode.messages(1)
                    open_now.append(chaincode)
                    if len(open_now) == MAX_CONNECTIONS:
                        full.set()
                    await trio.sleep_forever()

            for _ in range(MAX_CONNECTIONS):
                nursery.start_soon(stay)
            with trio.fail_after(10):
                await full.wait()
            async with await dial(endpoint.address) as one_too_many:
                with trio.fail_after(10):
                    with suppress(trio.BrokenResourceError):  # a reset is a refusal too
                        assert await one_too_many.receive_some() == b""
            nursery.cancel_scope.cancel()

    async def test_one_user_cannot_take_the_places_of_another(
        self, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with listening(served, tmp_path) as endpoint, AsyncExitStack() as strangers:
            monkeypatch.setattr(listener, "owner_uid", lambda origin: 65534)
            for _ in range(MAX_CONNECTIONS):
                stranger = await dial(endpoint.address)
                await strangers.enter_async_context(stranger)
                assert await stranger.receive_some()  # HTTP/2 settings: it holds a place
            assert not await self.try_to_come_in(endpoint.address)
            monkeypatch.undo()
            async with client(endpoint.address) as chaincode:
                await chaincode.call()
                await chaincode.send(b"x")
                assert await chaincode.messages(1) == [b"x"]

    async def test_a_place_is_free_again_afterwards(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint:
            for _ in range(3 * MAX_CONNECTIONS):
                async with client(endpoint.address) as chaincode:
                    await chaincode.call()
                    await chaincode.send(b"x")
                    assert await chaincode.messages(1) == [b"x"]

    async def test_places_of_those_who_never_call_are_freed(
        self, served: Server, tmp_path: Path
    ) -> None:
        async with (
            listening(served, tmp_path, first_call_s=0.2) as endpoint,
            client(endpoint.address) as chaincode,
        ):
            await chaincode.call()  # it may take any time to the first message
            idle = client(endpoint.address)  # speaks HTTP/2, and makes no call
            silent = [await dial(endpoint.address) for _ in range(MAX_CONNECTIONS - 2)]
            async with idle as other:
                await other.until_closed()
            for stream in silent:
                async with stream:
                    with trio.fail_after(10):
                        while await stream.receive_some():
                            continue
            await settle()
            async with AsyncExitStack() as stack:
                for _ in range(MAX_CONNECTIONS - 1):
                    other = await stack.enter_async_context(client(endpoint.address))
                    await other.call()
                    await other.send(b"x")
                    assert await other.messages(1) == [b"x"]
            await chaincode.send(b"y")
            assert await chaincode.messages(1) == [b"y"]

    async def test_who_is_in_stays_when_nobody_else_may_come(
        self, served: Server, tmp_path: Path
    ) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await chaincode.call()
            await chaincode.send(b"x")
            await chaincode.messages(1)
            endpoint.stop_accepting()
            await settle()
            stranger = await self.try_to_come_in(endpoint.address)
            assert not stranger
            await chaincode.send(b"still here")
            assert await chaincode.messages(1) == [b"still here"]

    async def try_to_come_in(self, address: str) -> bool:
        """Tell whether anybody answers."""
        try:
            stream = await dial(address)
        except OSError:
            return False
        async with stream:
            with trio.move_on_after(0.2):
                try:
                    return bool(await stream.receive_some())
                except trio.BrokenResourceError:
                    return False
        return False

    async def test_several_streams_share_one_connection(
        self, served: Server, tmp_path: Path
    ) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            for number in range(5):
                await chaincode.call()
                await chaincode.send(bytes([number]))
                assert await chaincode.messages(1) == [bytes([number])]
            assert len(served.streams) == 5


class TestTheEnd:
    @pytest.mark.parametrize("unix", [False, True])
    async def test_leaving_ends_every_connection(
        self, served: Server, tmp_path: Path, unix: bool
    ) -> None:
        async with listening(served, tmp_path, unix=unix) as endpoint:
            idle = await dial(endpoint.address)
            chaincode_context = client(endpoint.address)
            chaincode = await chaincode_context.__aenter__()
            await chaincode.call()
            await chaincode.send(b"x")
            await chaincode.messages(1)
        await chaincode.until_closed()
        await chaincode_context.__aexit__(None, None, None)
        async with idle:
            with trio.fail_after(10):
                while await idle.receive_some():
                    continue
        assert served.reasons == ["cancelled"]
        assert list(tmp_path.glob("*.sock")) == []

    async def test_cancelling_while_much_waits_to_be_written(
        self, served: Server, tmp_path: Path
    ) -> None:
        """The socket's buffer is full, the queue too, and the client does not read."""
        async with listening(served, tmp_path) as endpoint:
            stream = await dial(endpoint.address)
            async with client(endpoint.address) as chaincode:
                await chaincode.call()
                await chaincode.send(b"x")
                await chaincode.messages(1)
                for _ in range(200):
                    served.streams[0].send(bytes(2**18))
                await settle()
                await trio.aclose_forcefully(stream)
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()

    async def test_cancelling_in_the_moment_of_a_connection(
        self, served: Server, tmp_path: Path
    ) -> None:
        for steps in range(12):
            async with listening(served, tmp_path) as endpoint:
                stream = await dial(endpoint.address)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            await stream.aclose()

    async def test_an_address_that_is_taken(self, served: Server, tmp_path: Path) -> None:
        (tmp_path / "1.sock").touch()
        with pytest.raises(ExceptionGroup) as caught:
            async with listening(served, tmp_path, unix=True):
                pytest.fail("there is a file in the way")
        assert caught.group_contains(OSError, match="in use")
