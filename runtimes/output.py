"""Turn a chaincode's output into lines, at a pace the peer can bear.

Room:      runtimes   (standard library and Trio; used by the backends)
Loop:      Trio
Lifetime:  instance
Fabric:    `streamOutput`, core/container/dockercontroller/dockercontroller.go (release-2.5)

A chaincode that writes faster than the pace finds its pipe full and waits; nothing piles up here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import trio

READ_BYTES = 16 * 1024
MAX_LINE_BYTES = 64 * 1024
"""Longer lines are delivered in pieces of this size."""
TAIL_LINES = 100
TAIL_BYTES = 2 * MAX_LINE_BYTES
LINES_PER_S = 5_000
BYTES_PER_S = 4 * 1024 * 1024
BURST_S = 0.1
"""How much of a second's lines may come at once."""


class Output:
    """The output of one instance: hands on each line and keeps the last ones.

    Attributes:
        ended: set when all has been delivered.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.ended = trio.Event()
        self._on_line = on_line
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._hurried = False
        self._earliest = -math.inf

    def tail(self) -> tuple[str, ...]:
        """Return the last lines, oldest first: at most `TAIL_LINES` and about `TAIL_BYTES`."""
        return tuple(self._tail)

    def hurry(self) -> None:
        """Stop pacing: the writer has ended, and only what the pipe holds is still to come."""
        self._hurried = True

    async def pump(self, pipe: trio.abc.ReceiveStream) -> None:
        """Deliver lines until the end of `pipe`.

        Cancellation: loses what has been read and not delivered.
        """
        pending = b""
        while chunk := await pipe.receive_some(READ_BYTES):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                for piece in _cut(line.removesuffix(b"\r")):
                    await self._deliver(piece)
            while len(pending) >= MAX_LINE_BYTES:
                await self._deliver(pending[:MAX_LINE_BYTES])
                pending = pending[MAX_LINE_BYTES:]
        if pending:
            await self._deliver(pending)
        self.ended.set()

    async def _deliver(self, piece: bytes) -> None:
        line = piece.decode(errors="replace")
        self._tail.append(line)
        self._tail_size += len(line)
        while len(self._tail) > TAIL_LINES or self._tail_size > TAIL_BYTES:
            self._tail_size -= len(self._tail.popleft())
        self._on_line(line)
        now = trio.current_time()
        cost = 1 / LINES_PER_S + len(piece) / BYTES_PER_S
        self._earliest = max(self._earliest, now - BURST_S) + cost
        if self._hurried:
            await trio.lowlevel.checkpoint()
        elif self._earliest > now:
            await trio.sleep(self._earliest - now)


def _cut(line: bytes) -> list[bytes]:
    return [line[at : at + MAX_LINE_BYTES] for at in range(0, len(line) or 1, MAX_LINE_BYTES)]
