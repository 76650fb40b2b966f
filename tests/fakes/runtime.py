"""Backends without processes, each named for how it misbehaves.

Room:      tests.fakes   (imports runtimes.api; kept honest by tests/contract)
Loop:      Trio
Lifetime:  one test

`running` is what is left: a test asserts that it is empty.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import trio

from runtimes.api import (
    BuildFailed,
    Capabilities,
    ChaincodePackage,
    ExitStatus,
    InstanceSpec,
    Origin,
    RuntimeUnavailable,
    StartFailed,
    UnixOrigin,
)

SIGTERM = 15


class FakeInstance:
    """A chaincode that exists in memory; the test decides when it ends."""

    def __init__(self, runtime: FakeRuntime, spec: InstanceSpec, pid: int) -> None:
        self.spec = spec
        self.pid = pid
        self.origins: set[Origin] = set()
        self.stops = 0
        self._runtime = runtime
        self._lines: list[str] = []
        self._status: ExitStatus | None = None
        self._exited = trio.Event()

    def print(self, *lines: str) -> None:
        """Write lines of output."""
        for line in lines:
            self._lines.append(line)
            self._runtime.on_output(self.spec.ccid, line)

    def exit(self, status: ExitStatus, *lines: str) -> None:
        """End by itself, after some last output."""
        if self._status is None:
            self.print(*lines)
            self._status = status
            self._runtime.running.discard(self)
            self._exited.set()

    async def wait(self) -> ExitStatus:
        await self._exited.wait()
        assert self._status is not None
        return self._status

    async def stop(self) -> None:
        self.stops += 1
        self.exit(ExitStatus(signal=SIGTERM))
        await trio.lowlevel.checkpoint()

    def tail(self) -> tuple[str, ...]:
        return tuple(self._lines[-100:])

    async def owns(self, origin: Origin) -> bool:
        await trio.lowlevel.checkpoint()
        if self not in self._runtime.running:
            return False
        return origin in self.origins or (isinstance(origin, UnixOrigin) and origin.pid == self.pid)


class FakeRuntime:
    """Keeps the contract in memory.

    Args:
        on_start: called with each instance once it runs, for example to let it register.

    Attributes:
        built: ids in the order of `build`.
        pruned: what was installed, each time `prune` was called.
        started: instances in the order of `start`.
        running: instances that have not ended.
        starting: number of starts under way.
        build_failure, available: make `build` and `start`, `health` fail.
    """

    name = "fake"
    instance_class = FakeInstance

    def __init__(
        self,
        on_start: Callable[[FakeInstance], None] = lambda instance: None,
        *,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.capabilities = capabilities or Capabilities()
        self.on_start = on_start
        self.on_output: Callable[[str, str], None] = lambda ccid, line: None
        self.built: list[str] = []
        self.pruned: list[set[str]] = []
        self.started: list[FakeInstance] = []
        self.running: set[FakeInstance] = set()
        self.starting = 0
        self.build_failure = ""
        self.available = True
        self._pids = itertools.count(1_000_000_000)  # above any real one

    async def build(self, package: ChaincodePackage) -> None:
        await trio.lowlevel.checkpoint()
        if self.build_failure:
            raise BuildFailed(self.build_failure)
        self.built.append(package.ccid)

    async def start(self, spec: InstanceSpec) -> FakeInstance:
        self.starting += 1
        try:
            await self.health()
            await self._stop_former(spec.ccid)
            if spec.files:
                spec.on_stage("upload")
            spec.on_stage("start")
            await self.before_start(spec)
            await self._stop_former(spec.ccid)
        finally:
            self.starting -= 1
        instance = self.instance_class(self, spec, next(self._pids))
        self.started.append(instance)
        self.running.add(instance)
        self.after_start(instance)
        return instance

    async def _stop_former(self, ccid: str) -> None:
        while former := [held for held in self.running if held.spec.ccid == ccid]:
            await former[0].stop()

    async def before_start(self, spec: InstanceSpec) -> None:
        """What a start does before anything runs; the place to misbehave in."""
        await trio.lowlevel.checkpoint()

    def after_start(self, instance: FakeInstance) -> None:
        """What a chaincode does in its first moment."""
        self.on_start(instance)

    async def prune(self, installed: Collection[str]) -> None:
        await trio.lowlevel.checkpoint()
        if not self.available:
            raise RuntimeUnavailable("the fake engine is switched off")
        self.pruned.append(set(installed))

    async def listen_host(self) -> str:
        await trio.lowlevel.checkpoint()
        return "127.0.0.1"

    async def health(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.available:
            raise RuntimeUnavailable("the fake engine is switched off")


class NeverReadyRuntime(FakeRuntime):
    """Its chaincodes run and never say a word."""

    def after_start(self, instance: FakeInstance) -> None:
        pass


class ExitsBeforeReady(FakeRuntime):
    """Its chaincodes end as soon as they run.

    Attributes:
        status, last_words: how.
    """

    status = ExitStatus(code=1)
    last_words: tuple[str, ...] = ("Traceback (most recent call last):", "SyntaxError: invalid")

    def after_start(self, instance: FakeInstance) -> None:
        instance.exit(self.status, *self.last_words)


class HangsInStart(FakeRuntime):
    """Its `start` never returns."""

    async def before_start(self, spec: InstanceSpec) -> None:
        await trio.sleep_forever()


class FailsToStart(FakeRuntime):
    """Its `start` finds nothing to execute."""

    async def before_start(self, spec: InstanceSpec) -> None:
        await trio.lowlevel.checkpoint()
        program = spec.package.path / "chaincode"
        raise StartFailed(f"cannot execute {program}: No such file or directory")


class _DeafInstance(FakeInstance):
    async def stop(self) -> None:
        self.stops += 1
        await trio.sleep_forever()


class HangsInStop(FakeRuntime):
    """Its instances cannot be stopped; who stops one must bound it."""

    instance_class = _DeafInstance


@asynccontextmanager
async def opened(runtime: FakeRuntime) -> AsyncIterator[FakeRuntime]:
    """Open a fake like a real backend: leaving ends what runs, if it can be ended."""
    try:
        yield runtime
    finally:
        with trio.CancelScope(shield=True):
            for instance in list(runtime.running):
                with trio.move_on_after(5):
                    await instance.stop()
