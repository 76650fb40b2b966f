"""What a transaction costs as the ledger grows and as more chaincodes run.

Room:      benchmarks   (drives peer.open_peer, as any program that embeds a peer)
Loop:      Trio
Lifetime:  one process
Fabric:    none

A query reads a key; an invoke reads a key and writes it, and returns when its block is on disk. CPU
time is the peer's; it signs the proposals too, in its client's place.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import trio
from measure import CHAINCODES, CPU, YARDSTICK, Meter, Row, Samples, main, pin

from peer import Peer, open_peer

CHANNEL = "mychannel"
CALLS = 10
"""Transactions of one sample."""
COMPARED_KEYS = 1_000
"""What larger ledgers are compared with; a smaller one is a page or two."""
FILL_KEYS = 5_000
"""Keys that one transaction writes while a ledger is filled."""
ONE_CALLED, ALL_CALLED = "{} chaincodes ready", "{} chaincodes in turn"
LAUNCHES_AT_ONCE = 4


def rows(quick: bool) -> list[Row]:
    """Measure transactions by the size of the ledger and by the number of chaincodes."""
    pin()
    keys, fleets = ((1, 1_000), (1, 3)) if quick else ((1, 100, 1_000, 100_000), (1, 10, 100))
    samples = Samples()
    trio.run(measure_ledgers, samples, keys, 3 if quick else 30)
    trio.run(measure_fleets, samples, fleets, 3 if quick else 8)
    places = {f"{count:,} keys": f"{COMPARED_KEYS:,} keys" for count in keys} | {
        place: ONE_CALLED.format(1) for count in fleets for place in _places(count)
    }
    found = [
        samples.row(f"{kind}, {place}", unit, to="" if place == first else f"{kind}, {first}")
        for kind, unit in (
            ("query", "µs"),
            ("query, peer", CPU),
            ("invoke", "µs"),
            ("invoke, peer", CPU),
        )
        for place, first in places.items()
    ]
    return [*found, samples.row(YARDSTICK, CPU)]


async def measure_ledgers(samples: Samples, sizes: Sequence[int], rounds: int) -> None:
    """Run the same transactions on ledgers of different sizes, in turn: one channel each."""
    dice = random.Random(0)
    async with open_peer() as peer:
        for size in sizes:
            channel = f"keys-{size}"
            await peer.join_channel(channel)
            await peer.install(CHAINCODES / "library", name="cc", channels=[channel])
            for first in range(0, size, FILL_KEYS):
                count = min(FILL_KEYS, size - first)
                await peer.invoke(channel, "cc", ["fill", str(first), str(count)])
        for _ in range(rounds):
            samples.yardstick()
            for size in dice.sample(sizes, len(sizes)):
                calls = [("cc", f"k{dice.randrange(size):07}") for _ in range(CALLS)]
                await _transact(samples, f"{size:,} keys", peer, f"keys-{size}", calls)


async def measure_fleets(samples: Samples, sizes: Sequence[int], rounds: int) -> None:
    """Run the same transactions while more chaincodes are READY and then fewer, twice."""
    with tempfile.TemporaryDirectory() as directory:
        async with open_peer() as peer:
            ccids = {
                name: await _install_copy(peer, Path(directory) / name)
                for name in (f"cc{number}" for number in range(max(sizes)))
            }
            for size in [*sizes, *reversed(sizes)] * 2:
                await _run_only(peer, ccids, size)
                called = [cycle(list(ccids)[:count]) for count in (1, size)]
                for _ in range(rounds):
                    samples.yardstick()
                    for place, names in zip(_places(size), called, strict=False):
                        calls = [(name, "k0000000") for name in islice(names, CALLS)]
                        await _transact(samples, place, peer, CHANNEL, calls)


def _places(fleet: int) -> list[str]:
    """Name what is sampled with so many chaincodes: one of them called, or every one in turn."""
    return [called.format(fleet) for called in (ONE_CALLED, ALL_CALLED)[: min(fleet, 2)]]


async def _install_copy(peer: Peer, directory: Path) -> str:
    """Install the chaincode under another name, which gives it a process of its own."""
    shutil.copytree(CHAINCODES / "library", directory)
    return (await peer.install(directory)).ccid


async def _run_only(peer: Peer, ccids: dict[str, str], size: int) -> None:
    """Launch the first `size` chaincodes and stop the others; what is so already stays."""
    limiter = trio.CapacityLimiter(LAUNCHES_AT_ONCE)

    async def change(ccid: str, is_wanted: bool) -> None:
        async with limiter:
            await (peer.chaincode.launch if is_wanted else peer.chaincode.stop)(ccid)

    async with trio.open_nursery() as nursery:
        for number, ccid in enumerate(ccids.values()):
            nursery.start_soon(change, ccid, number < size)


async def _transact(
    samples: Samples, place: str, peer: Peer, channel: str, calls: Sequence[tuple[str, str]]
) -> None:
    """Take one sample of each kind: query every (chaincode, key), then update every one."""
    for kind, call, function in (("query", peer.query, "get"), ("invoke", peer.invoke, "update")):
        meter = Meter(os.getpid())
        for name, key in calls:
            result = await call(channel, name, [function, key])
            if result.status != 200:
                raise RuntimeError(f"{kind} of {key}: {result.message}")
        wall, cpu = meter.lap()
        samples.add(f"{kind}, {place}", wall / len(calls))
        samples.add(f"{kind}, peer, {place}", cpu / len(calls))


if __name__ == "__main__":
    main(rows)
