"""GetState, from the chaincode's request to its answer.

Room:      benchmarks   (drives peer.open_peer, as any program that embeds a peer)
Loop:      Trio
Lifetime:  one process
Fabric:    none

Asked by chaincodes on our library and on the official ones, and by one that follows a script and
so takes less time than the peer; next to an echo between two asyncio processes. By one transaction,
and by 32 at a time, each of which has one request out. What transactions of one request take is
subtracted, so that proposals, signatures and results do not count.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio
from measure import CHAINCODES, CPU, YARDSTICK, Meter, Row, Samples, main, pin, skipped

from peer import Peer, open_peer
from tests.chaincodes.prepare import Unavailable, golang, node

CHANNEL = "mychannel"
KEY = "k0000000"
ECHO = Path(__file__).with_name("echo.py")
OWN = ("library", "wire")
"""Chaincodes that tell their process id."""
OFFICIAL = {"Go library": golang, "Node library": node}
OUTSTANDING = (1, 32)
ECHO_TRIPS = {1: 3_000, 32: 50_000}
FEW = 100
"""Requests of each transaction when it is found out how many take the time of a sample."""
ROUND_TRIP, PEER, CHAINCODE, BOTH = "round trip", "peer", "chaincode", "peer and chaincode"


def rows(quick: bool) -> list[Row]:
    """Measure the round trip of a state read."""
    pin()
    sources = {name: CHAINCODES / name for name in OWN} | official()
    samples = trio.run(measure, sources, 2 if quick else 5, 0.05 if quick else 0.6)
    found = []
    for outstanding in OUTSTANDING:
        for name in (*sources, "echo"):
            sides = (ROUND_TRIP, PEER) if name in OFFICIAL else (ROUND_TRIP, PEER, CHAINCODE, BOTH)
            for side in sides:
                floor = _name(side, "echo", outstanding) if name != "echo" else ""
                unit = "µs" if side == ROUND_TRIP else CPU
                found.append(samples.row(_name(side, name, outstanding), unit, to=floor))
    return [*found, samples.row(YARDSTICK, CPU)]


def official() -> dict[str, Path]:
    """Return where the chaincodes on the official libraries are, and say which cannot be had."""
    found = {}
    for name, prepare in OFFICIAL.items():
        try:
            found[name] = prepare().path
        except Unavailable as exc:
            skipped(name, exc)
    return found


async def measure(sources: dict[str, Path], rounds: int, seconds: float) -> Samples:
    """Return samples of one round trip, each of so many seconds, by how many are outstanding."""
    samples = Samples()
    async with open_peer() as peer:
        pids = {name: await start(peer, name, source) for name, source in sources.items()}
        for _ in range(rounds):
            samples.yardstick()
            for outstanding in OUTSTANDING:
                for name, pid in pids.items():
                    asking = Asking(peer, name, outstanding, Meter(os.getpid(), *pid))
                    _keep(samples, name, outstanding, await asking.sample(seconds))
                _keep(samples, "echo", outstanding, await echo(outstanding))
    return samples


class Asking:
    """Transactions of one chaincode that run at the same time."""

    def __init__(self, peer: Peer, name: str, outstanding: int, meter: Meter) -> None:
        self._peer = peer
        self._name = name
        self._outstanding = outstanding
        self._meter = meter

    async def sample(self, seconds: float) -> list[float]:
        """Return what one round trip takes, in the order of the meter."""
        wall, *_ = await self._spend(FEW)  # wakes both sides up
        many = FEW + int(seconds * FEW / wall)
        one, spent = await self._spend(1), await self._spend(many)
        trips = (many - 1) * self._outstanding
        return [(each - base) / trips for each, base in zip(spent, one, strict=True)]

    async def _spend(self, requests: int) -> tuple[float, ...]:
        """Return what transactions of so many requests take."""
        self._meter.lap()
        async with trio.open_nursery() as nursery:
            for _ in range(self._outstanding):
                nursery.start_soon(self._transaction, requests)
        return self._meter.lap()

    async def _transaction(self, requests: int) -> None:
        args = ["gets", str(requests), KEY]
        result = await self._peer.query(CHANNEL, _ccid(self._name), args)
        if result.status != 200:
            raise RuntimeError(f"{self._name}: {result}")


async def start(peer: Peer, name: str, source: Path) -> list[int]:
    """Launch a chaincode that finds a value under the key; return its process id if it tells."""
    ccid = _ccid(name)
    await peer.install(CHAINCODES / "library", name=ccid)
    await peer.invoke(CHANNEL, ccid, ["fill", "0", "1"])
    await peer.install(source, name=ccid)  # the same data for other code
    if name in OFFICIAL:
        return []
    return [int((await peer.query(CHANNEL, ccid, ["pid"])).payload)]


async def echo(outstanding: int) -> list[float]:
    """Return wall time, CPU time of the answering and of the asking process, for one message."""
    trips = ECHO_TRIPS[outstanding]
    command = [sys.executable, str(ECHO), str(trips), str(outstanding)]
    done = await trio.run_process(command, capture_stdout=True)
    wall, asking, answering = json.loads(done.stdout)
    return [wall / trips, answering / trips, asking / trips]


def _keep(samples: Samples, name: str, outstanding: int, spent: Sequence[float]) -> None:
    for side, seconds in zip((ROUND_TRIP, PEER, CHAINCODE), spent, strict=False):
        samples.add(_name(side, name, outstanding), seconds)
    samples.add(_name(BOTH, name, outstanding), sum(spent[1:]))


def _ccid(name: str) -> str:
    return name.replace(" ", "_")


def _name(side: str, name: str, outstanding: int) -> str:
    return f"{side}, {name}, {outstanding} outstanding"


if __name__ == "__main__":
    main(rows)
