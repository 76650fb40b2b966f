"""Which chaincodes are being launched and which have a stream.

Room:      peer.chaincode   (imports peer.errors, runtimes.api; used by handler, launcher, support)
Loop:      Trio
Lifetime:  peer
Fabric:    core/chaincode/handler_registry.go (release-2.5)

Plain classes: nothing here waits between looking and storing, so nothing needs a lock.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from peer.chaincode.connections import Endpoint
from peer.errors import (
    Evidence,
    LaunchError,
    PeerClosing,
    RegistrationRefused,
    StageTime,
    StreamLost,
)
from runtimes.api import ExitStatus, Instance

if TYPE_CHECKING:
    from peer.chaincode.handler import Handler

log = logging.getLogger("peer.chaincode")

EXIT_GRACE_S = 0.5
"""A chaincode that lost its stream is usually dying: wait this long for its exit status."""

OnStage = Callable[[str, str, float], None]
"""Called with (ccid, stage, seconds since the launch began) as a stage begins.

The last one is `ready` or `failed`.
"""

OnLaunch = Callable[[str, Sequence[StageTime], LaunchError | None], None]
"""Called with (ccid, what each stage took, why it failed) once a launch is settled."""


class LaunchState:
    """One launch, from the first caller to the end of what it started.

    Attributes:
        scope: cancelling it stops what was started; use `end`.
        clock: the start-up limit; READY stops it.
        endpoint: the launch's own listener, None before it is open and for services.
        instance: the running process or container, None before the start and for services.
        certificate_hash: SHA-256 of the client certificate made for this launch, None without TLS.
        is_ending: what was started is being stopped, or has ended.
        pending: what the launch fails with when its clock runs out; None if that alone is the news.
        done: set when the launch succeeded or failed.
        gone: set when nothing of it is left.
    """

    def __init__(
        self, ccid: str, on_stage: OnStage | None = None, on_launch: OnLaunch | None = None
    ) -> None:
        self.ccid = ccid
        self.scope = trio.CancelScope()
        self.clock = trio.CancelScope()
        self.endpoint: Endpoint | None = None
        self.instance: Instance | None = None
        self.certificate_hash: bytes | None = None
        self.is_ending = False
        self.pending: LaunchError | None = None
        self.done = trio.Event()
        self.gone = trio.Event()
        self._on_stage = on_stage
        self._on_launch = on_launch
        self._began = self._since = trio.current_time()
        self._over = math.inf
        self._stage = ""
        self._took: dict[str, float] = {}
        self._started = trio.Event()
        self._error: LaunchError | None = None
        self._exit = ""

    def enter(self, stage: str) -> None:
        """Note that a stage begins. Entered once more, its time goes on."""
        if stage == self._stage or self.done.is_set():
            return
        self._count_time()
        self._stage = stage
        self._took.setdefault(stage, 0.0)
        self._tell(stage)

    def started(self, instance: Instance) -> None:
        """Tell that the chaincode runs; from now on its connections can be recognised."""
        self.instance = instance
        self._started.set()

    async def wait_started(self) -> None:
        """Wait until the chaincode runs, or will never run."""
        await self._started.wait()

    def exited(self, status: ExitStatus) -> None:
        """Note how the process ended, for the evidence."""
        self._exit = str(status)
        self._over = min(self._over, trio.current_time())

    def stream_ended(self, reason: str) -> None:
        """End the launch with its stream, but leave a moment for an exit status."""
        until = trio.current_time() + EXIT_GRACE_S
        if self.done.is_set():
            self.is_ending = True
            self.scope.deadline = min(self.scope.deadline, until)
        elif not self.clock.cancel_called:  # else this end is the launch's, not the other way round
            self.pending = StreamLost(self.ccid, f"its stream ended before READY: {reason}")
            self.clock.deadline = min(self.clock.deadline, until)

    def notify(self, error: LaunchError | None) -> None:
        """Settle the launch; only the first outcome counts. A failed launch is stopped."""
        if self.done.is_set():
            return
        self._count_time()
        if error is None:
            self.clock.deadline = math.inf
            if self.endpoint is not None:
                self.endpoint.stop_accepting()
        else:
            if error.evidence is None:
                error.evidence = self._evidence()
            self.end()
        self._error = error
        self.done.set()
        self._report(error)

    def end(self) -> None:
        """Begin to stop what was started. Idempotent."""
        self.is_ending = True
        self._over = min(self._over, trio.current_time())
        self._started.set()
        self.scope.cancel()

    async def outcome(self) -> None:
        """Wait until the chaincode is READY, or until what a failed launch started is gone.

        Raises:
            LaunchError: a copy of its own for every waiter, so that tracebacks do not mix.
        """
        await self.done.wait()
        if self._error is not None:
            await self.gone.wait()
            raise copy.copy(self._error)

    def _stages(self) -> tuple[StageTime, ...]:
        return tuple(StageTime(*item) for item in self._took.items())

    def _evidence(self) -> Evidence:
        """Collect what is known now."""
        return Evidence(
            stage=self._stage,
            stages=self._stages(),
            address=self.endpoint.address if self.endpoint is not None else "",
            exit=self._exit,
            output=self.instance.tail() if self.instance is not None else (),
        )

    def _count_time(self) -> None:
        """Count the time up to now, or up to the end of the launch, for the current stage."""
        if self._stage:  # what passes before the first one is counted for that
            now = min(trio.current_time(), self.clock.deadline, self._over)
            self._took[self._stage] += now - self._since
            self._since = now

    def _tell(self, stage: str) -> None:
        if self._on_stage is not None:
            self._on_stage(self.ccid, stage, self._since - self._began)

    def _report(self, error: LaunchError | None) -> None:
        if not self._stage:  # a system chaincode: it runs in the peer
            return
        if error is None:
            stages = self._stages()
            total_ms = sum(took_s for _, took_s in stages) * 1e3
            times = ", ".join(map(str, stages))
            log.info("launch of %s: ready after %.1f ms: %s", self.ccid, total_ms, times)
        else:
            level = logging.INFO if isinstance(error, PeerClosing) else logging.ERROR
            log.log(level, "%s", error)
        self._tell("ready" if error is None else "failed")
        if self._on_launch is not None:
            self._on_launch(self.ccid, self._stages(), error)


class HandlerRegistry:
    """Launches and handlers by chaincode id; at most one of each."""

    def __init__(self, on_stage: OnStage | None = None, on_launch: OnLaunch | None = None) -> None:
        self._on_stage = on_stage
        self._on_launch = on_launch
        self._launches: dict[str, LaunchState] = {}
        self._handlers: dict[str, Handler] = {}

    def handler(self, ccid: str) -> Handler | None:
        """Return the handler that is READY under this id."""
        handler = self._handlers.get(ccid)
        return handler if handler is not None and handler.is_ready else None

    def launch(self, ccid: str) -> LaunchState | None:
        """Return the launch whose instance is alive or coming."""
        return self._launches.get(ccid)

    def launching(self, ccid: str) -> tuple[LaunchState, bool]:
        """Return the launch of this id and whether it existed already."""
        state = self._launches.get(ccid)
        if state is not None:
            return state, True
        state = self._launches[ccid] = LaunchState(ccid, self._on_stage, self._on_launch)
        return state, False

    def forget(self, state: LaunchState) -> None:
        """Close a launch: nothing it started is left."""
        state.notify(PeerClosing(state.ccid, "the peer is shutting down"))
        self._launches.pop(state.ccid, None)
        state.gone.set()

    def register(self, handler: Handler, ccid: str) -> None:
        """
        Raises:
            RegistrationRefused: another stream holds this id; it stays as it is.
        """
        if ccid in self._handlers:
            raise RegistrationRefused(ccid, f"duplicate chaincodeID: {ccid}")
        self._handlers[ccid] = handler

    def ready(self, ccid: str) -> None:
        """Tell those who wait for this id that READY was sent."""
        state = self._launches.get(ccid)
        if state is not None:
            state.notify(None)

    def deregister(self, handler: Handler) -> None:
        """Forget a stream that ended; its id only if it is the one that holds it."""
        if self._handlers.get(handler.ccid) is handler:
            del self._handlers[handler.ccid]
