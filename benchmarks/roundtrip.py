"""GetState, from the chaincode's request to its answer.

Room:      benchmarks   (drives peer.open_peer, as any program that embeds a peer)
Loop:      Trio
Lifetime:  one process
Fabric:    none

Asked through the chaincode library and by a chaincode without it, next to an echo between two
asyncio processes; by one transaction, and by 32 at a time, each of which has one request out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio
from measure import CHAINCODES, CPU, YARDSTICK, Meter, Row, Samples, main, pin

from peer import Peer, open_peer

CHANNEL = "mychannel"
KEY = "k0000000"
ECHO = Path(__file__).with_name("echo.py")
CHAINCODE_NAMES = ("library", "bare")


def rows(quick: bool) -> list[Row]:
    """Measure the round trip of a state read."""
    pin()
    trips = {1: 200, 32: 1600} if quick else {1: 1500, 32: 16_000}
    samples = trio.run(measure, 2 if quick else 9, trips)
    found = []
    for outstanding in trips:
        for name in (*CHAINCODE_NAMES, "echo"):
            for side, unit in (("round trip", "µs"), ("peer", CPU), ("chaincode", CPU)):
                floor = _name(side, "echo", outstanding) if name != "echo" else ""
                found.append(samples.row(_name(side, name, outstanding), unit, to=floor))
    return [*found, samples.row(YARDSTICK, CPU)]


async def measure(rounds: int, trips: dict[int, int]) -> Samples:
    """Return samples of one round trip, `trips` of them a sample, by how many are outstanding."""
    samples = Samples()
    async with open_peer() as peer:
        for name in CHAINCODE_NAMES:
            await peer.install(CHAINCODES / "library", name=name)
            await peer.invoke(CHANNEL, name, ["fill", "0", "1"])
            await peer.install(CHAINCODES / name, name=name)  # the same data for other code
        pids = {
            name: int((await peer.query(CHANNEL, name, ["pid"])).payload)
            for name in CHAINCODE_NAMES
        }
        for _ in range(rounds):
            samples.yardstick()
            for outstanding, count in trips.items():
                for name, pid in pids.items():
                    await get(peer, name, count // 10, outstanding)  # wakes both sides up
                    meter = Meter(os.getpid(), pid)
                    await get(peer, name, count, outstanding)
                    _keep(samples, name, outstanding, count, meter.lap())
                _keep(samples, "echo", outstanding, count, await echo(count, outstanding))
    return samples


async def get(peer: Peer, name: str, trips: int, outstanding: int) -> None:
    """Read one key `trips` times, in `outstanding` transactions at once."""
    async with trio.open_nursery() as nursery:
        for _ in range(outstanding):
            args = ["gets", str(trips // outstanding), KEY]
            nursery.start_soon(peer.query, CHANNEL, name, args)


async def echo(trips: int, outstanding: int) -> list[float]:
    """Return wall time, CPU time of the answering and of the asking process, in seconds."""
    command = [sys.executable, str(ECHO), str(trips), str(outstanding)]
    done = await trio.run_process(command, capture_stdout=True)
    wall, asking, answering = json.loads(done.stdout)
    return [wall, answering, asking]


def _keep(
    samples: Samples, name: str, outstanding: int, trips: int, spent: Sequence[float]
) -> None:
    for side, seconds in zip(("round trip", "peer", "chaincode"), spent, strict=True):
        samples.add(_name(side, name, outstanding), seconds / trips)


def _name(side: str, name: str, outstanding: int) -> str:
    return f"{side}, {name}, {outstanding} outstanding"


if __name__ == "__main__":
    main(rows)
