"""A peer that lives longer than one test.

Room:      tests.integration   (imports peer; used by tests that share a peer)
Loop:      Trio, in a thread of its own; tests call in from outside
Lifetime:  a module's or a session's fixture
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Generic, TypeVar

import trio

T = TypeVar("T")
R = TypeVar("R")
Opened = Callable[[], AbstractAsyncContextManager[T]]


class Held(Generic[T]):
    """An asynchronous context that is held open in another thread; made by `held`."""

    def __init__(self, value: T, token: trio.lowlevel.TrioToken) -> None:
        self.value = value
        self._token = token

    def run(self, work: Callable[..., Awaitable[R]], *args: object) -> R:
        """Run a coroutine function beside the open context and return its result."""
        return trio.from_thread.run(work, *args, trio_token=self._token)


@contextmanager
def held(opened: Opened[T]) -> Iterator[Held[T]]:
    """Enter `opened()` in a thread of its own and leave it at the end; errors come out here."""
    ready: list[Held[T]] = []
    failures: list[BaseException] = []
    is_open, close = threading.Event(), trio.Event()

    async def hold() -> None:
        async with opened() as value:
            ready.append(Held(value, trio.lowlevel.current_trio_token()))
            is_open.set()
            await close.wait()

    def main() -> None:
        try:
            trio.run(hold)
        except BaseException as exc:
            failures.append(exc)
        finally:
            is_open.set()

    thread = threading.Thread(target=main, name="held")
    thread.start()
    is_open.wait()
    try:
        if ready:
            yield ready[0]
    finally:
        if ready and not failures:
            with suppress(trio.RunFinishedError):  # it ended by itself; its failure follows
                trio.from_thread.run_sync(close.set, trio_token=ready[0]._token)
        thread.join()
        if failures:
            raise failures[0]
