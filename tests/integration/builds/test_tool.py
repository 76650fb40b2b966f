"""One program of a build, with everything it starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from runtimes.api import ExitStatus, RuntimeUnavailable, StartFailed
from runtimes.process.tool import run_tool
from tests.integration.peer.scene import processes, vanished

MARK = "BUILD_TEST_MARK"


async def run(script: str, lines: list[str], mark: str = "x") -> ExitStatus:
    env = {"PATH": os.environ["PATH"], MARK: mark}
    ended = await run_tool(["sh", "-c", script], cwd=Path("/"), env=env, on_line=lines.append)
    assert ended.tail == tuple(lines)[-100:]
    return ended.status


async def test_output_and_exit() -> None:
    lines: list[str] = []
    status = await run("echo out; echo err >&2; pwd; echo $BUILD_TEST_MARK; exit 7", lines)
    assert status == ExitStatus(code=7)
    assert lines == ["out", "err", "/", "x"]


async def test_the_environment_is_what_was_given() -> None:
    lines: list[str] = []
    assert await run("env | cut -d= -f1 | sort", lines) == ExitStatus(code=0)
    assert set(lines) <= {"PATH", MARK, "PWD", "OLDPWD", "SHLVL", "_", "TRIOPEER_INSTANCE"}


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(StartFailed, match="cannot execute no-such-tool in /usr/bin"):
        await run_tool(
            ["no-such-tool"], cwd=Path("/"), env={"PATH": "/usr/bin"}, on_line=lambda line: None
        )


async def test_no_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.process.link.KEEPER_COMMAND", ("/no/such/python",))
    with pytest.raises(RuntimeUnavailable):
        await run("true", [])


async def test_what_stays_in_the_background_is_ended(tmp_path: Path) -> None:
    mark = str(tmp_path)
    assert await run("(setsid sleep 1000 &) ; echo done", [], mark) == ExitStatus(code=0)
    assert processes(mark, MARK) == {}


async def test_cancellation_ends_everything(tmp_path: Path) -> None:
    mark = str(tmp_path)
    lines: list[str] = []
    started = trio.Event()
    script = "trap '' TERM; setsid sleep 1000 & (trap '' TERM; sleep 1000) & echo up; wait"

    def on_line(line: str) -> None:
        lines.append(line)
        started.set()

    env = {"PATH": os.environ["PATH"], MARK: mark}
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def build() -> None:
                await run_tool(["sh", "-c", script], cwd=Path("/"), env=env, on_line=on_line)

            nursery.start_soon(build)
            await started.wait()
            assert len(processes(mark, MARK)) >= 2
            nursery.cancel_scope.cancel()
    assert processes(mark, MARK) == {}


async def test_a_killed_keeper_ends_the_tool(tmp_path: Path) -> None:
    mark = str(tmp_path)
    found: list[int] = []

    def kill_parent(line: str) -> None:
        found.append(int(line))
        os.kill(int(line), 9)

    env = {"PATH": os.environ["PATH"], MARK: mark}
    with trio.fail_after(20):
        ended = await run_tool(
            ["sh", "-c", "echo $PPID; sleep 1000"], cwd=Path("/"), env=env, on_line=kill_parent
        )
    assert ended.status == ExitStatus(signal=9)
    assert len(found) == 1
    await vanished(mark, MARK)


async def test_a_killed_peer_leaves_no_tool(tmp_path: Path) -> None:
    mark = str(tmp_path)
    program = (
        "import os, sys, trio\n"
        "from pathlib import Path\n"
        "from runtimes.process.tool import run_tool\n"
        "trio.run(lambda: run_tool(['sh', '-c', 'sleep 1000 & echo up; wait'], cwd=Path('/'),"
        f" env={{'PATH': os.environ['PATH'], {MARK!r}: sys.argv[1]}},"
        " on_line=lambda line: os.write(1, line.encode() + b'\\n')))\n"
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", program, mark], stdout=-1, cwd=Path.cwd()
    )
    assert process.stdout is not None
    async with process.stdout:
        with trio.fail_after(20):
            assert await process.stdout.receive_some(100) == b"up\n"
        assert len(processes(mark, MARK)) >= 2
        process.kill()
        await process.wait()
    await vanished(mark, MARK)
