"""Read what others send, and work on it, without holding everybody up.

Room:      peer.reading   (a leaf; used where strangers decide how much work there is)
Loop:      Trio; much is read in a worker thread
Lifetime:  one message

Millions of tiny fields take seconds to read, and anybody may send them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE_BYTES = 1 << 16
"""To read so much takes a few hundredths of a second at worst."""
THREADS = 2
"""For all that is large, so that whoever needs a thread for files gets one."""

_threads = trio.lowlevel.RunVar[trio.CapacityLimiter]("peer.reading.threads")


async def read_apart(read: Callable[[T], R], data: T, size: int) -> R:
    """Return ``read(data)``, and let others go on if `size` is large.

    Args:
        read: touches nothing but its argument.
        size: bytes.

    Cancellation: the result is thrown away.
    """
    if size <= AT_ONCE_BYTES:
        return read(data)
    return await apart(partial(read, data))


async def apart(work: Callable[[], R]) -> R:
    """Return ``work()``, done in one of few threads.

    Args:
        work: changes nothing that anybody else sees.

    Cancellation: the result is thrown away.
    """
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_limiter())


def _limiter() -> trio.CapacityLimiter:
    try:
        return _threads.get()
    except LookupError:
        _threads.set(limiter := trio.CapacityLimiter(THREADS))
        return limiter
