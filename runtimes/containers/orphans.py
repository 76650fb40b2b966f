"""What a build leaves running when nobody waits for it any more.

Room:      runtimes.containers   (imports runtimes.origin; used by runtime and session)
Loop:      none: a look at /proc, some milliseconds
Lifetime:  one look
Fabric:    none; a Fabric peer builds in containers

Podman 4 finishes the step of a build that is under way when its client goes, in no container that
could be removed. So whatever a build executes carries a mark in its environment, by which it is
found and killed. Where engine and peer do not share a machine nothing is found.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtimes.api import BUILD_MARK
from runtimes.containers.engine import Labels
from runtimes.origin import process_ids

log = logging.getLogger("runtimes.containers")

_MARK = f"{BUILD_MARK}=".encode()


@contextmanager
def marked(labels: Labels) -> Iterator[dict[str, str]]:
    """Give arguments that mark the processes of a build; where it breaks off, kill them."""
    try:
        yield {BUILD_MARK: json.dumps(dict(labels))}
    except BaseException:
        kill_builds(lambda found: found == labels)
        raise


def kill_builds(is_orphan: Callable[[Labels], bool]) -> None:
    """Kill the processes of builds whose labels say so."""
    for pid in process_ids():
        labels = _labels_of(pid)
        if labels and is_orphan(labels):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError as exc:
                log.error("process %d of a build that has been given up stays: %s", pid, exc)


def _labels_of(pid: int) -> Labels:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has gone, or belongs to somebody else
        return {}
    text = next((v.removeprefix(_MARK) for v in variables if v.startswith(_MARK)), b"")
    try:
        labels = json.loads(text)
    except ValueError:
        return {}
    return labels if isinstance(labels, dict) else {}
