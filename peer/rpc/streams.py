"""A handler stream over gRPC.

Room:      peer.rpc   (implements peer.chaincode.stream.MessageStream)
Loop:      both: `run` waits in Trio, everything else is synchronous and called from either side
Lifetime:  stream

One crossing per stream: a Trio task waits for the end, an asyncio task writes what could not be
written at once. Messages cross without a task switch, because both loops share the thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import grpclib
import trio
from grpclib.const import Status
from grpclib.exceptions import StreamTerminatedError
from grpclib.utils import Wrapper

from peer.chaincode.connections import Serve
from peer.chaincode.stream import (
    MAX_QUEUED_BYTES,
    PeerEnd,
    StreamClosed,
    StreamRefused,
)
from peer.rpc import http2

log = logging.getLogger("peer.rpc")

ACKNOWLEDGE_BYTES = 256 * 1024
"""Credit is given back in portions: a sixteenth of a stream's window, a thousand small messages."""


class GrpcStream:
    """One gRPC stream of bytes messages.

    Args:
        limit: bytes of the largest message that is accepted.
    """

    def __init__(self, stream: http2.H2Stream, far_end: PeerEnd, *, limit: int) -> None:
        self.far_end = far_end
        self._stream = stream
        self._deframer = http2.Deframer(limit)
        self._deliver: Callable[[bytes], None] | None = None
        self._ended = trio.Event()
        self._failure: StreamClosed | StreamRefused | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._unacknowledged = 0
        self._wake_writer = asyncio.Event()
        self._writing = Wrapper()
        self._served = False
        self._refusal: StreamRefused | None = None
        self._early, self._early_eof, error = http2.take_over_input(stream, self)
        if error is not None:
            self.cancel(error)

    def send(self, data: bytes) -> None:
        """Queue one message; see `MessageStream.send`."""
        if self._ended.is_set():
            raise self._failure_as_closed()
        frame = http2.grpc_frame(data)
        try:
            if not self._queue and http2.send_now(self._stream, frame):
                return
        except http2.H2Error as exc:
            self._end(StreamClosed(f"error sending: {exc!r}"))
            raise self._failure_as_closed() from exc
        if self._queued + len(frame) > MAX_QUEUED_BYTES:
            text = f"the other side does not read ({self._queued} bytes wait)"
            self._refusal = StreamRefused("RESOURCE_EXHAUSTED", text)
            self.cancel(StreamClosed(text))
            raise self._failure_as_closed()
        self._queue.append(frame)
        self._queued += len(frame)
        self._wake_writer.set()

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Deliver incoming messages; see `MessageStream.run`."""
        self._deliver = on_message
        early, self._early = self._early, []
        for data, size in early:
            self.add(data, size)
        if self._early_eof:
            self.eof()
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def add(self, data: bytes, size: int) -> None:
        """Take in DATA; called by the connection."""
        if self._deliver is None:
            self._early.append((data, size))  # unacknowledged, so the flow control bounds it
            return
        if not self._ended.is_set():
            try:
                self._deframer.feed(data, self._deliver)
            except http2.MessageRefused as exc:
                self._end(StreamRefused(exc.code, str(exc)))
            except (StreamRefused, StreamClosed) as exc:
                self._end(exc)
            except Exception as exc:
                log.exception("a message could not be handled")
                self._end(StreamRefused("INTERNAL", f"internal error: {exc!r}"))
        self._unacknowledged += size
        if self._unacknowledged >= ACKNOWLEDGE_BYTES:
            http2.acknowledge(self._stream, self._unacknowledged)
            self._unacknowledged = 0

    def eof(self) -> None:
        """The other side sends no more; called by the connection."""
        if self._deliver is None:
            self._early_eof = True
        elif self._deframer.is_between_messages:
            self._end(None)
        else:
            self._end(StreamClosed("it ended in the middle of a message"))

    def unacked_size(self) -> int:
        """Return the bytes not acknowledged yet; called when the stream is released."""
        return self._unacknowledged + sum(size for _, size in self._early)

    def cancel(self, error: Exception) -> None:
        """End the stream, and the writing too; the connection calls it when it broke."""
        self._end(StreamClosed(str(error)))
        self._writing.cancel(error)

    async def serve(self, serve: Serve) -> None:
        """Run the Trio side of the stream: `serve` until it returns, then let the writer finish."""
        try:
            await serve(self)
        except StreamRefused as exc:
            self._refusal = exc
        except Exception:
            log.exception("a stream's handler failed")
            self._refusal = StreamRefused("INTERNAL", "internal error")
        finally:
            self._end(StreamClosed("the peer ended it"))
            self._served = True
            self._wake_writer.set()

    async def write_until_served(self) -> None:
        """Run the asyncio side: write what waits, until `serve` is over and the queue is empty.

        Raises:
            GRPCError: what the other side is told, when the stream was refused.
        """
        try:
            with self._writing:
                while True:
                    await self._wake_writer.wait()
                    self._wake_writer.clear()
                    while self._queue:
                        await http2.send(self._stream, self._queue[0])
                        self._queued -= len(self._queue.popleft())
                    if self._served:
                        break
        except (http2.H2Error, StreamTerminatedError, StreamClosed) as exc:
            self._end(StreamClosed(str(exc)))
        finally:
            self._end(StreamClosed("its connection was closed"))
        if self._refusal is not None:
            raise grpclib.GRPCError(Status[self._refusal.code], str(self._refusal))

    def _end(self, failure: StreamClosed | StreamRefused | None) -> None:
        if not self._ended.is_set():
            self._failure = failure
            self._ended.set()

    def _failure_as_closed(self) -> StreamClosed:
        return StreamClosed(str(self._failure or "the other side closed it"))
