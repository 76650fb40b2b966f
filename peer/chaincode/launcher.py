"""Start chaincodes and hold each one until it ends.

Room:      peer.chaincode   (imports runtimes.api, registry, connections; used by support)
Loop:      Trio
Lifetime:  one task per instance, in the peer's nursery
Fabric:    core/chaincode/runtime_launcher.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Protocol

import trio

from peer import logs
from peer.chaincode.access import LaunchGate, ServiceGate
from peer.chaincode.certificates import CertificateAuthority
from peer.chaincode.connections import (
    ChaincodeServerInfo,
    ConnectionFailed,
    Connector,
    Listeners,
    Serve,
)
from peer.chaincode.environment import ChaincodeEnvironment, tls_files
from peer.chaincode.handler import Gate
from peer.chaincode.registry import HandlerRegistry, LaunchState
from peer.chaincode.stream import MessageStream
from peer.errors import (
    BuildError,
    ConnectError,
    InstanceExited,
    LaunchError,
    PackageError,
    StartError,
    StartupTimeout,
    StreamLost,
)
from runtimes.api import (
    ChaincodePackage,
    Instance,
    InstanceSpec,
    ReportStage,
    RuntimeBackend,
    RuntimeFailure,
)

log = logging.getLogger("peer.chaincode")

REDIAL_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts to reach a service that is not up yet; the last one repeats."""

HandleStream = Callable[[MessageStream, Gate], Awaitable[None]]


class Packages(Protocol):
    """Knows what is installed, and makes it startable."""

    async def build(
        self, ccid: str, on_stage: ReportStage
    ) -> ChaincodePackage | ChaincodeServerInfo:
        """Return how to start a package, built, or where it runs as a service.

        Args:
            on_stage: hears of `build` once the package is found and is no service.

        Raises:
            PackageError: nothing is installed under this id, or it cannot be used.
            RuntimeFailure: it cannot be built.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchLimits:
    """Seconds: from the call to READY, and from the request to stop to the end of every process."""

    startup_s: float
    stop_s: float


class RuntimeLauncher:
    """Launches chaincodes, each once however many ask for it.

    Args:
        instances: the peer's nursery; a launch outlives the call that asked for it.
        external: runs the launchers of external builders; `backend` if None.
        remote_name: host by which an engine on another machine reaches the peer, if it has a name.
        authority: issues client certificates when TLS is on, else None.
    """

    def __init__(
        self,
        *,
        instances: trio.Nursery,
        registry: HandlerRegistry,
        backend: RuntimeBackend,
        packages: Packages,
        listeners: Listeners,
        connector: Connector,
        environment: ChaincodeEnvironment,
        limits: LaunchLimits,
        authority: CertificateAuthority | None = None,
        external: RuntimeBackend | None = None,
        remote_name: str = "",
    ) -> None:
        self._instances = instances
        self._registry = registry
        self._backend = backend
        self._external = external or backend
        self._packages = packages
        self._listeners = listeners
        self._connector = connector
        self._environment = environment
        self._limits = limits
        self._authority = authority
        self._remote_name = remote_name
        self._context = copy_context()

    async def launch(self, ccid: str, handle_stream: HandleStream) -> None:
        """Return once the chaincode is READY.

        Safe to call many times at once: the first call starts it, all wait for the same outcome.

        Args:
            handle_stream: serves the chaincode's stream behind a gate.

        Raises:
            LaunchError: one of its kinds, the same for all who waited; nothing is left running.

        Cancellation: leaves the launch going, it belongs to the peer.
        Source: RuntimeLauncher.Launch, core/chaincode/runtime_launcher.go (release-2.5).
        """
        state, already = self._registry.launching(ccid)
        while already and state.is_ending:  # its stream ended; let what it started go first
            await state.gone.wait()
            state, already = self._registry.launching(ccid)
        if not already:
            # In the peer's context: a launch has neither the caller's log ids nor its event loop.
            self._context.run(self._instances.start_soon, self._named, state, handle_stream)
        await state.outcome()

    async def stop(self, ccid: str) -> None:
        """Stop what runs under this id and return when it is gone; nothing running is fine.

        Cancellation: the stop goes on.
        """
        state = self._registry.launch(ccid)
        if state is not None:
            state.end()
            await state.gone.wait()

    async def _named(self, state: LaunchState, handle_stream: HandleStream) -> None:
        with logs.bind(ccid=state.ccid):
            await self._own(state, handle_stream)

    async def _own(self, state: LaunchState, handle_stream: HandleStream) -> None:
        """Hold one chaincode from its launch to its end; settles `state` on every way out."""
        ccid = state.ccid
        state.enter("package")
        state.clock.deadline = trio.current_time() + self._limits.startup_s
        try:
            with state.scope, state.clock:
                state.notify(await self._run(state, handle_stream))
            if state.clock.cancelled_caught:
                state.notify(self._too_late(state))
            elif state.scope.cancelled_caught:
                state.notify(LaunchError(ccid, "it was stopped"))
        except Exception as exc:  # a broken backend must not take the peer down
            log.exception("launch of %s failed", ccid)
            state.notify(LaunchError(ccid, f"internal error: {exc!r}"))
        finally:
            state.end()
            self._registry.forget(state)

    def _too_late(self, state: LaunchState) -> LaunchError:
        return state.pending or StartupTimeout(
            state.ccid,
            f"timeout expired while starting chaincode {state.ccid}: not READY within "
            f"{self._limits.startup_s:g} s (chaincode.startuptimeout)",
        )

    async def _run(self, state: LaunchState, handle_stream: HandleStream) -> LaunchError:
        """Run the chaincode and return why it ended, which matters if it never was READY."""
        try:
            found = await self._packages.build(state.ccid, state.enter)
        except PackageError as exc:
            return LaunchError(state.ccid, str(exc))
        except RuntimeFailure as exc:
            return BuildError(state.ccid, f"error building chaincode: {exc}")
        if isinstance(found, ChaincodeServerInfo):
            service = ServiceGate(state, self._registry)
            return await self._run_service(state, found, lambda s: handle_stream(s, service))
        gate = LaunchGate(state, self._registry)
        return await self._run_instance(state, found, lambda s: handle_stream(s, gate))

    async def _run_instance(
        self, state: LaunchState, package: ChaincodePackage, serve: Serve
    ) -> LaunchError:
        backend = self._backend if package.launcher is None else self._external
        # With TLS, too: these libraries expect `localhost` behind a Unix socket.
        unix = (
            package.launcher is None  # nobody knows which library it will start
            and package.type in backend.capabilities.unix_socket
        )
        state.enter("create")
        async with AsyncExitStack() as stack:
            try:
                host = "" if unix else await backend.listen_host()
                name = self._remote_name if backend.capabilities.is_remote else ""
                listening = self._listeners.open(serve, unix=unix, host=host, name=name)
                state.endpoint = await stack.enter_async_context(listening)
            except OSError as exc:
                reason = f"error starting container: the peer cannot listen for it: {exc}"
                return StartError(state.ccid, reason)
            except RuntimeFailure as exc:
                return StartError(state.ccid, f"error starting container: {exc}")
            try:
                instance = await backend.start(self._spec(state, package, state.endpoint.address))
            except RuntimeFailure as exc:
                return StartError(state.ccid, f"error starting container: {exc}")
            async with self._stopping(state.ccid, instance):
                state.started(instance)
                state.enter("connect")
                status = await instance.wait()
                state.exited(status)
                if state.done.is_set():
                    log.warning("%s ended: %s", state.ccid, status)
                return InstanceExited(state.ccid, f"it ended before it was READY: {status}")

    @asynccontextmanager
    async def _stopping(self, ccid: str, instance: Instance) -> AsyncIterator[None]:
        """Stop the instance on every way out; a bounded stop that a cancellation cannot cut."""
        try:
            yield
        finally:
            with trio.move_on_after(self._limits.stop_s, shield=True) as grace:
                try:
                    await instance.stop()
                except RuntimeFailure as exc:
                    log.error("stop of %s failed: %s", ccid, exc)
            if grace.cancelled_caught:
                log.error("stop of %s gave up after %g s", ccid, self._limits.stop_s)

    def _spec(self, state: LaunchState, package: ChaincodePackage, address: str) -> InstanceSpec:
        files: dict[str, bytes] = {}
        if self._authority is not None:
            client = self._authority.issue_client()
            state.certificate_hash = client.sha256
            files = tls_files(client, self._authority.certificate)
        return InstanceSpec(
            package=package,
            peer_address=address,
            env={
                **package.env,
                **self._environment.variables(state.ccid, tls=bool(files)),
            },
            files=files,
            on_stage=state.enter,
        )

    async def _run_service(
        self, state: LaunchState, info: ChaincodeServerInfo, serve: Serve
    ) -> LaunchError:
        """Dial until the service is READY or the clock runs out, then hold the stream."""
        pauses = iter(REDIAL_S)
        while True:
            state.enter("connect")
            try:
                await self._connector.connect(info, serve)
            except ConnectionFailed as exc:
                cause = f"connection to {state.ccid} failed: {exc}"
                state.pending = ConnectError(state.ccid, cause)
            if state.done.is_set():
                return StreamLost(state.ccid, f"connection to {state.ccid} terminated")
            await trio.sleep(next(pauses, REDIAL_S[-1]))
