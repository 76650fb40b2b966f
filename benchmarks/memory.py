"""What the peer and chaincodes hold in memory: idle, after many transactions, with many of them.

Room:      benchmarks   (drives peer.open_peer, as any program that embeds a peer)
Loop:      Trio
Lifetime:  one process
Fabric:    none

The peer orders for itself. RSS is all that is resident; PSS counts a page that several processes
use by its share. Ratios are to a Python interpreter that does nothing. Growth is counted from the
first thousand transactions on, when caches are full.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice

import trio
from measure import CHAINCODES, Row, Samples, main, memory, pin

from peer import Peer, open_peer

CHANNEL = "mychannel"
FLOOR = "idle Python interpreter"
IDLE = "print(flush=True); input()"
CLIENTS = 8
KEYS = 1_000
INVOKES = 100_000
GROWTH = f"peer, growth in {INVOKES:,} invokes, RSS"


def rows(quick: bool) -> list[Row]:
    """Measure memory."""
    pin()
    samples = Samples()
    measure_interpreter(samples)
    measured = trio.run(measure_peer, samples, 200 if quick else INVOKES, 3 if quick else 100)
    rows = [
        samples.row(
            f"{place}, {kind}", "MiB", scale=1, to="" if place == FLOOR else f"{FLOOR}, {kind}"
        )
        for place in (FLOOR, *measured)
        for kind in ("RSS", "PSS")
    ]
    return [*rows, samples.row(GROWTH, "MiB", scale=1)]


def measure_interpreter(samples: Samples) -> None:
    """Sample a Python interpreter that has started and waits."""
    command = [sys.executable, "-c", IDLE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdout is not None
        idle.stdout.readline()
        _keep(samples, FLOOR, idle.pid)
        idle.communicate(b"\n")


async def measure_peer(samples: Samples, transactions: int, chaincodes: int) -> list[str]:
    """Sample peer and chaincode on the way; return the names of the samples."""
    places = ["peer, idle", "peer, one chaincode ready", "chaincode, ready"]
    places += [f"{process}, after {transactions:,} invokes" for process in ("peer", "chaincode")]
    places += [f"{process}, {chaincodes} chaincodes ready" for process in ("peer", "chaincode")]
    async with open_peer() as peer:
        _keep(samples, places[0], os.getpid())
        await peer.install(CHAINCODES / "library", name="cc")
        pid = int((await peer.query(CHANNEL, "cc", ["pid"])).payload)
        _keep(samples, places[1], os.getpid())
        _keep(samples, places[2], pid)
        numbers = iter(range(transactions))
        await _work(peer, islice(numbers, min(KEYS, transactions // 2)))
        before, _ = memory(os.getpid())
        await _work(peer, numbers)
        after, _ = memory(os.getpid())
        samples.add(GROWTH, after - before)
        _keep(samples, places[3], os.getpid())
        _keep(samples, places[4], pid)
        for number in range(1, chaincodes):
            await peer.install(CHAINCODES / "library", name=f"cc{number}")
            pid = int((await peer.query(CHANNEL, f"cc{number}", ["pid"])).payload)
        _keep(samples, places[5], os.getpid())
        _keep(samples, places[6], pid)
    return places


async def _work(peer: Peer, numbers: Iterator[int]) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(_update, peer, numbers)


async def _update(peer: Peer, numbers: Iterator[int]) -> None:
    """Be one client: update a key for each number taken from those that all clients share."""
    for number in numbers:
        result = await peer.invoke(CHANNEL, "cc", ["update", f"k{number % KEYS:07}"])
        if not result.committed:
            raise RuntimeError(f"update {number}: {result}")


def _keep(samples: Samples, place: str, pid: int) -> None:
    for kind, mib in zip(("RSS", "PSS"), memory(pid), strict=True):
        samples.add(f"{place}, {kind}", mib)


if __name__ == "__main__":
    main(rows)
