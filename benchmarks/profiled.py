"""Where the CPU time of a peer goes: by package, and the functions that take most.

Room:      benchmarks   (a program of its own; drives a peer that is a process of its own)
Loop:      one selector, see wire
Lifetime:  one process
Fabric:    none

Usage: profiled.py [--only PATTERN] [--quick] [--json PATH] [--compare PATH] [--flames DIRECTORY]

A sample counts for the innermost frame that is not of the standard library, so what OpenSSL and
SQLite do counts for the package that calls them; asyncio is a package, too. Worker threads, which
write blocks, are one row. The CPU time of an operation is that of a run without samples.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import machine
from measure import Meter, pin_process
from served import Served, serving
from services import CLIENTS, Gateway, Network, client, endorse, endorsed
from wire import Client, Connection, Wire

TRIPS = 500
"""GetStates of one transaction."""
LEAST = 0.02
"""Share of a function from which on it is named."""
OTHER_THREADS = "worker threads"
FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*)\)$")
PACKAGE = re.compile(
    r".*/site-packages/(?P<distribution>\w+)|.*/(?P<own>peer(?:/\w+(?=/))?|fabric_protos)/[^/]+$"
    r"|.*/(?P<standard>asyncio)/"
)

Work = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of one kind of operation goes.

    Attributes:
        cpu_us: CPU time of an operation in microseconds, of the peer alone.
        packages, functions: share of each, the largest first.
    """

    cpu_us: float
    packages: dict[str, float]
    functions: dict[str, float]


def main() -> None:
    """Profile, then print, keep and compare, as the options say."""
    options = _options()
    profiles = {}
    facts, others = machine.facts(), machine.Others()
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(Path(directory), tls=False) as served,
        closing(Wire()) as wire,
    ):
        peer_cpu, *rest = sorted(os.sched_getaffinity(0))
        pin_process(served.pid, [peer_cpu])
        for pid in (served.chaincode, os.getpid()):
            pin_process(pid, rest or [peer_cpu])
        operations = Operations(Network(served, tls=False), wire)
        for name, (prepare, number) in operations.all.items():
            if re.search(options.only, name):
                flames = options.flames and options.flames / f"{name.replace(' ', '_')}.txt"
                number = number // 50 if options.quick else number
                profiles[name] = profile(served, prepare, number, flames)
    kept = json.loads(options.compare.read_text()) if options.compare else {}
    before = {name: Profile(**kept[name]) for name in profiles if name in kept}
    print(table(profiles, before))
    for name, found in profiles.items():
        most = ", ".join(f"`{each}` {share:.0%}" for each, share in found.functions.items())
        print(f"\n{name}, most of all: {most}")
    print(f"\n{facts}; CPUs used by others: {others.lap():.1f}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: asdict(found) for name, found in profiles.items()}
        options.json.write_text(json.dumps(kept, indent=1))


class Operations:
    """What is profiled; each prepares so many operations, and returns what carries them out."""

    def __init__(self, known: Network, wire: Wire) -> None:
        self._known = known
        self._wire = wire
        self._peers = known.peers(wire, CLIENTS[-1])
        self.all: Mapping[str, tuple[Callable[[int], Work], int]] = {
            "GetState": (self._get_state, 50_000),
            "endorse a put": (self._endorse, 5_000),
            "submit to commit status": (self._submit, 3_000),
        }

    def _get_state(self, number: int) -> Work:
        calls = [self._known.propose("gets", str(TRIPS), "k") for _ in range(number // TRIPS)]
        messages = [each.signed.encode() for each in calls]
        return partial(self._run, endorse, self._peers[:1], messages)

    def _endorse(self, number: int) -> Work:
        messages = [self._known.put().signed.encode() for _ in range(number)]
        return partial(self._run, endorse, self._peers, messages)

    def _submit(self, number: int) -> Work:
        puts = [self._known.put() for _ in range(number)]
        transactions = endorsed(self._known, self._wire, self._peers, puts)
        ways = [Gateway(self._known, each).submit for each in self._peers]

        def work() -> None:
            items = iter(transactions)
            self._wire.run(client(way, items, []) for way in ways)

        return work

    def _run(
        self,
        way: Callable[[Connection, bytes], Client],
        peers: Sequence[Connection],
        messages: list[bytes],
    ) -> None:
        items = iter(messages)
        self._wire.run(client(partial(way, peer), items, []) for peer in peers)


def profile(
    served: Served, prepare: Callable[[int], Work], number: int, flames: Path | None
) -> Profile:
    """Carry out an operation many times, first without samples and then with them.

    Args:
        flames: where to keep the stacks, from which flame graphs are made.
    """
    prepare(number // 10)()
    work = prepare(number // 2)
    meter = Meter(served.pid)
    work()
    _, cpu = meter.lap()
    work = prepare(number)
    served.ask("sample")
    work()
    stacks = served.ask("stacks")
    if flames:
        flames.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{stack or OTHER_THREADS} {seconds * 1e6:.0f}" for stack, seconds in stacks.items()
        ]
        flames.write_text("\n".join(lines))
    return shares(stacks, cpu / (number // 2) * 1e6)


def shares(stacks: Mapping[str, float], cpu_us: float) -> Profile:
    """Add up the time by package and by function."""
    packages: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    total = sum(stacks.values())
    for stack, seconds in stacks.items():
        package, function = place(stack.split(";")) if stack else (OTHER_THREADS, "")
        packages[package] += seconds / total
        functions[f"{function} of {package}"] += seconds / total
    named = {name: share for name, share in functions.most_common() if share >= LEAST}
    return Profile(cpu_us, dict(packages.most_common()), named)


def place(stack: Sequence[str]) -> tuple[str, str]:
    """Return package and function of a sample, given its frames from the outermost inwards."""
    for frame in reversed(stack):
        if (parts := FRAME.match(frame)) and (found := PACKAGE.match(parts["file"])):
            package = found["distribution"] or found["own"] or found["standard"]
            return package.replace("/", "."), parts["function"]
    return "Python", "start"


def table(profiles: Mapping[str, Profile], before: Mapping[str, Profile]) -> str:
    """Return microseconds by package as a table of a document, what they were in front."""
    every = [*profiles.values(), *before.values()]
    packages = {name for each in every for name, share in each.packages.items() if share >= LEAST}

    def most(package: str) -> float:
        return max(each.packages.get(package, 0.0) for each in every)

    def spent(name: str, package: str) -> str:
        found = [each[name] for each in (before, profiles) if name in each]
        return " → ".join(f"{each.packages.get(package, 0.0) * each.cpu_us:.0f}" for each in found)

    rows = [
        [f"`{package}`", *(spent(name, package) for name in profiles)]
        for package in sorted(packages, key=most, reverse=True)
    ]
    whole = (
        " → ".join(f"{each[name].cpu_us:.0f}" for each in (before, profiles) if name in each)
        for name in profiles
    )
    lines = [["µs", *profiles], ["---", *(["---:"] * len(profiles))], *rows, ["all", *whole]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tell where the CPU time of a peer goes.")
    parser.add_argument("--only", metavar="PATTERN", default="", help="operations that fit")
    parser.add_argument("--quick", action="store_true", help="seconds, and rough figures")
    parser.add_argument("--json", metavar="PATH", type=Path, help="keep the profiles in a file")
    parser.add_argument("--compare", metavar="PATH", type=Path, help="set a file's beside them")
    parser.add_argument(
        "--flames", metavar="DIRECTORY", type=Path, help="keep the stacks, for flame graphs"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
