"""Messages of one stream, in both directions, and the gRPC stream that carries them.

Room:      shim   (imports fabric_protos.data_frames; used by client and server)
Loop:      asyncio
Lifetime:  stream
Fabric:    `PeerChaincodeStream`, shim/interfaces.go (fabric-chaincode-go)

A message costs no task switch, and what answers several messages that came together leaves in one
frame and one system call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from grpclib.config import Configuration
from grpclib.protocol import Stream
from h2.events import UnknownFrameReceived
from h2.exceptions import H2Error

from fabric_protos.data_frames import DirectProtocol, Messages
from fabric_protos.grpc_messages import MessageRefused

from .errors import StreamClosed
from .transaction import MAX_MESSAGE_BYTES

FLUSH_LIMIT_S = 5.0
GOODBYE_LIMIT_S = 1.0
READ_BYTES = 1 << 16


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


class Http2(DirectProtocol, asyncio.BufferedProtocol):
    """A connection that can be shut, and ignores frames it does not know as HTTP/2 asks.

    It lends a buffer to read into: for input without one, asyncio has a quarter of a megabyte
    mapped and unmapped, however little arrives.
    """

    transport: asyncio.Transport | None = None  # while it is open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._closed = asyncio.Event()
        self._buffer = memoryview(bytearray(READ_BYTES))
        super().connection_made(transport)
        self.processor.processors[UnknownFrameReceived] = lambda event: None  # grpclib raises

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._buffer[:nbytes]))

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


class GrpcStream(Messages):
    """A `Duplex` on an open gRPC stream, of a client or in a server's handler.

    Transactions run in tasks, so the answers to what came together come one by one: the last of
    them, or the end of the turn, writes them all.
    """

    def __init__(self, stream: Stream, *, is_direct: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._peer_ended = asyncio.Event()
        self._due = 0  # messages delivered that were not followed by one of ours
        self._closed = ""
        super().__init__(stream, limit=MAX_MESSAGE_BYTES, is_direct=is_direct)

    def send(self, data: bytes) -> None:
        if self._closed:
            raise StreamClosed(self._closed)
        is_first = not self.queued
        self.queue(data)
        self._due = max(self._due - 1, 0)
        if not self._due:
            self.flush()
        elif is_first:
            self._loop.call_soon(self._end_turn)

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        def deliver(data: bytes) -> None:
            self._due += 1
            on_message(data)

        self.start(deliver)
        try:
            await asyncio.wait({self._ended})
        except asyncio.CancelledError:
            # grpclib cancels a server's handler when the connection is lost: the reason is better.
            if not self._ended.done() or self._ended.exception() is None:
                raise
        finally:
            self.ignore()
            self._closed = self._closed or "the stream is closed"
            self.flush()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_LIMIT_S):
                    await self.drain()
            self.drop()
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

    def on_end(self, error: Exception | None) -> None:
        """Take the end of the peer's side: regular, or with a status that says why."""
        self._peer_ended.set()
        reason = refusal(self._stream)
        if error is not None:
            self._closed = str(error) or "the stream broke"
            reason = reason or StreamClosed(self._closed)
        self._end(reason)

    def on_failure(self, error: Exception) -> None:
        """Take a message that breaks the rules."""
        if isinstance(error, MessageRefused):
            error = StreamClosed(f"the peer broke the protocol: {error}")
        self._end(error)

    def _end(self, exc: Exception | None) -> None:
        if self._ended.done():
            return
        if exc is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(exc)

    def _end_turn(self) -> None:
        self._due = 0
        self.flush()


def refusal(stream: Stream) -> StreamClosed | None:
    """Return what the trailers say, None where they say that all is well."""
    headers = dict(stream.trailers or stream.headers or ())
    status = headers.get("grpc-status", "0")
    if status == "0" and headers.get(":status", "200") == "200":
        return None
    from urllib.parse import unquote

    text = unquote(headers.get("grpc-message", "")) or f"HTTP status {headers.get(':status')}"
    return StreamClosed(f"the peer ended the stream: {text} (gRPC status {status})")
