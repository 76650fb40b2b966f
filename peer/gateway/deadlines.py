"""Say what a caller waited for in vain, before it stops waiting.

Room:      peer.gateway   (used by everything in it)
Loop:      Trio
Lifetime:  one call
Fabric:    the `ctx.Done()` branches of internal/pkg/gateway (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from peer.errors import CallRefused, Code

LAST_WORDS_S = 0.01


@contextmanager
def in_time(sentence: str) -> Iterator[None]:
    """End what is inside just before the caller's deadline, which is the one of its scope.

    Raises:
        CallRefused: DEADLINE_EXCEEDED, with the sentence.
    """
    with trio.CancelScope(deadline=trio.current_effective_deadline() - LAST_WORDS_S) as scope:
        yield
    if scope.cancelled_caught:
        raise CallRefused(Code.DEADLINE_EXCEEDED, sentence)
