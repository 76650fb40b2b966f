"""What every backend stands on: tasks that clean up, and a state directory of its own.

Room:      runtimes   (imports runtimes.api; used by the backends)
Loop:      Trio
Lifetime:  as long as the backend
Fabric:    none
"""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from runtimes.api import RuntimeUnavailable

LOCK = "lock"
"""The file in a state directory that its user holds locked."""


@asynccontextmanager
async def holders() -> AsyncIterator[trio.Nursery]:
    """Give a nursery that a cancellation from outside does not reach: its tasks clean up.

    Leaving cancels what still runs in it; an exception leaves as it is, in no group.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True):  # cancelled here, it would never leave its shield
            shielded: trio.Nursery = await nursery.start(_shielded_nursery)
        try:
            yield shielded
        except BaseException as exc:  # raised again below, outside the nursery
            failure = exc
        shielded.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _shielded_nursery(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Keep other peers out of a directory; the kernel lets go when this process ends.

    Raises:
        RuntimeUnavailable: another peer uses it.
    """
    with (state_dir / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise RuntimeUnavailable(
                f"{state_dir} is in use by another peer; stop it or choose another directory"
            ) from exc
        yield


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the lock of this name; without leave to look, that he does."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # it is held, or not ours to open
        return True
    return False
