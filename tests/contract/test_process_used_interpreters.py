"""A peer that starts again begins with the zygotes that it used the last time."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runtimes.process import zygotes
from runtimes.process.zygotes import UsedInterpreters
from tests.contract.harness import ProcessHarness, python, until
from tests.contract.test_process_zygote import SERVES, zygote_pids


def note(harness: ProcessHarness) -> Path:
    return harness.state_dir / "interpreters"


async def test_the_zygote_is_begun_as_the_backend_opens(harness: ProcessHarness) -> None:
    spec = replace(python(harness, SERVES), env={"CORE_CHAINCODE_ID_NAME": "asset:1.0"})
    async with harness.open() as backend:
        await (await backend.start(spec)).stop()
    assert note(harness).read_text() == sys.executable
    async with harness.open() as backend:
        await until(lambda: len(zygote_pids()) == 1)
        begun = zygote_pids()
        instance = await backend.start(spec)
        await until(lambda: instance.tail() == ("True",))
        assert zygote_pids() == begun
        await instance.stop()
    assert note(harness).read_text() == sys.executable


async def test_it_is_noted_until_another_one_is_used(harness: ProcessHarness) -> None:
    async with harness.open():
        note(harness).write_text("/nowhere/bin/python")
    async with harness.open():  # uses none, as one whose start fails
        pass
    assert note(harness).read_text() == "/nowhere/bin/python"
    async with harness.open() as backend:
        await (await backend.start(python(harness, SERVES))).stop()
    assert note(harness).read_text() == sys.executable


async def test_an_interpreter_that_has_gone_costs_nothing(harness: ProcessHarness) -> None:
    async with harness.open():
        note(harness).write_text("/nowhere/bin/python")
    async with harness.open() as backend:
        instance = await backend.start(python(harness, SERVES))
        await until(lambda: instance.tail() == ("True",))
        await instance.stop()


async def test_without_zygotes_nothing_is_begun(tmp_path: Path) -> None:
    harness = ProcessHarness(tmp_path, {"zygote": "off"})
    async with harness.open():
        note(harness).write_text(sys.executable)
    async with harness.open() as backend:
        instance = await backend.start(python(harness, SERVES))
        await until(lambda: instance.tail() == ("False",))
        assert not zygote_pids()
        await instance.stop()


def test_the_last_ones_used_are_noted(tmp_path: Path) -> None:
    used = UsedInterpreters(tmp_path / "interpreters")
    for number in (*range(zygotes.MAX_ZYGOTES + 1), 1, 0, 0):
        used.add(f"/{number}")
    following = UsedInterpreters(tmp_path / "interpreters")
    expected = ["/3", "/4", "/1", "/0"]
    assert following.read() == expected
    assert following.read() == expected


def test_a_full_disk_leaves_the_former_note_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "interpreters"
    path.write_text("/former")

    def write_half(self: Path, text: str) -> None:
        self.write_bytes(text.encode()[:3])
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "write_text", write_half)
    used = UsedInterpreters(path)
    used.add("/usr/bin/python3")
    assert used.read() == ["/former"]


@pytest.mark.parametrize("content", [b"\xff", None])
def test_what_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "interpreters"
    path.write_bytes(content) if content else path.mkdir()
    used = UsedInterpreters(path)
    assert used.read() == ()
    used.add(sys.executable)
    assert path.is_dir() or path.read_text() == sys.executable
