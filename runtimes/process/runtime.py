"""Run chaincodes as processes of this machine.

Room:      runtimes.process   (imports runtimes.api, its own files)
Loop:      Trio
Lifetime:  the backend as long as the peer; an instance from `start` to the end of its process tree
Fabric:    core/container/externalbuilder/instance.go (release-2.5) comes nearest
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from runtimes.api import (
    BuildFailed,
    Capabilities,
    ChaincodePackage,
    ExitStatus,
    InstanceSpec,
    Origin,
    ReportStage,
    RuntimeSettings,
    RuntimeUnavailable,
    StartFailed,
)
from runtimes.holding import holders, locked
from runtimes.output import Output
from runtimes.process import external, keeper
from runtimes.process.command import EntryMissing, command_for
from runtimes.process.directory import PrivateDirectory
from runtimes.process.link import Command, KeeperLink, sweep
from runtimes.process.options import ProcessOptions
from runtimes.process.ownership import owns
from runtimes.process.zygotes import Kind, UsedInterpreters, Zygotes, kind_for, kind_of

log = logging.getLogger("runtimes.process")

KILL_LIMIT_S = 5.0
"""How long a process tree may take to vanish after SIGKILL."""
DRAIN_LIMIT_S = 2.0
"""How long an exit is held back for the last output."""
HEALTH_LIMIT_S = 5.0

_BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


@asynccontextmanager
async def backend(settings: RuntimeSettings) -> AsyncIterator[ProcessRuntime]:
    """Open the process backend; leaving it ends every process it started.

    Raises:
        OptionRejected: ``vm.process`` has mistakes.
        RuntimeUnavailable: another peer uses `settings.state_dir`, or processes of a killed one
            cannot be ended.

    Cancellation: ends every process, shielded and bounded.
    """
    options = ProcessOptions.read(settings.options)
    with locked(settings.state_dir):
        instances_dir = settings.state_dir / "instances"
        instances_dir.mkdir(mode=0o700, exist_ok=True)
        await _clear(instances_dir)
        async with holders() as nursery:
            runtime = ProcessRuntime(
                options=options,
                instances_dir=instances_dir,
                used=UsedInterpreters(settings.state_dir / "interpreters"),
                holders=nursery,
                environment=os.environ,
                on_output=settings.on_output,
            )
            try:
                await runtime.prepare()
                yield runtime
            finally:
                await runtime.stop_all()


async def _clear(instances_dir: Path) -> None:
    """Remove what a killed peer and a killed keeper left: one directory per instance."""
    tokens = os.listdir(instances_dir)
    if tokens:
        log.warning("clearing %d instances of a peer that was killed", len(tokens))
        await sweep(tokens)
        for token in tokens:
            shutil.rmtree(instances_dir / token, ignore_errors=True)


class ProcessInstance:
    """One chaincode and the processes it started."""

    def __init__(
        self,
        *,
        ccid: str,
        link: KeeperLink,
        zygotes: Zygotes,
        directory: PrivateDirectory,
        output: Output,
        grace_s: float,
    ) -> None:
        self.ccid = ccid
        self._link = link
        self._zygotes = zygotes
        self._directory = directory
        self._output = output
        self._grace_s = grace_s
        self._child = link.new_child(directory.token)
        self._starting = trio.CancelScope()
        self._exited = trio.Event()
        self._released = trio.Event()

    async def wait(self) -> ExitStatus:
        """Return once the main process has ended; its last output is in `tail` then."""
        await self._exited.wait()
        assert self._child.status is not None
        return self._child.status

    async def stop(self) -> None:
        """End the process tree: SIGTERM, a grace, SIGKILL. Idempotent.

        Raises:
            RuntimeUnavailable: some of it survives SIGKILL.

        Cancellation: shielded; bounded by the grace, `KILL_LIMIT_S` and a sweep.
        """
        with trio.CancelScope(shield=True):
            self._starting.cancel()  # of no effect once it has started
            await self._end(self._grace_s)
            await self._released.wait()

    def tail(self) -> tuple[str, ...]:
        """Return the last lines of output, oldest first."""
        return self._output.tail()

    async def owns(self, origin: Origin) -> bool:
        """Tell whether a connection comes from the process tree; see `ownership`."""
        pid = self._child.pid
        return pid is not None and not self._child.exited.is_set() and await owns(pid, origin)

    async def hold(
        self,
        command: Command,
        kind: Kind | None,
        on_stage: ReportStage,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Own everything this instance has, from its first file to the end of its last process.

        Args:
            kind: of a zygote that may fork it; None if it is to be executed.

        Raises:
            StartFailed, RuntimeUnavailable: before it has started.

        Cancellation: ends the process tree without grace, shielded and bounded.
        """
        try:
            with self._starting:
                pipe = await self._spawn(command, kind, on_stage)
            if self._starting.cancelled_caught:
                raise StartFailed(f"{self.ccid} was stopped while it was starting")
            task_status.started()
            async with pipe:
                await self._follow(pipe)
        finally:
            with trio.CancelScope(shield=True):
                await self._release()

    async def _spawn(
        self, command: Command, kind: Kind | None, on_stage: ReportStage
    ) -> trio.lowlevel.FdStream:
        if self._directory.has_files:
            on_stage("upload")
        try:
            self._directory.create()
            read_end, write_end = os.pipe()
        except OSError as exc:
            raise StartFailed(f"cannot prepare {self._directory.path}: {exc}") from exc
        pipe = trio.lowlevel.FdStream(read_end)
        try:
            on_stage("start")
            if kind is None or not await self._zygotes.start(self._child, command, kind, write_end):
                await self._link.spawn(self._child, command, write_end)
        except BaseException:
            await trio.aclose_forcefully(pipe)
            raise
        finally:
            os.close(write_end)
        return pipe

    async def _follow(self, pipe: trio.lowlevel.FdStream) -> None:
        """Take in output until the exit, and return when the whole tree is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._output.pump, pipe)
            await self._child.exited.wait()
            self._output.hurry()
            with trio.move_on_after(DRAIN_LIMIT_S):  # somebody else may hold the pipe
                await self._output.ended.wait()
            self._exited.set()
            await self._child.gone.wait()
            nursery.cancel_scope.cancel()

    async def _end(self, grace_s: float) -> None:
        with trio.move_on_after(grace_s + KILL_LIMIT_S):
            await self._link.end(self._child, grace_s)
            return
        await sweep([self._child.token])  # the keeper hangs: do its work
        self._link.forget(self._child)

    async def _release(self) -> None:
        try:
            await self._end(grace_s=0)
        except RuntimeUnavailable as exc:
            log.error("%s could not be ended: %s", self.ccid, exc)
            self._link.forget(self._child)
        await trio.to_thread.run_sync(self._directory.remove)
        self._exited.set()
        self._released.set()


class ProcessRuntime:
    """Starts chaincodes as processes; opened by `backend`."""

    name = "process"
    capabilities = Capabilities(unix_socket=frozenset({"golang", "python"}))

    def __init__(
        self,
        *,
        options: ProcessOptions,
        instances_dir: Path,
        used: UsedInterpreters,
        holders: trio.Nursery,
        environment: Mapping[str, str],
        on_output: Callable[[str, str], None],
    ) -> None:
        self._options = options
        self._instances_dir = instances_dir
        self._used = used
        self._holders = holders
        self._environment = environment
        self._on_output = on_output
        self._instances: dict[str, ProcessInstance] = {}
        self._link: KeeperLink | None = None
        self._zygotes: Zygotes
        self._opening = trio.Lock()

    async def prepare(self) -> None:
        """Run a keeper, and begin the zygotes that the last peer used.

        Raises:
            RuntimeUnavailable: no keeper can be run.
        """
        await self.keeper_link()
        # never created: by it `kind_for` knows the private HOME and TMPDIR, and leaves them out
        directory = PrivateDirectory(self._instances_dir, {})
        for interpreter in self._used.read() if self._options.zygote else ():
            kind = kind_for(interpreter, self._variables(directory, {}), directory)
            if kind is not None:
                self._zygotes.prepare(kind)

    async def build(self, package: ChaincodePackage) -> None:
        """Check that the package holds what its type starts, and get ready to fork it.

        Raises:
            BuildFailed: with what is missing and what to do.
            RuntimeUnavailable: no keeper can be run.
        """
        if package.launcher is not None:
            return
        try:
            command_for(package, "")
        except EntryMissing as exc:
            raise BuildFailed(str(exc)) from exc
        directory = PrivateDirectory(self._instances_dir, {})
        spec = InstanceSpec(package=package, peer_address="", env=package.env)
        command = self._command(spec, directory)
        if (kind := self._kind(package, command, directory)) is not None:
            await self.keeper_link()
            self._zygotes.prepare(kind)

    async def start(self, spec: InstanceSpec) -> ProcessInstance:
        """Start a package; what an earlier start under the same id left is stopped first.

        Raises:
            StartFailed: nothing to start, or it cannot be executed.
            RuntimeUnavailable: no keeper can be run, or it died meanwhile.

        Cancellation: leaves nothing of this start behind.
        """
        launcher = spec.package.launcher
        metadata = {} if launcher is None else {external.CHAINCODE_JSON: external.describe(spec)}
        directory = PrivateDirectory(self._instances_dir, spec.files, metadata)
        command = self._command(spec, directory)
        kind = self._kind(spec.package, command, directory)
        link = await self.keeper_link()
        while (former := self._instances.get(spec.ccid)) is not None:
            await former.stop()
        # no await between the look above and the entry here: this is the lock
        instance = self._instances[spec.ccid] = ProcessInstance(
            ccid=spec.ccid,
            link=link,
            zygotes=self._zygotes,
            directory=directory,
            output=Output(partial(self._on_output, spec.ccid)),
            grace_s=self._options.stop_grace_s if launcher is None else external.GRACE_S,
        )
        await self._holders.start(self._hold, instance, command, kind, spec.on_stage)
        return instance

    async def prune(self, installed: Collection[str]) -> None:
        """Do nothing: what is built for processes belongs to the peer."""
        await trio.lowlevel.checkpoint()

    async def health(self) -> None:
        """Return once the keeper has answered; one that died is replaced.

        Raises:
            RuntimeUnavailable: it cannot be run, or does not answer within `HEALTH_LIMIT_S`.
        """
        link = await self.keeper_link()
        with trio.move_on_after(HEALTH_LIMIT_S) as limit:
            await link.ping()
        if limit.cancelled_caught:
            raise RuntimeUnavailable(
                f"the keeper process does not answer within {HEALTH_LIMIT_S:g} s"
            )

    async def keeper_link(self) -> KeeperLink:
        """Return the keeper that lives, a new one if need be.

        Raises:
            RuntimeUnavailable: it cannot be run.
        """
        async with self._opening:
            if self._link is None or self._link.lost.is_set():
                self._link = await self._holders.start(_hold_keeper)
                self._zygotes = Zygotes(self._link, self._instances_dir, self._holders, self._used)
        return self._link

    async def listen_host(self) -> str:
        """Return the loopback address: chaincodes share the peer's network."""
        return "127.0.0.1"

    async def stop_all(self) -> None:
        """End every instance, all at once. Cancellation: shielded and bounded, see `stop`."""
        async with trio.open_nursery() as stops:
            for instance in self._instances.values():
                stops.start_soon(_stop_or_log, instance)

    async def _hold(
        self,
        instance: ProcessInstance,
        command: Command,
        kind: Kind | None,
        on_stage: ReportStage,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        try:
            await instance.hold(command, kind, on_stage, task_status=task_status)
        finally:
            del self._instances[instance.ccid]

    def _kind(
        self, package: ChaincodePackage, command: Command, directory: PrivateDirectory
    ) -> Kind | None:
        return kind_of(package, command, directory) if self._options.zygote else None

    def _command(self, spec: InstanceSpec, directory: PrivateDirectory) -> Command:
        if spec.package.launcher is not None:
            return external.command(spec.package, spec.package.launcher, directory)
        try:
            argv = command_for(spec.package, spec.peer_address)
        except EntryMissing as exc:
            raise StartFailed(str(exc)) from exc
        return Command(
            argv=argv,
            env=self._variables(directory, spec.env),
            cwd=str(spec.package.path),
            limits=self._options.limits,
        )

    def _variables(self, directory: PrivateDirectory, env: Mapping[str, str]) -> dict[str, str]:
        inherited = {"PATH", "LANG", *self._options.propagate_environment}
        return {
            **_BASE_ENVIRONMENT,
            **{name: self._environment[name] for name in inherited & self._environment.keys()},
            "HOME": str(directory.home),
            "TMPDIR": str(directory.tmp),
            "PYTHONUNBUFFERED": "1",
            **{name: directory.actual(value) for name, value in env.items()},
            keeper.TOKEN: directory.token,
        }


async def _hold_keeper(*, task_status: trio.TaskStatus[KeeperLink]) -> None:
    async with KeeperLink() as link:
        task_status.started(link)
        await link.run()


async def _stop_or_log(instance: ProcessInstance) -> None:
    try:
        await instance.stop()
    except RuntimeUnavailable as exc:
        log.error("stop of %s failed: %s", instance.ccid, exc)
