"""A peer that is killed while it generates a snapshot, or joins by one, leaves all or nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peer.ledger import ledger_ids, open_ledger, remove_staged
from peer.ledger.api import Ledger
from peer.ledger.snapshot_files import read_metadata, verify_files
from tests.unit.ledger.snapshotting import (
    configured,
    generated,
    place_of,
    root_of,
    running,
    snapshot,
    take_in,
)

Wrap = Callable[[Ledger], Any]
ROOT = Path(__file__).parents[3]


def killed(what: str, directory: Path, point: int) -> bool:
    """Let the program run until a point; tell whether there is such a point."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.ledger.snapshot_crashing", what, directory, str(point)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return True
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    return False


@pytest.fixture
async def template(tmp_path: Path, wrap: Wrap) -> Path:
    """A directory with a ledger of four blocks."""
    directory = tmp_path / "template"
    async with running(directory / "a") as ledger:
        await configured(ledger)
        for number in range(1, 4):
            await wrap(ledger).put(k=b"%d" % number)
    return directory


def points(what: str, tmp_path: Path, template: Path) -> Any:
    """Yield a directory for each point, in which the program was killed there."""
    for point in range(1, 1000):
        directory = tmp_path / str(point)
        shutil.copytree(template, directory)
        if not killed(what, directory, point):
            assert point > 8
            return
        yield directory


async def test_killed_while_generating(tmp_path: Path, template: Path) -> None:
    """What there is is whole; what was asked for comes with the next start."""
    expected = None
    for directory in points("generate", tmp_path, template):
        place = place_of(directory / "a", 3)
        if place.exists():
            verify_files(place, read_metadata(place))
        asked = (directory / "a" / "ch" / "snapshot_requests.json").exists()
        async with running(directory / "a") as ledger:
            await generated(ledger)
            assert ledger.snapshots.pending() == []
            if not asked:
                await snapshot(ledger, directory / "a")
        found = read_metadata(place)
        verify_files(place, found)
        assert found == (expected := expected or found)
        assert not list((root_of(directory / "a") / "temp").iterdir())


async def test_killed_while_joining(tmp_path: Path, template: Path, wrap: Wrap) -> None:
    """There is a ledger, or there is none and the next attempt makes one."""
    async with running(template / "a") as ledger:
        await snapshot(ledger, template / "a")
    for directory in points("join", tmp_path, template):
        place, joined = place_of(directory / "a", 3), directory / "b"
        remove_staged(joined)
        assert not list(joined.glob(".*"))
        if not ledger_ids(joined):
            await take_in(joined, place)
        async with open_ledger(joined, "ch") as born:
            assert (born.first_block, born.height) == (4, 4)
            assert wrap(born).get("k") == b"3"
            await wrap(born).put(k=b"4")
