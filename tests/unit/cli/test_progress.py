"""The progress line on a pseudo-terminal, and its lines where there is no terminal."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest
import trio
from trio.testing import MockClock

from peer import logs
from peer.cli.progress import Progress

COLUMNS = 60


class Screen:
    """What can be seen on a terminal."""

    def __init__(self, near: int, far: TextIO) -> None:
        self.file = far
        self._near = near
        self._written = ""

    async def until(self, pattern: str) -> re.Match[str]:
        """Return once the screen is like the pattern."""
        with trio.fail_after(100):
            while True:
                if found := re.fullmatch(pattern, "\n".join(self.lines())):
                    return found
                await trio.lowlevel.wait_readable(self._near)
                self._written += os.read(self._near, 4096).decode()

    def lines(self) -> list[str]:
        """Return what can be seen: an erased line is no more."""
        return [re.split(r"\r\x1b\[2K", line)[-1] for line in self._written.split("\r\n")]

    async def drained(self) -> list[str]:
        """Return what can be seen after all that has been written."""
        self.file.flush()
        os.set_blocking(self._near, False)
        try:
            while True:
                self._written += os.read(self._near, 4096).decode()
        except BlockingIOError:
            return self.lines()
        finally:
            os.set_blocking(self._near, True)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    with terminal(monkeypatch, "xterm") as screen:
        yield screen


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, kind: str) -> Iterator[Screen]:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    near, far = os.openpty()
    with open(far, "w", encoding="utf-8") as file:
        yield Screen(near, file)
    os.close(near)


async def test_a_launch_is_shown_with_stage_time_and_output(
    screen: Screen, autojump_clock: MockClock
) -> None:
    shown = Progress(screen.file)
    async with shown.showing():
        shown.on_stage("assets:9f2", "package", 0.0)
        await screen.until(r"assets: package, \d+\.\d s")
        shown.on_stage("assets:9f2", "build", 0.1)
        await screen.until(r"assets: build, 0\.\d s")
        shown.on_output("other:1", "of no interest")
        shown.on_output("assets:9f2", "\x1b[31mnpm\x1b[0m \x1b]0;title\x07installed ")
        await screen.until(r"assets: build, \d+\.\d s: npm \\x1b\]0;title\\x07installed")
        await screen.until(r"assets: build, 0\.[2-9] s: .+")
        shown.on_stage("assets:9f2", "ready", 0.3)
        assert await screen.drained() == [""]
        shown.on_output("assets:9f2", "it runs")
    assert await screen.drained() == [""]


async def test_one_line_for_many_and_never_a_second(
    screen: Screen, autojump_clock: MockClock
) -> None:
    shown = Progress(screen.file)
    async with shown.showing():
        shown.on_stage("one:1", "build", 0.0)
        shown.on_stage("two:2", "connect", 0.0)
        await screen.until(r"one: build, \d+\.\d s \(and 1 more\)")
        shown.on_output("one:1", "\N{CJK UNIFIED IDEOGRAPH-6F22}" * COLUMNS)
        found = await screen.until(r"one: build, \d+\.\d s: .+\N{HORIZONTAL ELLIPSIS}(?: )?")
        wide = found[0].count("\N{CJK UNIFIED IDEOGRAPH-6F22}")
        assert len(found[0]) + wide < COLUMNS
        shown.on_stage("one:1", "failed", 0.2)
        await screen.until(r"two: connect, \d+\.\d s")


async def test_the_log_is_written_above_the_line(screen: Screen, autojump_clock: MockClock) -> None:
    shown = Progress(screen.file)
    log = logging.getLogger("peer.test")
    logs.configure("info", "text", stream=shown)
    try:
        async with shown.showing():
            shown.on_stage("assets:9f2", "build", 0.0)
            await screen.until(r"assets: build, \d+\.\d s")
            log.info("something happened")
            written = r"[-0-9]+ [0-9:.]+ INFO    peer\.test: something happened"
            await screen.until(rf"{written}\nassets: build, \d+\.\d s")
    finally:
        logs.configure("error")
    above, below = await screen.drained()
    assert re.fullmatch(written, above)
    assert below == ""


async def test_a_quick_launch_shows_nothing(screen: Screen, autojump_clock: MockClock) -> None:
    shown = Progress(screen.file)
    async with shown.showing():
        for stage in ("package", "build", "ready"):
            shown.on_stage("assets:9f2", stage, 0.0)
        await trio.sleep(10)
    assert await screen.drained() == [""]
    assert screen._written == ""


async def test_other_work_and_its_end_by_an_exception(
    screen: Screen, autojump_clock: MockClock
) -> None:
    shown = Progress(screen.file)
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is what is tested
        async with shown.showing():
            with shown.work("assets", "install"):
                shown.on_output("assets:9f2", "Collecting grpclib")
                await screen.until(r"assets: install, \d+\.\d s: Collecting grpclib")
                raise KeyError("mine")
    assert await screen.drained() == [""]


async def test_cancellation_clears_the_line(screen: Screen, autojump_clock: MockClock) -> None:
    shown = Progress(screen.file)
    with trio.CancelScope() as scope:
        async with shown.showing():
            shown.on_stage("assets:9f2", "build", 0.0)
            await screen.until(r"assets: build, \d+\.\d s")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert await screen.drained() == [""]


class Records(logging.Handler):
    """Keeps what is logged, and tells when there is something new."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.more = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.more.set()


@pytest.mark.parametrize("kind", ["a file", "a dumb terminal"])
async def test_without_a_terminal_there_are_records_less_and_less(
    kind: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    records = Records()
    logger = logging.getLogger("peer.cli")
    monkeypatch.setattr(logger, "handlers", [records])
    monkeypatch.setattr(logger, "level", logging.INFO)
    with terminal(monkeypatch, "dumb") as screen:
        file = io.StringIO() if kind == "a file" else screen.file
        shown = Progress(file)
        async with shown.showing():
            shown.on_stage("assets:9f2", "build", 0.0)
            shown.on_output("assets:9f2", "Collecting grpclib")
            with trio.fail_after(100):
                while len(records.texts) < 3:
                    records.more = trio.Event()
                    await records.more.wait()
        took_s = [
            float(re.fullmatch(r"assets: build, (\d+\.\d) s: Collecting grpclib", text)[1])
            for text in records.texts
        ]
        assert took_s == pytest.approx([0.5, 2.0, 8.0], abs=0.15)
        if isinstance(file, io.StringIO):
            assert file.getvalue() == ""
        assert await screen.drained() == [""]
