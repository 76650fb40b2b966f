"""A handler stream over gRPC.

Room:      peer.rpc   (implements peer.chaincode.stream.MessageStream)
Loop:      both: `run` waits in Trio, everything else is synchronous and called from either side
Lifetime:  stream

One crossing per stream: a Trio task waits for the end, an asyncio task for the last write. Messages
cross without a task switch, because both loops share the thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpclib
import trio
from grpclib.const import Status

from fabric_protos.data_frames import Messages
from fabric_protos.grpc_messages import MessageRefused
from peer.chaincode.connections import Serve
from peer.chaincode.stream import (
    MAX_QUEUED_BYTES,
    PeerEnd,
    StreamClosed,
    StreamRefused,
)
from peer.rpc import http2

log = logging.getLogger("peer.rpc")


class GrpcStream(Messages):
    """One gRPC stream of bytes messages.

    Args:
        limit: bytes of the largest message that is accepted.
        is_direct: see `Messages`.
    """

    def __init__(
        self, stream: http2.H2Stream, far_end: PeerEnd, *, limit: int, is_direct: bool = True
    ) -> None:
        self.far_end = far_end
        self._ended = trio.Event()
        self._is_open = True  # until it has ended
        self._failure: StreamClosed | StreamRefused | None = None
        self._refusal: StreamRefused | None = None
        self._is_over = asyncio.Event()  # it broke, or `serve` has returned
        super().__init__(stream, limit=limit, is_direct=is_direct)

    def send(self, data: bytes) -> None:
        """Queue one message; see `MessageStream.send`."""
        if self._is_open:
            if self.queued + len(data) > MAX_QUEUED_BYTES:
                text = f"the other side does not read ({self.queued} bytes wait)"
                self._refusal = StreamRefused("RESOURCE_EXHAUSTED", text)
                self.cancel(StreamClosed(text))
            else:
                self.post(data)
        if not self._is_open:
            raise StreamClosed(str(self._failure or "the other side closed it"))

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Deliver incoming messages; see `MessageStream.run`."""
        self.start(on_message)
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def on_end(self, error: Exception | None) -> None:
        """Hear that nothing more arrives; called by the connection."""
        self._end(None if error is None else StreamClosed(str(error)))

    def on_failure(self, error: Exception) -> None:
        """Hear that a message was not taken; called by the connection."""
        match error:
            case MessageRefused():
                self._end(StreamRefused(error.code, str(error)))
            case StreamRefused() | StreamClosed():
                self._end(error)
            case _:
                log.error("a message could not be handled", exc_info=error)
                self._end(StreamRefused("INTERNAL", f"internal error: {error!r}"))

    def cancel(self, error: Exception) -> None:
        """End the stream, and the writing too; the connection calls it when it broke."""
        super().cancel(error)
        self._is_over.set()

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
            self._is_over.set()

    async def write_until_served(self) -> None:
        """Run the asyncio side: wait until `serve` is over and everything is written.

        Raises:
            GRPCError: what the other side is told, when the stream was refused.
        """
        try:
            await self._is_over.wait()
            await self.drain()
        finally:
            self._end(StreamClosed("its connection was closed"))
        if self._refusal is not None:
            raise grpclib.GRPCError(Status[self._refusal.code], str(self._refusal))

    def _end(self, failure: StreamClosed | StreamRefused | None) -> None:
        self.ignore()
        if self._is_open:
            self._is_open = False
            self._failure = failure
            self._ended.set()
