"""What every subject measures with: rows, clocks, pinning.

Room:      benchmarks   (used by the subjects; run.py reads the rows they print)
Loop:      none
Lifetime:  one process per subject, so that none inherits threads, memory or caches of another
Fabric:    none

Figures are medians. Things that are compared are sampled in turn, and a ratio is the median of the
ratios of samples taken next to each other: a machine that slows down for a while slows down both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

CHAINCODES = Path(__file__).parent / "chaincodes"
CPU = "µs CPU"
"""Unit of CPU time per operation: what `run.py --compare` looks at."""
YARDSTICK = "yardstick, a fixed Python loop"
"""Where this row differs between two runs, the machine does, and other rows prove little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        low, high: quartiles of the samples; both are `value` where there is one sample only.
        ratio: how many times the row named `to` this is, measured in the same run.
    """

    name: str
    value: float
    unit: str
    low: float
    high: float
    ratio: float | None = None
    to: str = ""


class Samples:
    """Samples of several quantities, taken in turn, under names of their own."""

    def __init__(self) -> None:
        self._taken: defaultdict[str, list[float]] = defaultdict(list)

    def yardstick(self) -> None:
        """Sample a fixed piece of Python, once per round: how fast this CPU is right now."""
        began = time.process_time()
        table = {}
        for number in range(2_000):
            table[number & 0xFF] = number.to_bytes(4, "big")
        self.add(YARDSTICK, time.process_time() - began)

    def add(self, name: str, value: float) -> None:
        """Keep one sample."""
        self._taken[name].append(value)

    def row(self, name: str, unit: str, *, to: str = "", scale: float = 1e6) -> Row:
        """Return the median and the quartiles of what was kept under a name, times `scale`.

        Args:
            to: name of the quantity to give the ratio to, sampled as often as this one.
        """
        taken = self._taken[name]
        low, value, high = (
            statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else taken * 3
        )
        return Row(
            name=name,
            value=value * scale,
            unit=unit,
            low=low * scale,
            high=high * scale,
            ratio=_ratio(taken, self._taken[to]) if to else None,
            to=to,
        )

    def percentile(self, name: str, percent: int, unit: str, *, scale: float = 1e3) -> Row:
        """Return one percentile of what was kept under a name, times `scale`."""
        ordered = sorted(self._taken[name])
        value = ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * scale
        return Row(name=f"{name}, p{percent}", value=value, unit=unit, low=value, high=value)


class Meter:
    """Wall time and the CPU time of some processes, all their threads included."""

    def __init__(self, *pids: int) -> None:
        self._clocks = [time.CLOCK_MONOTONIC, *(_cpu_clock(pid) for pid in pids)]
        self._before = self._read()

    def lap(self) -> tuple[float, ...]:
        """Return the seconds since the last lap: wall, then the CPU of each process."""
        before, self._before = self._before, self._read()
        return tuple(b - a for a, b in zip(before, self._before, strict=True))

    def _read(self) -> list[float]:
        return [time.clock_gettime(clock) for clock in self._clocks]


def memory(pid: int) -> tuple[float, float]:
    """Return what a process holds in MiB: resident, and its share of what is shared."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return kib["Rss"] / 1024, kib["Pss"] / 1024


def pin() -> None:
    """Keep this process and all it starts on one CPU: waking another costs more than a trip."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def pin_process(pid: int, cpus: Collection[int]) -> None:
    """Keep all threads of a process, and what they start from now on, on some CPUs."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(task.name), cpus)


def main(subject: Callable[[bool], Sequence[Row]]) -> None:
    """Run a subject as a program: one row per line, as JSON."""
    parser = argparse.ArgumentParser(description=subject.__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples: seconds, rough figures")
    for row in subject(parser.parse_args().quick):
        print(json.dumps(asdict(row), ensure_ascii=False), flush=True)


def figure(value: float) -> str:
    """Return three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def skipped(what: str, why: object) -> None:
    """Say why there are no rows of something."""
    print(f"{what} skipped: {why}", file=sys.stderr)


def _cpu_clock(pid: int) -> int:
    """Return what clock_getcpuclockid(3) does on Linux; nanoseconds, where /proc has 10 ms."""
    return (~pid << 3) | 2


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
