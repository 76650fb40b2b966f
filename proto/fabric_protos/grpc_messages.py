"""Messages as gRPC puts them one behind the other on a stream.

Room:      fabric_protos   (used by data_frames, and by peer.rpc and shim.transport)
Loop:      none
Lifetime:  stream
Fabric:    none; the text of a message over the limit is that of gRPC in Go
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

PREFIX = Struct(">BI")  # compression flag, length


class Deframer:
    """Cuts a byte stream into gRPC messages.

    Raises:
        MessageRefused: from `feed`, for a compressed message or one over the limit, on its first
            bytes, before the rest is taken in.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._needed = PREFIX.size

    def feed(
        self,
        data: bytes,
        deliver: Callable[[bytes], None],
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        """Hand every message that is complete to `deliver`; `data` may be part of something."""
        stop = len(data) if stop is None else stop
        if self._partial:
            self._partial += data[start:stop]
            if len(self._partial) < self._needed:
                return
            data, self._partial = bytes(self._partial), bytearray()
            start, stop = 0, len(data)
        self._needed = PREFIX.size
        while stop - start >= PREFIX.size:
            is_compressed, size = PREFIX.unpack_from(data, start)
            if is_compressed:
                raise MessageRefused("UNIMPLEMENTED", "compressed messages are not supported")
            if size > self._limit:
                raise MessageRefused(
                    "RESOURCE_EXHAUSTED",
                    f"grpc: received message larger than max ({size} vs. {self._limit})",
                )
            first = start + PREFIX.size
            if first + size > stop:
                self._needed = PREFIX.size + size
                break
            start = first + size
            deliver(data[first:start])
        if start < stop:
            self._partial += data[start:stop]

    def clear(self) -> None:
        """Forget what has arrived of a message."""
        self._partial = bytearray()

    @property
    def is_between_messages(self) -> bool:
        """No message has begun to arrive."""
        return not self._partial


class MessageRefused(Exception):
    """A message the other side should not have sent.

    Attributes:
        code: gRPC status name.
    """

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)


def grpc_frame(message: bytes) -> bytes:
    """Return a message with gRPC's prefix: not compressed, length."""
    return PREFIX.pack(0, len(message)) + message
