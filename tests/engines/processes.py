"""Look at processes that are nobody's children any more.

Room:      tests.engines
Loop:      none; it blocks
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def holds(condition: Callable[[], bool], limit_s: float) -> bool:
    """Return true as soon as the condition holds, false after the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def every_pid() -> list[int]:
    """Return the number of every process of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def arguments_of(pid: int) -> list[str]:
    """Return a process's command line; one that has gone has a single empty word."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return [""]


def _stat(pid: int) -> tuple[str, int]:
    """Return state and parent of a process; a state of "" says that there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    return _stat(pid)[0] not in ("", "Z", "X")


def with_descendants(roots: set[int]) -> set[int]:
    """Return processes and all that descend from them."""
    found = set(roots)
    parents = {pid: _stat(pid)[1] for pid in every_pid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def send_signal(pid: int, which: signal.Signals) -> None:
    """Send a signal to a process that may have gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, which)
