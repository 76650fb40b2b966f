"""A socket that a Trio task reads for a protocol of asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from peer.rpc.transport import PAUSE_BYTES, SocketTransport

LOTS = bytes(4 << 20)
"""More than a socket's buffers hold."""


class Recorder(asyncio.Protocol):
    """Notes what it is told, and does as it was asked to when data arrive."""

    def __init__(self, on_data: Callable[[bytes], None] = lambda data: None) -> None:
        self.heard: list[str] = []
        self.data = b""
        self.lost = trio.Event()
        self.error: Exception | None = None
        self._on_data = on_data

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._on_data(data)

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return False

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.lost.set()


class CountingSocket(socket.socket):
    """Counts what is sent at once."""

    sends = 0

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]  # one signature
        self.sends += 1
        return super().send(data, flags)


@asynccontextmanager
async def connected(
    protocol: asyncio.BaseProtocol,
) -> AsyncIterator[tuple[SocketTransport, trio.SocketStream, CountingSocket]]:
    """Carry a protocol over one end of a pair of sockets, and hand out the other end."""
    near, far = socket.socketpair()
    with CountingSocket(fileno=near.detach()) as sock:
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        async with stream, trio.open_nursery() as tasks:
            transport = SocketTransport(sock, tasks)
            transport.set_protocol(protocol)
            tasks.start_soon(transport.run)
            yield transport, stream, sock
            transport.abort()


async def receive(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive_some()
        assert piece
        data += piece
    return data


async def test_data_go_both_ways() -> None:
    protocol = Recorder(on_data=lambda data: transport.write(data.upper()))
    async with connected(protocol) as (transport, stream, _):
        await stream.send_all(b"ping")
        assert await receive(stream, 4) == b"PING"
        assert protocol.data == b"ping"
    assert protocol.lost.is_set()


async def test_what_is_written_while_data_are_taken_leaves_at_once() -> None:
    def answer(_: bytes) -> None:
        for piece in (b"a", b"b", b"c"):
            transport.write(piece)
        assert transport.get_write_buffer_size() == 3

    async with connected(Recorder(answer)) as (transport, stream, sock):
        await stream.send_all(b"?")
        assert await receive(stream, 3) == b"abc"
        assert sock.sends == 1
        assert transport.get_write_buffer_size() == 0


async def test_what_is_written_otherwise_leaves_at_once() -> None:
    async with connected(Recorder()) as (transport, stream, _):
        transport.write(b"now")
        assert await stream.receive_some() == b"now"


async def test_a_far_end_that_does_not_read_stops_the_protocol() -> None:
    protocol = Recorder()
    async with connected(protocol) as (transport, stream, _):
        transport.write(LOTS)
        assert protocol.heard == ["pause"]
        assert transport.get_write_buffer_size() > PAUSE_BYTES
        assert await receive(stream, len(LOTS)) == LOTS
        await wait_all_tasks_blocked()
        assert protocol.heard == ["pause", "resume"]
        transport.write(b"more")
        assert await receive(stream, 4) == b"more"


async def test_reading_may_be_paused() -> None:
    protocol = Recorder()
    async with connected(protocol) as (transport, stream, _):
        transport.pause_reading()
        await stream.send_all(b"later")
        await wait_all_tasks_blocked()
        assert protocol.data == b""
        transport.resume_reading()
        await wait_all_tasks_blocked()
        assert protocol.data == b"later"


async def test_closing_writes_what_waits_and_reads_no_more() -> None:
    protocol = Recorder()
    async with connected(protocol) as (transport, stream, _):
        transport.write(LOTS)
        transport.close()
        transport.write(b"too late")
        transport.resume_reading()
        await stream.send_all(b"unread")
        assert transport.is_closing()
        assert not protocol.lost.is_set()
        assert await receive(stream, len(LOTS)) == LOTS
        await protocol.lost.wait()
        assert protocol.error is None
        assert protocol.data == b""


async def test_closing_with_nothing_to_write() -> None:
    protocol = Recorder()
    async with connected(protocol) as (transport, _, __):
        transport.close()
        transport.close()
        await protocol.lost.wait()
        assert protocol.error is None


async def test_aborting_drops_what_waits() -> None:
    protocol = Recorder()
    async with connected(protocol) as (transport, stream, sock):
        transport.write(LOTS)
        transport.abort()
        await protocol.lost.wait()
        assert transport.get_write_buffer_size() == 0
        sock.close()
        received = 0
        while piece := await stream.receive_some():
            received += len(piece)
        assert received < len(LOTS)


async def test_the_far_end_ends_and_still_reads() -> None:
    protocol = Recorder()
    async with connected(protocol) as (transport, stream, _):
        transport.write(LOTS)
        await stream.send_all(b"bye")
        await stream.send_eof()
        assert await receive(stream, len(LOTS)) == LOTS
        await protocol.lost.wait()
        assert protocol.data == b"bye"
        assert protocol.heard[:2] == ["pause", "eof"]
        assert protocol.error is None


async def test_a_protocol_may_outlive_the_end_of_its_input() -> None:
    class Patient(Recorder):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    protocol = Patient()
    async with connected(protocol) as (transport, stream, _):
        await stream.send_eof()
        await wait_all_tasks_blocked()
        assert not protocol.lost.is_set()
        transport.write(b"still here")
        assert await receive(stream, 10) == b"still here"


async def test_a_lost_connection() -> None:
    protocol = Recorder()
    async with connected(protocol) as (transport, stream, _):
        transport.write(LOTS)
        await stream.aclose()
        await protocol.lost.wait()
        assert isinstance(protocol.error, OSError)
        assert transport.is_closing()
        transport.write(b"nobody")


async def test_an_error_of_the_protocol_ends_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: bytes) -> None:
        raise ValueError("odd data")

    protocol = Recorder(fail)
    async with connected(protocol) as (_, stream, __):
        await stream.send_all(b"?")
        await protocol.lost.wait()
    assert isinstance(protocol.error, ValueError)
    assert "odd data" in caplog.text


async def test_a_protocol_with_a_buffer_of_its_own() -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(8)
            self.data = b""

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.data += self.buffer[:nbytes]

    protocol = Buffered()
    async with connected(protocol) as (_, stream, __):
        await stream.send_all(b"longer than eight bytes")
        await wait_all_tasks_blocked()
        assert protocol.data == b"longer than eight bytes"


async def test_cancellation_waits_for_the_owner_to_abort() -> None:
    protocol = Recorder()
    with trio.CancelScope() as scope:
        async with connected(protocol) as (transport, stream, _):
            scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
                assert not protocol.lost.is_set()
                transport.write(b"goodbye")
                assert await receive(stream, 7) == b"goodbye"
            transport.abort()
            await trio.lowlevel.checkpoint()
    assert protocol.lost.is_set()
