"""Messages of one stream, in both directions, and the gRPC stream that carries them.

Room:      shim   (the only file that reaches into grpclib; used by client and server)
Loop:      asyncio
Lifetime:  stream
Fabric:    `PeerChaincodeStream`, shim/interfaces.go (fabric-chaincode-go)

grpclib keeps the connection: preface, settings, headers, trailers, pings, flow control. Of its
`Stream` only the reading buffer is replaced and DATA is written without its coroutine: a message
then costs no task switch, and what answers several messages that came together leaves in one frame
and one system call. The attributes used are those of the pinned version 0.4.9.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from grpclib.config import Configuration
from grpclib.protocol import H2Protocol, Stream
from h2.events import UnknownFrameReceived
from h2.exceptions import H2Error

from .errors import StreamClosed
from .transaction import MAX_MESSAGE_BYTES

ACKNOWLEDGE_BYTES = 256 * 1024
FLUSH_LIMIT_S = 5.0
GOODBYE_LIMIT_S = 1.0
PREFIX_BYTES = 5  # compression flag and length in front of every gRPC message


class Duplex(Protocol):
    """Marshalled ``ChaincodeMessage``s to and from the peer."""

    def send(self, data: bytes) -> None:
        """Queue one message, in order, without waiting.

        Raises:
            StreamClosed: the stream is over.
        """
        ...

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Deliver every message until the peer ends the stream or `close` is called.

        An exception out of *on_message* ends the stream and is raised here. What was queued by
        `send` has been written when this returns.

        Raises:
            StreamClosed: the stream broke, with the reason.

        Cancellation: ends the delivery.
        """
        ...

    def close(self) -> None:
        """End `run`, which still writes what is queued."""
        ...


def keepalive() -> Configuration:
    """Ping a silent connection; peers refuse more than one ping a minute."""
    return Configuration(
        _keepalive_time=65.0,
        _keepalive_timeout=20.0,
        _keepalive_permit_without_calls=True,
        _http2_max_pings_without_data=0,
        _http2_min_sent_ping_interval_without_data=60.0,
    )


class Http2(H2Protocol):
    """A connection that can be shut, and ignores frames it does not know as HTTP/2 asks."""

    transport: asyncio.Transport | None = None  # while it is open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._closed = asyncio.Event()
        super().connection_made(transport)
        self.processor.processors[UnknownFrameReceived] = lambda event: None  # grpclib raises

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.transport = None
        self._closed.set()

    async def shut(self, limit_s: float) -> None:
        """Write what is left and close; cut the connection when the peer does not go along."""
        if self.transport is None:
            return
        self.processor.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._closed.wait()
        if self.transport is not None:
            self.transport.abort()


class GrpcStream:
    """A `Duplex` on an open gRPC stream, of a client or in a server's handler."""

    def __init__(self, stream: Stream) -> None:
        assert stream.id is not None  # it is open
        self._id = stream.id
        self._stream = stream
        self._connection = stream.connection
        self._h2 = stream._h2_connection
        self._transport = stream._transport
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._peer_ended = asyncio.Event()
        self._on_message: Callable[[bytes], None] | None = None
        self._arrived = bytearray()  # the beginning of a message that is not complete
        self._needed = PREFIX_BYTES
        self._unacknowledged = 0
        self._outgoing: list[bytes] = []
        self._due = 0  # messages delivered in this turn that were not followed by one of ours
        self._writer: asyncio.Task[None] | None = None
        self._closed = ""
        early, stream.buffer = stream.buffer, self  # type: ignore[assignment]  # same methods
        stream.wrapper = self  # type: ignore[assignment]  # only its cancel is called
        while not early._unacked.empty():
            chunk = early._unacked.get_nowait()
            self.add(chunk.data, chunk.ack_size)
        if early._eof:
            self.eof()

    def send(self, data: bytes) -> None:
        if self._closed:
            raise StreamClosed(self._closed)
        is_first = not self._outgoing
        self._outgoing += (b"\0" + len(data).to_bytes(4, "big"), data)
        self._due -= 1
        if self._due <= 0:
            self._flush()
        elif is_first:
            self._loop.call_soon(self._flush)

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        self._on_message = on_message
        self._deliver(b"")
        try:
            await asyncio.wait({self._ended})
        except asyncio.CancelledError:
            # grpclib cancels a server's handler when the connection is lost: the reason is better.
            if not self._ended.done() or self._ended.exception() is None:
                raise
        finally:
            self._on_message = _drop
            self._closed = self._closed or "the stream is closed"
            self._flush()
            if self._writer is not None:
                await asyncio.wait({self._writer}, timeout=FLUSH_LIMIT_S)
            self._stop_writing()
        self._ended.result()

    def close(self) -> None:
        self._end(None)

    async def goodbye(self, limit_s: float) -> None:
        """End our side and wait for the peer to end its own, so that nothing sent is lost."""
        with suppress(TimeoutError, H2Error):
            async with asyncio.timeout(limit_s):
                if not self._peer_ended.is_set():
                    await self._stream.end()
                await self._peer_ended.wait()

    # What grpclib calls on its buffer and its wrapper

    def add(self, data: bytes, ack_size: int) -> None:
        """Take one DATA frame."""
        self._unacknowledged += ack_size
        if self._unacknowledged >= ACKNOWLEDGE_BYTES:
            self._connection.ack(self._id, self.unacked_size())
        self._deliver(data)

    def eof(self) -> None:
        """Take the end of the peer's side: regular, or with a status that says why."""
        self._peer_ended.set()
        self._end(refusal(self._stream))

    def unacked_size(self) -> int:
        """Return the bytes that flow control does not know to be consumed."""
        size, self._unacknowledged = self._unacknowledged, 0
        return size

    def cancel(self, error: Exception) -> None:
        """Take the loss of the connection or a reset of the stream."""
        self._closed = str(error)
        self._peer_ended.set()
        self._stop_writing()
        self._end(refusal(self._stream) or StreamClosed(str(error)))

    # Reading

    def _deliver(self, data: bytes) -> None:
        if self._on_message is None or len(self._arrived) + len(data) < self._needed:
            self._arrived += data
            return
        if self._arrived:
            data = bytes(self._arrived) + data
            self._arrived.clear()
        start = 0
        try:
            while True:
                self._needed = PREFIX_BYTES
                if len(data) - start >= PREFIX_BYTES:
                    self._needed += message_length(data, start)
                end = start + self._needed
                if end > len(data):
                    break
                self._due += 1
                self._on_message(data[start + PREFIX_BYTES : end])
                start = end
        except Exception as exc:
            self._on_message = _drop
            self._end(exc)
        else:
            self._arrived += data[start:]

    def _end(self, exc: Exception | None) -> None:
        if self._ended.done():
            return
        if exc is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(exc)

    # Writing

    def _flush(self) -> None:
        self._due = 0
        if self._writer is not None or not self._outgoing:
            return
        data = b"".join(self._outgoing)
        try:
            if self._fits(len(data)):
                self._h2.send_data(self._id, data)
                self._transport.write(self._h2.data_to_send())
                self._connection.data_send_process()
                self._outgoing.clear()
            else:
                self._writer = self._loop.create_task(self._write())
        except H2Error as exc:
            self._lost(exc)

    def _fits(self, size: int) -> bool:
        room = min(self._h2.local_flow_control_window(self._id), self._h2.max_outbound_frame_size)
        return size <= room and self._connection.write_ready.is_set()

    async def _write(self) -> None:
        try:
            while self._outgoing:
                data = b"".join(self._outgoing)
                self._outgoing = []
                await self._stream.send_data(data)
        except (H2Error, OSError) as exc:
            self._lost(exc)
        finally:
            self._writer = None

    def _stop_writing(self) -> None:
        self._outgoing.clear()
        if self._writer is not None:  # it may wait for credit that will never come
            self._writer.cancel()

    def _lost(self, exc: Exception) -> None:
        self._outgoing.clear()
        self._closed = f"the stream cannot be written: {exc}"
        self._end(StreamClosed(self._closed))


def _drop(data: bytes) -> None:
    """Take a message of a stream that is over."""


def message_length(data: bytes, start: int) -> int:
    """Read the prefix of a gRPC message.

    Raises:
        StreamClosed: it is compressed, which was not negotiated, or longer than the limit.
    """
    if data[start]:
        raise StreamClosed("the peer sent a compressed message")
    length = int.from_bytes(data[start + 1 : start + PREFIX_BYTES], "big")
    if length > MAX_MESSAGE_BYTES:
        raise StreamClosed(f"a message has {length} bytes; the limit is {MAX_MESSAGE_BYTES}")
    return length


def refusal(stream: Stream) -> StreamClosed | None:
    """Return what the trailers say, None where they say that all is well."""
    headers = dict(stream.trailers or stream.headers or ())
    status = headers.get("grpc-status", "0")
    if status == "0" and headers.get(":status", "200") == "200":
        return None
    from urllib.parse import unquote

    text = unquote(headers.get("grpc-message", "")) or f"HTTP status {headers.get(':status')}"
    return StreamClosed(f"the peer ended the stream: {text} (gRPC status {status})")
