"""From an empty directory to the first committed transaction.

Room:      benchmarks   (runs the command that the README begins with)
Loop:      none
Lifetime:  one process for each sample
Fabric:    none; a network of Fabric's takes 12 commands and 3 files

What is counted: the commands somebody types, the files he writes first, and the seconds until a
transaction is said to be committed. Installing is not, nor is it in Fabric's figures. The directory
is empty, there is no configuration, and no peer runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import Row, Samples, main

ROOT = Path(__file__).parent.parent
COMMANDS: Sequence[Sequence[str]] = ([sys.executable, "-m", "peer", "demo"],)
FILES: dict[str, bytes] = {}
COMMITTED = b"status 200, committed"
SECONDS = "empty directory to first committed transaction"
FLOOR = "python that does nothing"


def rows(quick: bool) -> list[Row]:
    """Do what a newcomer does, several times."""
    samples = Samples()
    for _ in range(1 if quick else 5):
        with tempfile.TemporaryDirectory() as directory:
            samples.add(SECONDS, _seconds(Path(directory)))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        samples.add(FLOOR, time.perf_counter() - began)
    samples.add("commands", len(COMMANDS))
    samples.add("files", len(FILES))
    return [
        samples.row("commands", "", scale=1),
        samples.row("files", "", scale=1),
        samples.row(SECONDS, "s", scale=1, to=FLOOR),
        samples.row(FLOOR, "s", scale=1),
    ]


def _seconds(directory: Path) -> float:
    """Return how long the commands take to a committed transaction.

    Raises:
        RuntimeError: there was none.
    """
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    paths = f"{ROOT}{os.pathsep}{ROOT / 'proto'}"
    env = {**plain, "PYTHONPATH": paths, "HOME": str(directory)}
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    took = 0.0
    began = time.perf_counter()
    for command in COMMANDS:
        with subprocess.Popen(command, cwd=directory, env=env, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if COMMITTED in line and not took:
                    took = time.perf_counter() - began
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}")
    if not took:
        raise RuntimeError("nothing was committed")
    return took


if __name__ == "__main__":
    main(rows)
