"""The transaction flow in one process: proposals endorsed, transactions committed.

Room:      benchmarks   (drives peer.open_peer, as any program that embeds a peer)
Loop:      Trio
Lifetime:  one process
Fabric:    none

Every call updates one key, a read and a write. CPU is the peer's, and what the client does in the
same process counts: making and signing the proposal, and for a transaction the envelope, too.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator

import trio
from measure import CHAINCODES, CPU, YARDSTICK, Meter, Row, Samples, main, pin

from peer import Peer, open_peer

CHANNEL = "mychannel"
CLIENTS = (1, 8, 64)
Call = Callable[[str], Awaitable[object]]


def rows(quick: bool) -> list[Row]:
    """Measure endorsements and commits."""
    pin()
    samples = trio.run(measure, 2 if quick else 5, 64 if quick else 640)
    found = []
    for what in ("endorse", "commit"):
        for clients in CLIENTS:
            name = _name(what, clients)
            alone = f"{_name(what, 1)}, wall" if clients > 1 else ""
            found += [
                samples.row(f"{name}, wall", "µs", to=alone),
                samples.row(f"{name}, peer", CPU),
                samples.row(f"{name}, p50", "ms", scale=1e3),
                samples.row(f"{name}, p99", "ms", scale=1e3),
            ]
    return [*found, samples.row(YARDSTICK, CPU)]


async def measure(rounds: int, calls: int) -> Samples:
    """Return samples of `calls` calls each, by how many clients make them."""
    samples = Samples()
    async with open_peer() as peer:
        await peer.install(CHAINCODES / "library", name="cc")
        pid = int((await peer.query(CHANNEL, "cc", ["pid"])).payload)
        for _ in range(rounds):
            samples.yardstick()
            for what, call in (("endorse", _endorsing(peer)), ("commit", _committing(peer))):
                for clients in CLIENTS:
                    count = max(calls * clients // CLIENTS[-1], 4 * clients)
                    await _make(call, clients, clients)  # wakes everything up
                    meter = Meter(os.getpid(), pid)
                    took = await _make(call, clients, count)
                    wall, cpu, _ = meter.lap()
                    name = _name(what, clients)
                    samples.add(f"{name}, wall", wall / count)
                    samples.add(f"{name}, peer", cpu / count)
                    percentiles = statistics.quantiles(took, n=100, method="inclusive")
                    samples.add(f"{name}, p50", percentiles[49])
                    samples.add(f"{name}, p99", percentiles[98])
    return samples


def _endorsing(peer: Peer) -> Call:
    async def call(key: str) -> None:
        result = await peer.query(CHANNEL, "cc", ["update", key])
        if result.status != 200:
            raise RuntimeError(f"{key}: {result}")

    return call


def _committing(peer: Peer) -> Call:
    async def call(key: str) -> None:
        result = await peer.invoke(CHANNEL, "cc", ["update", key])
        if not result.committed:
            raise RuntimeError(f"{key}: {result}")

    return call


async def _make(call: Call, clients: int, count: int) -> list[float]:
    """Make calls from several clients, each waiting for its own; return the seconds each took."""
    took: list[float] = []

    async def client(numbers: Iterator[int]) -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(f"k{number:07}")
            took.append(time.perf_counter() - began)

    numbers = iter(range(count))
    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(client, numbers)
    return took


def _name(what: str, clients: int) -> str:
    return f"{what}, {clients} client{'s' * (clients > 1)}"


if __name__ == "__main__":
    main(rows)
