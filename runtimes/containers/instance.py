"""One chaincode in its container.

Room:      runtimes.containers   (imports start_contract; used by runtime)
Loop:      Trio
Lifetime:  instance: from its first step to the removal of its container
Fabric:    `ContainerInstance`, core/container/dockercontroller/dockercontroller.go (release-2.5)
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable

import trio

from runtimes.api import (
    ExitStatus,
    Origin,
    RuntimeFailure,
    RuntimeUnavailable,
    StartFailed,
    TcpOrigin,
    UnixOrigin,
)
from runtimes.containers.engine import ContainerState, Engine, EngineRefused
from runtimes.containers.start_contract import (
    Build,
    ContainerPlan,
    clean_up,
    start_container,
)
from runtimes.origin import descends_from, holds_connection, process_ids
from runtimes.output import Output

log = logging.getLogger("runtimes.containers")

DRAIN_LIMIT_S = 2.0
"""How long an exit is held back for the last output."""
STATUS_LIMIT_S = 1.0
"""How long a stop waits for the engine to tell how the chaincode ended."""
RETRY_S = 0.5
"""Between looks for an engine that has gone away while a chaincode runs."""

_SIGNALLED = 128

Check = Callable[[], Awaitable[None]]


class ContainerInstance:
    """A chaincode and the container it runs in.

    Args:
        machine: addresses of the engine's machine, behind which its containers hide; empty if it
            is this one.
    """

    def __init__(
        self,
        *,
        ccid: str,
        engine: Engine,
        name: str,
        output: Output,
        grace_s: float,
        machine: frozenset[str] = frozenset(),
    ) -> None:
        self.ccid = ccid
        self._engine = engine
        self._name = name
        self._output = output
        self._grace_s = grace_s
        self._machine = machine
        self._scope = trio.CancelScope()
        self._running = False
        self._removed = False
        self._state: ContainerState | None = None
        self._status = ExitStatus(signal=signal.SIGKILL)
        self._exited = trio.Event()
        self._released = trio.Event()

    async def wait(self) -> ExitStatus:
        """Return once the main process has ended; its last output is in `tail` then."""
        await self._exited.wait()
        return self._status

    async def stop(self) -> None:
        """Stop with the grace, kill, remove. Idempotent.

        Raises:
            RuntimeUnavailable: the container cannot be removed.

        Cancellation: shielded; bounded by the grace and the limits of the clean-up.
        """
        with trio.CancelScope(shield=True):
            if self._grace_s and self._running:
                await self._stop_gently()
            self._scope.cancel()
            await self._released.wait()
        if not self._removed:
            raise RuntimeUnavailable(f"container {self._name} of {self.ccid} may still run")

    def tail(self) -> tuple[str, ...]:
        """Return the last lines of output, oldest first."""
        return self._output.tail()

    async def owns(self, origin: Origin) -> bool:
        """Tell whether a connection comes from the container."""
        state = self._state
        if state is None or not state.pid:
            return False
        match origin:
            case UnixOrigin(pid=pid):
                return descends_from(pid, state.pid)
            case TcpOrigin(remote=(host, _)) if known := state.addresses | self._machine:
                return host.removeprefix("::ffff:") in known
            case TcpOrigin():
                return await trio.to_thread.run_sync(_below_holds, state.pid, origin)

    async def hold(
        self,
        plan: ContainerPlan,
        build: Build,
        check: Check,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Own the container, from the first step of its start until it is removed.

        Args:
            check: looks from inside whether the chaincode can reach the peer.

        Raises:
            StartFailed, BuildFailed, RuntimeUnavailable: before it has started.

        Cancellation: removes the container, shielded and bounded.
        """
        ready = False
        try:
            with self._scope:
                started = await start_container(self._engine, plan, build)
                async with started.output:
                    self._state = started.state
                    self._running = True
                    await check()
                    ready = True
                    task_status.started()
                    await self._follow(started.output)
            if not ready:
                raise StartFailed(f"{self.ccid} was stopped while it was starting")
        finally:
            self._running, self._state = False, None
            self._removed = await clean_up(self._engine, self._name)
            self._exited.set()
            self._released.set()

    async def _follow(self, output: trio.abc.ReceiveStream) -> None:
        """Take in output until the exit."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._output.pump, output)
            self._status = await self._end()
            self._state = None
            self._output.hurry()
            with trio.move_on_after(DRAIN_LIMIT_S):
                await self._output.ended.wait()
            self._exited.set()
            nursery.cancel_scope.cancel()

    async def _end(self) -> ExitStatus:
        """Return how the chaincode ended; an engine that goes away meanwhile is waited for."""
        complained = False
        while True:
            try:
                code = await self._engine.wait(self._name)
                state = await self._engine.inspect(self._name)
            except (RuntimeUnavailable, EngineRefused) as exc:
                if not complained:
                    log.warning("lost sight of %s: %s", self.ccid, exc)
                complained = True
                await trio.sleep(RETRY_S)
                continue
            if code is None or state is None:  # somebody has removed it
                return ExitStatus(signal=signal.SIGKILL)
            return exit_status(code, oom_killed=state.oom_killed)

    async def _stop_gently(self) -> None:
        with trio.move_on_after(self._grace_s + STATUS_LIMIT_S):
            try:
                await self._engine.stop(self._name, self._grace_s)
            except (RuntimeFailure, EngineRefused) as exc:
                log.warning("stop of %s failed, it is killed: %s", self.ccid, exc)
                return
            await self._exited.wait()


def exit_status(code: int, *, oom_killed: bool) -> ExitStatus:
    """Read an engine's exit code, in which 128 and more stand for a signal."""
    if _SIGNALLED < code < _SIGNALLED + signal.NSIG:
        return ExitStatus(signal=code - _SIGNALLED, oom_killed=oom_killed)
    return ExitStatus(code, oom_killed=oom_killed)


def _below_holds(ancestor: int, origin: TcpOrigin) -> bool:
    below = (pid for pid in process_ids() if descends_from(pid, ancestor))
    return holds_connection(below, origin)
