"""Give way to other tasks after so much work, and not after each piece of it.

Room:      peer.ledger   (a leaf; used by queries, kvledger and validation)
Loop:      Trio
Lifetime:  one piece of work
Fabric:    none
"""

from __future__ import annotations

import time

import trio

TURN_S = 0.002


class Turn:
    """Lets other tasks run when it has been this one's turn for long enough."""

    def __init__(self) -> None:
        self._ends = time.perf_counter() + TURN_S

    async def give_way(self) -> None:
        """Wait for one's next turn, if this one is over.

        Cancellation: at the end of a turn.
        """
        if time.perf_counter() > self._ends:
            await trio.lowlevel.checkpoint()
            self._ends = time.perf_counter() + TURN_S
