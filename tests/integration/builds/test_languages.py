"""Real chaincodes of every language from a package to an answer, without a network."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from peer.lifecycle.packages import pack
from tests.integration.builds.sources import BRINGS_ALL, REPOSITORY

PROGRAM = Path(__file__).with_name("install_and_ask.py")
LIMIT_S = 300.0
MARKS = {"golang": [pytest.mark.golang], "node": [pytest.mark.node]}
LANGUAGES = [pytest.param(name, marks=MARKS.get(name, [])) for name in BRINGS_ALL]


def ask(package: Path, data: Path, home: Path, *prefix: str) -> dict[str, Any]:
    """Run the program with a home, and so caches, of its own; `prefix` cuts the network off."""
    home.mkdir(exist_ok=True)
    env: Mapping[str, str] = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "proto"))),
        "GOFLAGS": "-buildvcs=false",
        **compiled(),
    }
    done = subprocess.run(
        [*prefix, sys.executable, str(PROGRAM), str(package), str(data)],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@functools.cache
def compiled() -> dict[str, str]:
    """Return where Go keeps what it compiled, the standard library above all: no sources."""
    if shutil.which("go") is None:
        return {}
    found = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True)
    return {"GOCACHE": found.stdout.strip()}


def cut_off() -> tuple[str, ...]:
    """Return what to put before a command so that it has no network."""
    prefix = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--net", "--map-root-user")
    try:
        probe = subprocess.run([*prefix, "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if probe.returncode != 0:
        pytest.skip(f"no network namespace here: {probe.stderr.decode()}")
    return prefix


@pytest.mark.parametrize("language", LANGUAGES)
def test_from_package_to_answer_without_a_network(
    language: str, complete_source: Callable[[str], Path], tmp_path: Path
) -> None:
    package = tmp_path / "package.tar.gz"
    module = "example.org/behaviour" if language == "golang" else ""
    package.write_bytes(pack(complete_source(language), language, f"{language}_1", module=module))
    for time in ("first", "again"):
        answer = ask(package, tmp_path / "data", tmp_path / "home", *cut_off())
        assert (answer["committed"], answer["value"]) == (True, "value"), time
    assert answer["lines"] == []  # the second peer found it built


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_source_gives_the_same_package(
    language: str, complete_source: Callable[[str], Path], tmp_path: Path
) -> None:
    source = complete_source(language)
    copy = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", str(source), str(copy)], check=True)  # other times, other inodes
    assert pack(copy, language, "label") == pack(source, language, "label")
