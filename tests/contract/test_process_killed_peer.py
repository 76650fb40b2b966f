"""A peer killed by SIGKILL, at any moment, leaves no process and no file for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from runtimes.api import RuntimeUnavailable
from runtimes.process import keeper, link
from tests.contract.harness import (
    BROOD,
    BROOD_SIZE,
    LIMIT_S,
    PYTHON_BROOD,
    PYTHON_BROOD_SIZE,
    SERVES,
    ProcessHarness,
    processes_of,
    python,
    until,
)

TOKEN = "0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        *(("golang", moment) for moment in ("spawn", "started", "stop", "killed")),
        *(("python", moment) for moment in ("spawn", "forked", "adopt", "started", "stop")),
        ("python", "killed"),
    ],
)
async def test_no_process_is_left(harness: ProcessHarness, kind: str, moment: str) -> None:
    spec = harness.spec(BROOD) if kind == "golang" else python(harness, PYTHON_BROOD)
    program = Path(__file__).with_name("killed_peer.py")
    peer = await trio.lowlevel.open_process(
        [sys.executable, program, spec.package.path, harness.state_dir, moment, kind],
        env={**os.environ, **spec.env, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    # the mark is in the environment of the peer and its keeper, too, of a zygote and its spare
    if moment == "killed":
        each = BROOD_SIZE if kind == "golang" else PYTHON_BROOD_SIZE
        others = 2 if kind == "golang" else 4
        await until(lambda: len(harness.left()) >= 2 * each + others)
        peer.kill()
    with trio.fail_after(LIMIT_S):
        assert await peer.wait() == -signal.SIGKILL
    await until(lambda: not harness.left())
    async with harness.open():
        assert not harness.directories()


@pytest.fixture
def abandoned(harness: ProcessHarness) -> Iterator[subprocess.Popen[bytes]]:
    """A process and a secret file, as a killed peer and a killed keeper leave them."""
    secret = harness.state_dir / "instances" / TOKEN / "0-client.key"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret")
    with subprocess.Popen(["sleep", "1000"], env={keeper.TOKEN: TOKEN}) as orphan:
        yield orphan
        orphan.kill()


async def test_the_next_start_sweeps_what_the_keeper_could_not(
    harness: ProcessHarness, abandoned: subprocess.Popen[bytes]
) -> None:
    await until(lambda: keeper.marked_processes([TOKEN]))
    async with harness.open():
        assert abandoned.wait(LIMIT_S) == -signal.SIGKILL
        assert not harness.directories()


async def test_what_survives_a_sweep_is_named(
    harness: ProcessHarness,
    abandoned: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await until(lambda: keeper.marked_processes([TOKEN]))
    monkeypatch.setattr(keeper, "send_signal", lambda pids, signum: None)
    monkeypatch.setattr(link, "END_S", 0.1)
    with pytest.raises(RuntimeUnavailable, match=rf"\[{abandoned.pid}\] survive SIGKILL"):
        async with harness.open():
            pass


async def test_a_state_directory_serves_one_peer_at_a_time(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        await backend.start(harness.spec(SERVES))
        with pytest.raises(RuntimeUnavailable, match="in use by another peer"):
            async with harness.open():
                pass
        await processes_of(harness, 1)
    async with harness.open():
        pass
