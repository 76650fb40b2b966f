"""The machine under the figures, and who else uses it meanwhile.

Room:      benchmarks   (used by run)
Loop:      none
Lifetime:  one run
Fabric:    none
"""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
IDLE = (3, 4)
"""Columns of /proc/stat for time in which a CPU had nothing to do."""
COUNTED = 8
"""Columns from here on repeat what earlier ones hold."""


class Others:
    """CPU time that went to anybody but this program and the processes it has waited for.

    What a hypervisor took away counts; so do engines, whose containers are nobody's children here.
    """

    def __init__(self) -> None:
        self._before = self._read()

    def lap(self) -> float:
        """Return how many CPUs others have used on average since the last lap."""
        before, self._before = self._before, self._read()
        wall, others = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, others / wall)

    def _read(self) -> tuple[float, float]:
        ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        busy = sum(each for column, each in enumerate(ticks[:COUNTED]) if column not in IDLE)
        used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        own = sum(each.ru_utime + each.ru_stime for each in used)
        return time.monotonic(), busy / TICKS - own


def facts() -> dict[str, Any]:
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
