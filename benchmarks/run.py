"""Measure triopeer on this machine and print one table.

Room:      benchmarks   (starts the subjects, imports none of them)
Loop:      none
Lifetime:  one process
Fabric:    none

Each subject is a program of its own that prints one figure per line. What the figures mean is told
in docs/performance.md. Whatever they are, the exit status is 0; so it is where others use the CPUs,
which is said.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import goals
import machine
from measure import CPU, Row, figure
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SUBJECTS = (
    "codec",
    "membership",
    "roundtrip",
    "flow",
    "ledger",
    "blocks",
    "services",
    "hostile",
    "newcomer",
    "launch",
    "startup",
    "develop",
    "containers",
    "scaling",
    "bulk",
    "queries",
    "memory",
)
NOTABLE = 0.1
BUSY = 0.1
"""CPUs that others use, from which on it is said that figures were taken beside them."""
WIDTH = 120
"""Columns where the output is no terminal."""

HEADINGS = ("measured", "figure", "to the floor", "goal", "", "peer in Go")

Results = Mapping[str, list[Row]]


def main() -> None:
    """Measure, then print, keep and compare, as the options say."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if options.markdown:
        print(markdown(Run.read(options.markdown)))
        return
    earlier = Run.read(options.compare) if options.compare else None
    run = Run(machine.facts(), {}, {})
    others = machine.Others()
    for subject in options.subjects:
        with Console(stderr=True).status(f"measuring {subject}"):
            run.subjects[subject] = measure(subject, quick=options.quick)
        run.others[subject] = others.lap()
    console.print(table(run.subjects))
    if (told := goal_table(run.subjects)).row_count:
        console.print(told)
    console.print(", ".join(f"{name} {fact}" for name, fact in run.machine.items()))
    console.print(company(run))
    if options.quick:
        console.print("--quick: too few samples to quote or compare")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(asdict(run), indent=1))
    if earlier:
        compare(console, earlier, run)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run has found.

    Attributes:
        machine: what figures depend on beside the code.
        subjects: rows of each subject.
        others: CPUs that others used, on average, while a subject was measured.
    """

    machine: dict[str, Any]
    subjects: dict[str, list[Row]]
    others: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read what an earlier run has kept."""
        kept = json.loads(path.read_text())
        rows = {name: [Row(**row) for row in found] for name, found in kept["subjects"].items()}
        return cls(kept["machine"], rows, kept.get("others", {}))


def measure(subject: str, *, quick: bool) -> list[Row]:
    """Run one subject and return what it found.

    Raises:
        CalledProcessError: it failed; its traceback is on standard error.
    """
    command = [sys.executable, str(HERE / f"{subject}.py"), *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [Row(**json.loads(line)) for line in done.stdout.splitlines()]


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
            spread = f"{figure(row.low)} - {figure(row.high)}" if row.low < row.high else ""
            ratio = "" if row.ratio is None else f"{row.ratio:.2f} x {_unlike(row.to, row.name)}"
            table.add_row(f"  {row.name}", figure(row.value), spread, row.unit, ratio)
    return table


def goal_table(results: Results) -> Table:
    """Return what is to be compared with goals and with the peer in Go."""
    table = Table(box=None, header_style="bold")
    for title in HEADINGS:
        table.add_column(title)
    for row in goals.told(results):
        table.add_row(*row)
    return table


def markdown(run: Run) -> str:
    """Return the same as a table of a document, and below it what the figures were taken under."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *goals.told(run.subjects)]
    facts = ", ".join(f"{name} {fact}" for name, fact in run.machine.items())
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", facts, company(run)])


def company(run: Run) -> str:
    """Say who else used the CPUs meanwhile."""
    busy = {subject: used for subject, used in run.others.items() if used > BUSY}
    if not busy:
        return "nobody else used the CPUs"
    most = ", ".join(f"{subject} {used:.1f}" for subject, used in busy.items())
    return f"WARNING: others used the CPUs, so look at ratios and CPU times. CPUs used: {most}"


def compare(console: Console, earlier: Run, run: Run) -> None:
    """Print where an operation costs notably more or less CPU time than in an earlier run."""
    for fact in ("CPU", "cores", "Python"):
        if earlier.machine[fact] != run.machine[fact]:
            console.print(f"not comparable: {fact} was {earlier.machine[fact]}")
    lines, compared = [], 0
    for subject, rows in run.subjects.items():
        before = {row.name: row for row in earlier.subjects.get(subject, ())}
        common = [(before[row.name], row) for row in rows if row.unit == CPU and row.name in before]
        compared += len(common)
        lines += [
            f"  {now.value / then.value - 1:+.0%}  {subject}: {now.name}"
            for then, now in common
            if _differ(then, now)
        ]
    console.print(f"then {company(earlier)}")
    console.print(
        f"CPU per operation, against {earlier.machine['date']}: "
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
    parser.add_argument(
        "--markdown",
        metavar="PATH",
        type=Path,
        help="measure nothing; print what a file holds of the goals as a table for a document",
    )
    options = parser.parse_args()
    options.subjects = [name for name in SUBJECTS if re.search(options.only, name)]
    if not options.subjects:
        parser.error(f"--only {options.only} fits none of: {', '.join(SUBJECTS)}")
    for name in ("compare", "markdown"):
        path = getattr(options, name)
        if path and not path.is_file():
            parser.error(f"--{name} {path}: no such file")
    return options


if __name__ == "__main__":
    main()
