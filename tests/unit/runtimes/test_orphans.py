"""Processes of builds that nobody waits for any more."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from runtimes.api import BUILD_MARK
from runtimes.containers.orphans import kill_builds, marked
from tests.engines.processes import holds

MINE = {"session": "1", "ccid": "a:1"}
OTHER = {"session": "1", "ccid": "b:1"}


class BreaksOff(Exception):
    pass


@contextmanager
def running(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program and give it once its environment can be seen."""
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, **environment}) as process:
        shown = Path(f"/proc/{process.pid}/cmdline")
        try:
            assert holds(lambda: shown.read_bytes().startswith(b"sleep"), 5.0)
            yield process
        finally:
            process.kill()


def test_a_build_that_breaks_off_is_ended_and_no_other() -> None:
    with ExitStack() as stack, marked(OTHER) as arguments:
        other = stack.enter_context(running(arguments))
        with suppress(BreaksOff), marked(MINE) as arguments:
            mine = stack.enter_context(running(arguments))
            raise BreaksOff
        assert mine.wait(5) == -signal.SIGKILL
        assert other.poll() is None


def test_a_build_that_ends_is_left_alone() -> None:
    with ExitStack() as stack:
        with marked(MINE) as arguments:
            process = stack.enter_context(running(arguments))
        assert process.poll() is None


@pytest.mark.parametrize("mark", ["", "no json", "[]", "{}"])
def test_what_carries_another_kind_of_mark_is_not_asked_about(mark: str) -> None:
    with running({BUILD_MARK: mark}) as process:
        kill_builds(lambda labels: not labels)
        assert process.poll() is None


def test_a_process_of_somebody_else_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError("not yours")

    with marked(MINE) as arguments, running(arguments) as process:
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", refuse)
            kill_builds(lambda labels: labels == MINE)
        assert f"process {process.pid} of a build" in caplog.text
