"""The stream between a handler and one chaincode, whatever carries it.

Room:      peer.chaincode   (imports runtimes.api; implemented by peer.rpc and `memory_pipe`)
Loop:      Trio; `on_message` may be called from the asyncio side of the same thread
Lifetime:  one stream
Fabric:    `ChaincodeStream`, core/chaincode/handler.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import trio

from runtimes.api import Origin

MAX_MESSAGE_BYTES = 100 * 1024 * 1024
MAX_QUEUED_BYTES = 2 * MAX_MESSAGE_BYTES


class StreamClosed(Exception):
    """The stream has ended, or ends now: nothing can be sent on it any more."""


class StreamRefused(Exception):
    """Raised out of a handler to end its stream with a status the chaincode can read.

    Attributes:
        code: gRPC status name, such as ``ALREADY_EXISTS``.
    """

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)


class PeerEnd(NamedTuple):
    """Who is at the chaincode's end of the stream.

    Attributes:
        origin: kernel's view of the connection; None when the peer dialled, and in memory.
        certificate: DER bytes of the TLS client certificate, None without one.
    """

    origin: Origin | None = None
    certificate: bytes | None = None


class MessageStream(Protocol):
    """Marshalled `ChaincodeMessage`s in both directions."""

    @property
    def far_end(self) -> PeerEnd:
        """Who is at the other end."""
        ...

    def send(self, data: bytes) -> None:
        """Queue one message, in order, without waiting.

        Raises:
            StreamClosed: the stream is over, or more than `MAX_QUEUED_BYTES` wait because the other
                side does not read.
        """
        ...

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Deliver every incoming message to `on_message` until the other side ends the stream.

        An exception out of `on_message` ends the stream and is raised here. What was queued by
        `send` is flushed before this returns.

        Raises:
            StreamClosed: the stream broke, with the reason.

        Cancellation: ends the stream.
        """
        ...


class MemoryStream:
    """One end of an in-process stream."""

    def __init__(
        self, outgoing: trio.MemorySendChannel[bytes], incoming: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self.far_end = PeerEnd()

    def send(self, data: bytes) -> None:
        """Queue one message; see `MessageStream.send`."""
        try:
            self._outgoing.send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise StreamClosed("channel is closed") from None
        except trio.WouldBlock:
            self.close()
            raise StreamClosed("the other side does not read") from None

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Deliver incoming messages; see `MessageStream.run`."""
        try:
            async for data in self._incoming:
                on_message(data)
        except trio.ClosedResourceError:
            raise StreamClosed("channel is closed") from None
        finally:
            self.close()

    def close(self) -> None:
        """End both directions."""
        self._outgoing.close()
        self._incoming.close()


def memory_pipe(capacity: int = 10_000) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of an in-process stream, each able to queue `capacity` messages.

    Source: `InProcStream`, core/scc/inprocstream.go (release-2.5).
    """
    send_a, receive_a = trio.open_memory_channel[bytes](capacity)
    send_b, receive_b = trio.open_memory_channel[bytes](capacity)
    return MemoryStream(send_a, receive_b), MemoryStream(send_b, receive_a)
