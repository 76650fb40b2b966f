"""A program that generates or takes in a snapshot, and kills itself; see test_snapshot_crashes.py.

Room:      tests
Loop:      Trio
Lifetime:  one point

Arguments: what to do (``generate`` or ``join``), the directory, and the point, counted over
everything that makes something durable, before and after it. It prints ``done`` if there is no such
point.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from peer.ledger import durable
from tests.unit.ledger.snapshotting import place_of, running, snapshot, take_in

T = TypeVar("T")


def install(point: int) -> None:
    """Kill this process at a point."""
    left = point

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(call: Callable[[T], None]) -> Callable[[T], None]:
        def act(argument: T) -> None:
            count()
            call(argument)
            count()

        return act

    durable.sync, durable.commit = watched(durable.sync), watched(durable.commit)


async def generate(directory: Path) -> None:
    async with running(directory / "a") as ledger:
        install(int(sys.argv[3]))
        await snapshot(ledger, directory / "a")


async def join(directory: Path) -> None:
    install(int(sys.argv[3]))
    await take_in(directory / "b", place_of(directory / "a", 3))


if __name__ == "__main__":
    trio.run({"generate": generate, "join": join}[sys.argv[1]], Path(sys.argv[2]))
    print("done")
