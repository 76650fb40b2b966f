"""The test chaincodes as directories that bring along everything their build needs.

Room:      tests.integration.builds   (imports tests.chaincodes; conftest.py makes fixtures of it)
Loop:      none; it blocks
Lifetime:  what is fetched stays in a directory of the test session
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.chaincodes.prepare import SOURCES, STEP_LIMIT_S

REPOSITORY = SOURCES.parent.parent


def golang(target: Path) -> None:
    """The Go chaincode with its libraries in ``vendor``."""
    _copy("golang", target)
    _fetch("golang", "go", "mod", "vendor", cwd=target)


def node(target: Path) -> None:
    """The Node chaincode with npm's cache of its libraries."""
    _copy("node", target)
    cache = ("--cache", "npm-cache", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev")
    _fetch("node", "npm", "ci", *cache, cwd=target)
    shutil.rmtree(target / "node_modules")
    shutil.rmtree(target / "npm-cache" / "_logs", ignore_errors=True)


def python(target: Path) -> None:
    """The chaincode on our library with wheels of everything, this distribution included."""
    _copy("ours", target)
    (target / "requirements.txt").write_text("triopeer\n")
    wheels = ("-m", "pip", "wheel", "-q", "-w", "wheelhouse", str(REPOSITORY))
    _fetch("python", sys.executable, *wheels, cwd=target)


BRINGS_ALL: Mapping[str, Callable[[Path], None]] = {
    "golang": golang,
    "node": node,
    "python": python,
}


def _copy(library: str, target: Path) -> None:
    ignored = shutil.ignore_patterns("node_modules", "__pycache__", "chaincode")
    shutil.copytree(SOURCES / library, target, ignore=ignored)


def _fetch(library: str, *command: str, cwd: Path) -> None:
    """Run a command that needs its tool and a network; without them the test is skipped."""
    done = None
    if shutil.which(command[0]) is not None:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_LIMIT_S,
        )
        if done.returncode == 0:
            return
    reason = f"{' '.join(command[:3])}: {done.stdout[-500:] if done else 'not installed'}"
    if library in os.environ.get("PEER_TEST_REQUIRE", "").split(",") or library == "python":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
