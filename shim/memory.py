"""A stream inside one event loop, for chaincode in the peer's process and for tests.

Room:      shim   (imports its own errors only)
Loop:      asyncio
Lifetime:  stream
Fabric:    `StartInProc`, shim/shim.go (fabric-chaincode-go)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .errors import StreamClosed


class MemoryStream:
    """One end of a pair; a `shim.transport.Duplex`."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._other: MemoryStream = self
        self._closed = False

    def send(self, data: bytes) -> None:
        """Queue one message for the other end.

        Raises:
            StreamClosed: one of the ends has closed.
        """
        if self._closed or self._other._closed:
            raise StreamClosed("the stream is closed")
        self._other._arrived.put_nowait(data)

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Deliver every message until one of the ends closes; raises what *on_message* raises.

        Cancellation: ends the stream.
        """
        try:
            while (data := await self._arrived.get()) is not None:
                on_message(data)
        finally:
            self.close()

    def close(self) -> None:
        """End the stream; what was sent before is still delivered. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._arrived.put_nowait(None)
            self._other._arrived.put_nowait(None)


def memory_streams() -> tuple[MemoryStream, MemoryStream]:
    """Make the two ends of a stream."""
    here, there = MemoryStream(), MemoryStream()
    here._other, there._other = there, here
    return here, there
