"""The progress line on a pseudo-terminal, and its records where there is no terminal."""

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
from trio.testing import MockClock, wait_all_tasks_blocked

from peer import logs
from peer.cli.progress import Progress

COLUMNS = 60
END = "the end"
WIDE = "\N{CJK UNIFIED IDEOGRAPH-6F22}"
"""Takes two columns."""


class Screen:
    """What can be seen on a terminal."""

    def __init__(self, near: int, far: TextIO, clock: MockClock) -> None:
        self.file = far
        self._near = near
        self._clock = clock
        self._written = ""

    async def after(self, seconds: float) -> list[str]:
        """Let time pass and return the lines that can be seen then."""
        await wait_all_tasks_blocked()
        self._clock.jump(seconds)
        await wait_all_tasks_blocked()
        return self.lines()

    def lines(self) -> list[str]:
        """Return the lines that can be seen; an erased one is no more."""
        self.file.write(END)
        self.file.flush()
        while not self._written.endswith(END):  # a terminal takes its time
            self._written += os.read(self._near, 4096).decode()
        self._written = self._written.removesuffix(END)
        return [line.rpartition("\r\x1b[2K")[2] for line in self._written.split("\r\n")]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock) -> Iterator[Screen]:
    with terminal(monkeypatch, "xterm", mock_clock) as screen:
        yield screen


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, kind: str, clock: MockClock) -> Iterator[Screen]:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    near, far = os.openpty()
    with open(far, "w", encoding="utf-8") as file:
        yield Screen(near, file, clock)
    os.close(near)


async def test_a_launch_is_shown_with_stage_time_and_output(
    screen: Screen, mock_clock: MockClock
) -> None:
    shown = Progress(screen.file)
    async with shown.showing():
        shown.on_stage("assets:9f2", "package", 0.0)
        assert await screen.after(0.4) == [""]
        assert await screen.after(0.2) == ["assets: package, 0.6 s"]
        shown.on_stage("assets:9f2", "build", 0.6)
        assert await screen.after(0.2) == ["assets: build, 0.2 s"]
        shown.on_output("other:1", "of no interest")
        shown.on_output("assets:9f2", "\x1b[31mnpm\x1b[0m \x1b]0;title\x07installed ")
        build = r"assets: build, 65.2 s: npm \x1b]0;title\x07installed"
        assert await screen.after(65.0) == [build]
        shown.on_stage("assets:9f2", "ready", 66.0)
        assert screen.lines() == [""]
        shown.on_output("assets:9f2", "it runs")
        assert await screen.after(10.0) == [""]
        shown.on_stage("assets:9f2", "package", 0.0)  # launched anew
        assert await screen.after(0.4) == [""]
        assert await screen.after(0.2) == ["assets: package, 0.6 s"]
    assert screen.lines() == [""]


async def test_one_line_for_many_and_never_a_second(screen: Screen, mock_clock: MockClock) -> None:
    shown = Progress(screen.file)
    async with shown.showing():
        shown.on_stage("one:1", "build", 0.0)
        shown.on_stage("two:2", "connect", 0.0)
        assert await screen.after(1.0) == ["one: build, 1.0 s (and 1 more)"]
        shown.on_output("one:1", WIDE * COLUMNS)
        [line] = await screen.after(1.0)
        assert re.fullmatch(f"one: build, 2.0 s: {WIDE}+ ?\N{HORIZONTAL ELLIPSIS}", line)
        assert len(line) + line.count(WIDE) == COLUMNS - 1
        shown.on_stage("one:1", "failed", 2.0)
        assert await screen.after(1.0) == ["two: connect, 3.0 s"]


async def test_the_log_is_written_above_the_line(screen: Screen, mock_clock: MockClock) -> None:
    shown = Progress(screen.file)
    handler = logging.StreamHandler[logs.Stream](shown)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    async with shown.showing():
        shown.on_stage("assets:9f2", "build", 0.0)
        assert await screen.after(1.0) == ["assets: build, 1.0 s"]
        handler.handle(logging.makeLogRecord({"msg": "something happened", "levelname": "INFO"}))
        assert screen.lines() == ["INFO something happened", ""]
        assert await screen.after(0.5) == ["INFO something happened", "assets: build, 1.5 s"]
    assert screen.lines() == ["INFO something happened", ""]


async def test_other_work_and_its_end_by_an_exception(
    screen: Screen, mock_clock: MockClock
) -> None:
    shown = Progress(screen.file)
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is what is tested
        async with shown.showing():
            with shown.work("assets", "install"):
                shown.on_output("assets:9f2", "Collecting grpclib")
                assert await screen.after(1.0) == ["assets: install, 1.0 s: Collecting grpclib"]
                raise KeyError("mine")
    assert screen.lines() == [""]


async def test_cancellation_clears_the_line(screen: Screen, mock_clock: MockClock) -> None:
    shown = Progress(screen.file)
    with trio.CancelScope() as scope:
        async with shown.showing():
            shown.on_stage("assets:9f2", "build", 0.0)
            assert await screen.after(1.0) == ["assets: build, 1.0 s"]
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert screen.lines() == [""]


@pytest.mark.parametrize("kind", ["a file", "a dumb terminal"])
async def test_without_a_terminal_there_are_records_less_and_less(
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "peer.cli")
    with terminal(monkeypatch, "dumb", mock_clock) as screen:
        file = io.StringIO() if kind == "a file" else screen.file
        shown = Progress(file)
        async with shown.showing():
            shown.on_stage("assets:9f2", "build", 0.0)
            shown.on_output("assets:9f2", "Collecting grpclib")
            for _ in range(40):
                await screen.after(0.25)
            shown.on_stage("assets:9f2", "create", 10.0)
            await screen.after(0.5)
            shown.on_stage("assets:9f2", "ready", 10.5)
            await screen.after(100.0)
        assert caplog.messages == [
            "assets: build, 0.5 s: Collecting grpclib",
            "assets: build, 2.0 s: Collecting grpclib",
            "assets: build, 8.0 s: Collecting grpclib",
            "assets: create, 0.5 s: Collecting grpclib",
        ]
        assert isinstance(file, io.StringIO) is (kind == "a file")
        if isinstance(file, io.StringIO):
            assert file.getvalue() == ""
        assert screen.lines() == [""]
