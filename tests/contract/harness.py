"""What the contract suite needs of each backend, beyond the contract itself.

Room:      tests.contract   (imports runtimes, tests.fakes)
Loop:      Trio

A further backend joins with one more `Harness` and one more parameter in conftest.py.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
import trio

from runtimes.api import (
    ChaincodePackage,
    ExitStatus,
    Instance,
    InstanceSpec,
    Origin,
    RuntimeBackend,
    RuntimeSettings,
    TcpOrigin,
    UnixOrigin,
)
from runtimes.process import backend as process_backend
from runtimes.process import zygotes
from tests.fakes.runtime import FakeInstance, FakeRuntime, opened

LIMIT_S = 20.0

SERVES = """\
echo up
exec sleep 1000
"""
EXITS = """\
echo first >&2
echo last >&2
exit 3
"""
DEAF = """\
trap '' TERM
echo up
while :; do sleep 1000; done
"""
BROOD_SIZE = 6
BROOD = """\
sleep 1000 &
setsid sleep 1000 &
(setsid sh -c 'sleep 1000 & sleep 1000' &)
(sleep 1000 &)
echo up
exec sleep 1000
"""
DEAF_BROOD = f"trap '' TERM\n{BROOD}"
PYTHON_BROOD_SIZE = 3
PYTHON_BROOD = """\
import os, sys, time
forked = "shim.client" in sys.modules
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)  # and leaves the other one alone
    os.fork()
    time.sleep(1000)
print("up", forked)
time.sleep(1000)
"""
ORPHANS = """\
(setsid sh -c 'sleep 1000 & sleep 1000' &)
sleep 1000 &
echo last
exit 3
"""


class Harness(Protocol):
    """One backend under test."""

    lines: list[tuple[str, str]]
    stopped: ExitStatus
    """What becomes of a chaincode that is stopped."""

    def open(self) -> AbstractAsyncContextManager[RuntimeBackend]: ...

    def spec(self, script: str, ccid: str = "asset:1.0") -> InstanceSpec:
        """Return what starts a chaincode that does as the shell script says."""
        ...

    def left(self) -> Collection[object]:
        """Return the processes or containers that exist because of this harness."""
        ...

    async def origin(self, instance: Instance) -> Origin:
        """Return where a connection of that instance comes from."""
        ...


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; fail after `LIMIT_S` seconds."""
    with trio.move_on_after(LIMIT_S) as limit:
        while not condition():  # noqa: ASYNC110 - other processes set no Event
            await trio.sleep(0.005)
    if limit.cancelled_caught:
        pytest.fail(f"not true within {LIMIT_S} s: {condition}")


def processes_with(mark: str) -> set[int]:
    """Return the processes that have `mark` in their environment."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.add(int(name))
        except OSError:
            continue
    return found


async def processes_of(harness: Harness, count: int) -> set[int]:
    """Return the processes of a harness once there are so many.

    A start returns when the program has taken over; its environment shows a moment later.
    """
    await until(lambda: len(harness.left()) == count)
    return harness.left()


def keepers() -> set[int]:
    """Return the keepers that this process has started."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        for pid in (thread / "children").read_text().split():
            if "keeper" in Path(f"/proc/{pid}/cmdline").read_text():
                found.add(int(pid))
    return found


def children_of_keeper() -> dict[int, str]:
    """Return what every child of a keeper is: `zygote`, its `spare`, or `chaincode`."""
    found = {}
    for pid in keepers():
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                if zygotes.PROGRAM.name not in Path(f"/proc/{child}/cmdline").read_text():
                    found[child] = "chaincode"
                else:
                    found[child] = "zygote" if os.getsid(child) == child else "spare"
    return found


def pids_of(kind: str) -> set[int]:
    """Return the children of keepers that are of one kind."""
    return {pid for pid, found in children_of_keeper().items() if found == kind}


def files_of(pid: int) -> list[str]:
    """Return what kinds of files a process has open, each file once."""
    found = set()
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(os.readlink(fd))
    return sorted(name.partition(":")[0] for name in found)


async def with_spare(backend: RuntimeBackend, spec: InstanceSpec) -> int:
    """Wait until a spare has rehearsed to be this chaincode, and return its process id."""
    found: set[int] = set()

    def one_waits() -> bool:  # another may be on its way, or out
        found.clear()
        found.update(pids_of("spare"))
        # at last it has the socket to the peer, and its end of the one it waits at
        return [files_of(pid) for pid in found] == [["/dev/null", "socket", "socket"]]

    await backend.build(replace(spec.package, env=spec.env))
    await until(one_waits)
    return found.pop()


class ProcessHarness:
    """The real processes of this machine, recognised by a mark in their environment."""

    stopped = ExitStatus(signal=15)

    def __init__(self, directory: Path, options: Mapping[str, object] | None = None) -> None:
        self.mark = f"CONTRACT_MARK={uuid.uuid4()}"
        self.lines: list[tuple[str, str]] = []
        self.directory = directory
        self.state_dir = directory / "state"
        self.state_dir.mkdir(mode=0o700)
        self.options = {"process": options or {}}

    def open(self) -> AbstractAsyncContextManager[RuntimeBackend]:
        return process_backend(
            RuntimeSettings(
                network_id="dev",
                peer_id="peer0",
                state_dir=self.state_dir,
                options=self.options,
                on_output=lambda ccid, line: self.lines.append((ccid, line)),
            )
        )

    def spec(self, script: str, ccid: str = "asset:1.0") -> InstanceSpec:
        path = self.directory / uuid.uuid4().hex
        path.mkdir()
        program = path / "chaincode"
        program.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}")
        program.chmod(0o755)
        name, _, value = self.mark.partition("=")
        return InstanceSpec(
            package=ChaincodePackage(ccid=ccid, type="golang", path=path),
            peer_address="127.0.0.1:7052",
            env={name: value},
        )

    def left(self) -> set[int]:
        return processes_with(self.mark)

    def is_up(self) -> bool:
        """Tell whether the chaincode has said its first word."""
        return bool(self.lines)

    def directories(self) -> list[str]:
        """Return the private directories of instances."""
        parent = self.state_dir / "instances"
        return os.listdir(parent) if parent.exists() else []

    async def origin(self, instance: Instance) -> Origin:
        (pid,) = await processes_of(self, 1)
        return UnixOrigin(pid=pid, uid=os.getuid())


def python(
    harness: ProcessHarness,
    source: str,
    files: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> InstanceSpec:
    """Return what starts a Python chaincode of this source."""
    spec = harness.spec("")
    path = spec.package.path
    (path / "chaincode").unlink()
    for name, text in {"chaincode.py": source, **(files or {})}.items():
        (path / name).write_text(text)
    package = replace(spec.package, type="python")
    return replace(spec, package=package, env={**spec.env, **(env or {})})


def inside(spec: InstanceSpec, packages: Path) -> InstanceSpec:
    """Let a chaincode use a virtual environment."""
    (spec.package.path / "venv").symlink_to(packages.parents[2])
    return spec


def settled(path: Path) -> bool:
    """Tell whether a file is older than what a zygote takes for a moment ago."""
    return time.time_ns() - path.stat().st_ctime_ns > 100_000_000


class FakeHarness:
    """An in-memory backend."""

    stopped = ExitStatus(signal=15)

    def __init__(self, runtime: FakeRuntime) -> None:
        self.lines: list[tuple[str, str]] = []
        self._scripts: dict[str, str] = {}
        self._runtime = runtime
        runtime.on_start = self._run
        runtime.on_output = lambda ccid, line: self.lines.append((ccid, line))

    def open(self) -> AbstractAsyncContextManager[FakeRuntime]:
        return opened(self._runtime)

    def spec(self, script: str, ccid: str = "asset:1.0") -> InstanceSpec:
        self._scripts[ccid] = script
        return InstanceSpec(
            package=ChaincodePackage(ccid=ccid, type="golang", path=Path("/nowhere")),
            peer_address="127.0.0.1:7052",
            env={},
        )

    def _run(self, instance: FakeInstance) -> None:
        if self._scripts[instance.spec.ccid] == EXITS:
            instance.exit(ExitStatus(code=3), "first", "last")

    def left(self) -> set[int]:
        return {instance.pid for instance in self._runtime.running}

    async def origin(self, instance: Instance) -> Origin:
        assert isinstance(instance, FakeInstance)
        return UnixOrigin(pid=instance.pid, uid=os.getuid())


@asynccontextmanager
async def stranger() -> AsyncIterator[tuple[Origin, Origin]]:
    """Give origins of this very process, which no backend started: by Unix socket and by TCP."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        yield (
            UnixOrigin(pid=os.getpid(), uid=os.getuid()),
            TcpOrigin(remote=client.getsockname(), local=client.getpeername()),
        )


async def cancelled_at_step(step: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Make `call` and cancel it at the n-th step any task takes meanwhile.

    Returns:
        True if it returned all the same: nothing was left that a cancellation could have cut.
    """
    steps = 0

    class Watch(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += 1
            if steps == step:
                scope.cancel()

    watch = Watch()
    with trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(watch)
        try:
            await call()
            return True
        finally:
            trio.lowlevel.remove_instrument(watch)
    return False
