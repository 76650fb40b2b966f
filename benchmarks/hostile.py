"""What honest clients notice while somebody attacks the peer.

Room:      benchmarks   (drives a peer that is a process of its own)
Loop:      one selector, see wire
Lifetime:  one process
Fabric:    none

Honest clients endorse, each waiting for its answer. Before each attack the same is measured without
one, and the ratio is to that. The peer has a CPU to itself as far as there are two; the attacker
has the lowest priority on the other, so that it takes nothing from honest clients but through the
peer.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from attacks import ATTACKS
from measure import Row, Samples, main, memory, pin_process
from served import Served, serving
from services import Network, client, endorse
from wire import Wire

HERE = Path(__file__).parent
CLIENTS = 8
QUIET = "no attack"


def rows(quick: bool) -> list[Row]:
    """Measure every attack."""
    samples = Samples()
    calls, rounds = (100, 1) if quick else (400, 3)
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(Path(directory), tls=False) as served,
        closing(Wire()) as wire,
    ):
        cpus = sorted(os.sched_getaffinity(0))
        pin_process(served.pid, cpus[:1])
        for pid in (served.chaincode, os.getpid()):
            pin_process(pid, cpus[1:] or cpus)
        honest = Honest(Network(served, tls=False), wire)
        honest.measure(Samples(), calls, "warm up")
        for _ in range(rounds):
            for attack in ATTACKS:
                honest.measure(samples, calls, f"before {attack}")
                with attacking(attack, served):
                    honest.measure(samples, calls, attack)
    return list(_found(samples))


def _found(samples: Samples) -> Iterator[Row]:
    for attack in ATTACKS:
        for figure, unit, scale in (("p50", "ms", 1e3), ("p99", "ms", 1e3)):
            before = f"before {attack}, {figure}"
            yield samples.row(f"{attack}, {figure}", unit, scale=scale, to=before)
        yield samples.row(f"{attack}, peer, memory", "MiB", scale=1)


class Honest:
    """Clients that were there before anybody attacked, and keep their connections."""

    def __init__(self, known: Network, wire: Wire) -> None:
        self._known = known
        self._wire = wire
        self._ways = [partial(endorse, each) for each in known.peers(wire, CLIENTS)]

    def measure(self, samples: Samples, calls: int, name: str) -> None:
        """Let them make their calls."""
        proposals = iter([self._known.put().signed.encode() for _ in range(calls)])
        took: list[float] = []
        self._wire.run(client(way, proposals, took) for way in self._ways)
        percentiles = statistics.quantiles(took, n=100, method="inclusive")
        samples.add(f"{name}, p50", percentiles[49])
        samples.add(f"{name}, p99", percentiles[98])
        samples.add(f"{name}, peer, memory", memory(self._known.served.pid)[0])


@contextmanager
def attacking(attack: str, served: Served) -> Iterator[None]:
    """Have somebody attack the peer meanwhile."""
    host, _, port = served.address.rpartition(":")
    command = [sys.executable, str(HERE / "attacks.py"), attack, host, port]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
        try:
            assert attacker.stdout is not None
            attacker.stdout.readline()
            yield
        finally:
            attacker.kill()


if __name__ == "__main__":
    main(rows)
