"""Temporary directories: held while a peer lives, removed after it was killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from peer import directories
from peer.directories import private_directory, temporary_directory
from peer.errors import ConfigError, LedgerStorageError

HOLD = """
import sys, tempfile
from peer.directories import temporary_directory
tempfile.tempdir = sys.argv[1]
with temporary_directory() as path:
    (path / "file").write_text("content")
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_private_and_removed_by_every_way_out(temporary: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with temporary_directory() as path:
        assert path.parent == temporary
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "inner").mkdir()
    with pytest.raises(ZeroDivisionError), temporary_directory():
        _ = 1 / 0
    assert list(temporary.iterdir()) == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_what_a_killed_process_left_is_removed_and_what_is_held_stays(temporary: Path) -> None:
    def hold() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(temporary)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    with temporary_directory() as own:
        killed, abandoned = hold()
        alive, held = hold()
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert (abandoned / "file").exists()
        with temporary_directory() as other:
            assert sorted(temporary.iterdir()) == sorted([own, held, other])
        assert (held / "file").exists()
        alive.communicate("")
    assert list(temporary.iterdir()) == []


def test_foreign_directories_of_the_name_stay(temporary: Path) -> None:
    (temporary / "triopeer-nolock").mkdir()
    (temporary / "triopeer-file").touch()
    (temporary / "triopeer-link").mkdir()
    (temporary / "target").touch()
    (temporary / "triopeer-link" / "lock").symlink_to(temporary / "target")
    before = sorted(temporary.iterdir())
    with temporary_directory():
        pass
    assert sorted(temporary.iterdir()) == before


def test_one_that_is_swept_before_it_is_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(directories, "_locked", lambda lock: next(answers))
    with temporary_directory() as path:
        assert (path / "lock").exists()


def test_one_that_is_gone_before_it_is_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_locked, swept = directories._locked, []

    def sweep_first(lock: int) -> bool:
        if not swept:
            swept.extend(temporary.glob("triopeer-*"))
            shutil.rmtree(swept[0])
        return really_locked(lock)

    monkeypatch.setattr(directories, "_locked", sweep_first)
    with temporary_directory() as path:
        assert path != swept[0]
        assert (path / "lock").exists()


def test_the_longest_place_takes_sockets_and_a_longer_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = tmp_path / ("d" * (directories._MAX_TEMPORARY_BYTES - len(str(tmp_path)) - 1))
    longer = longest.with_name(f"{longest.name}d")
    for parent in (longest, longer):
        parent.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(longest))
    with temporary_directory() as path, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / "1234567.sock"))
    monkeypatch.setattr(tempfile, "tempdir", str(longer))
    with pytest.raises(ConfigError, match="too long for sockets"), temporary_directory():
        pass
    assert list(longer.iterdir()) == []


def test_a_place_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    missing = pytest.raises(ConfigError, match=r"no temporary directory .* No such file .*none")
    with missing, temporary_directory():
        pass


def test_a_private_directory(tmp_path: Path) -> None:
    path = private_directory(tmp_path / "a" / "b")
    assert path.stat().st_mode & 0o777 == 0o700
    assert private_directory(path) == path
    (path / "file").touch()
    with pytest.raises(LedgerStorageError, match="the directory cannot be used") as caught:
        private_directory(path / "file")
    assert caught.value.path == str(path / "file")
