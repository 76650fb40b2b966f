"""Measure triopeer on this machine and print one table.

Room:      benchmarks   (starts the subjects, imports none of them)
Loop:      none
Lifetime:  one process
Fabric:    none

Each subject is a program of its own that prints one figure per line. What the figures mean is told
in docs/performance.md. Whatever they are, the exit status is 0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import CPU, Row
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SUBJECTS = (
    "codec",
    "membership",
    "roundtrip",
    "flow",
    "ledger",
    "services",
    "hostile",
    "newcomer",
    "launch",
    "develop",
    "containers",
    "scaling",
    "bulk",
    "queries",
    "memory",
)
NOTABLE = 0.1
WIDTH = 120
"""Columns where the output is no terminal."""

Results = Mapping[str, list[Row]]


def main() -> None:
    """Measure, then print, keep and compare, as the options say."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    earlier = json.loads(options.compare.read_text()) if options.compare else {}
    machine = machine_facts()
    results = {}
    for subject in options.subjects:
        with Console(stderr=True).status(f"measuring {subject}"):
            results[subject] = measure(subject, quick=options.quick)
    console.print(table(results))
    console.print(", ".join(f"{name} {fact}" for name, fact in machine.items()), highlight=False)
    if options.quick:
        console.print("--quick: too few samples to quote or compare")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        rows = {subject: [asdict(row) for row in found] for subject, found in results.items()}
        options.json.write_text(json.dumps({"machine": machine, "subjects": rows}, indent=1))
    if earlier:
        compare(console, earlier, results, machine)


def measure(subject: str, *, quick: bool) -> list[Row]:
    """Run one subject and return what it found.

    Raises:
        CalledProcessError: it failed; its traceback is on standard error.
    """
    command = [sys.executable, str(HERE / f"{subject}.py"), *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [Row(**json.loads(line)) for line in done.stdout.splitlines()]


def machine_facts() -> dict[str, Any]:
    """Return what a figure depends on beside the code."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    return {
        "CPU": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "Python": platform.python_version(),
        "kernel": platform.release(),
        "load at the start": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(results: Results) -> Table:
    """Return the figures for a reader."""
    table = Table(box=None, header_style="bold")
    table.add_column("measured")
    for title in ("median", "middle half"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("ratio")
    for subject, rows in results.items():
        table.add_row(f"[bold]{subject}[/bold]")
        for row in rows:
            spread = f"{_figure(row.low)} - {_figure(row.high)}" if row.low < row.high else ""
            ratio = "" if row.ratio is None else f"{row.ratio:.2f} x {_unlike(row.to, row.name)}"
            table.add_row(f"  {row.name}", _figure(row.value), spread, row.unit, ratio)
    return table


def compare(
    console: Console, earlier: dict[str, Any], results: Results, machine: Mapping[str, object]
) -> None:
    """Print where an operation costs notably more or less CPU time than in an earlier run."""
    for fact in ("CPU", "cores", "Python"):
        if earlier["machine"][fact] != machine[fact]:
            console.print(f"not comparable: {fact} was {earlier['machine'][fact]}")
    lines, compared = [], 0
    for subject, rows in results.items():
        before = {row["name"]: Row(**row) for row in earlier["subjects"].get(subject, ())}
        common = [(before[row.name], row) for row in rows if row.unit == CPU and row.name in before]
        compared += len(common)
        lines += [
            f"  {now.value / then.value - 1:+.0%}  {subject}: {now.name}"
            for then, now in common
            if _differ(then, now)
        ]
    console.print(
        f"CPU per operation, against {earlier['machine']['date']}: "
        f"{len(lines)} of {compared} changed by more than {NOTABLE:.0%}"
    )
    for line in lines:
        console.print(line, highlight=False)


def _differ(then: Row, now: Row) -> bool:
    """Tell whether a change is notable and more than the spread of either run."""
    are_apart = now.low > then.high or now.high < then.low
    return are_apart and abs(now.value / then.value - 1) > NOTABLE


def _unlike(name: str, other: str) -> str:
    """Return the parts of a name that the other one does not share."""
    return ", ".join(part for part in name.split(", ") if part not in other.split(", "))


def _figure(value: float) -> str:
    """Return three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure triopeer on this machine.")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        default="",
        help=f"subjects that fit a regular expression, out of: {', '.join(SUBJECTS)}",
    )
    parser.add_argument("--quick", action="store_true", help="seconds, and rough figures")
    parser.add_argument("--json", metavar="PATH", type=Path, help="keep the results in a file")
    parser.add_argument(
        "--compare",
        metavar="PATH",
        type=Path,
        help="show which CPU times differ from those in a file by more than 10 %%",
    )
    options = parser.parse_args()
    options.subjects = [name for name in SUBJECTS if re.search(options.only, name)]
    if not options.subjects:
        parser.error(f"--only {options.only} fits none of: {', '.join(SUBJECTS)}")
    if options.compare and not options.compare.is_file():
        parser.error(f"--compare {options.compare}: no such file")
    return options


if __name__ == "__main__":
    main()
