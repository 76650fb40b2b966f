"""Every test here ends with a look for what it left behind: that is half of what is tested."""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.peer.scene import Code, processes


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path, f"cc{secrets.token_hex(4)}x")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files with a path short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def nothing_left(code: Code, temporary: Path) -> Iterator[None]:
    """No process, child, socket, temporary file, thread or descriptor outlives a test."""
    before = _held()
    yield
    gc.collect()  # an unclosed transport complains when it is collected
    assert processes(code.label) == {}
    assert list(temporary.iterdir()) == []
    assert _held() - before == set()


def _held() -> set[str]:
    threads = {
        f"thread {thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if not thread.name.startswith("Trio thread")  # idle, and ended by Trio after a while
    }
    children = {f"child {pid}" for pid in _children()}
    return threads | children | set(_descriptors())


def _children() -> Iterator[int]:
    for task in os.listdir("/proc/self/task"):
        yield from map(int, Path(f"/proc/self/task/{task}/children").read_text().split())


def _descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            yield f"descriptor {fd} {os.readlink(f'/proc/self/fd/{fd}')}"
        except FileNotFoundError:  # the one that reads the directory
            continue
