"""Run chaincodes: the entry to everything in this room.

Room:      peer.chaincode   (imports launcher, handler, registry;
           used by endorser, library, assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    `ChaincodeSupport`, core/chaincode/chaincode_support.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import trio

from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    ChaincodeAdditionalParams,
    ChaincodeEvent,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    ChaincodeSpec,
    Response,
    SignedProposal,
)
from peer import logs
from peer.chaincode.access import DevelopmentGate
from peer.chaincode.handler import Gate, Handler, Trace
from peer.chaincode.launcher import RuntimeLauncher
from peer.chaincode.registry import HandlerRegistry
from peer.chaincode.requests import LongRequests
from peer.chaincode.stream import MessageStream, PeerEnd, memory_pipe
from peer.chaincode.transactions import TransactionContext, TransactionParams
from peer.errors import (
    ChaincodeFailed,
    ExecuteTimeout,
    InvalidInvocation,
    LaunchError,
    LedgerError,
    PeerError,
    RegistrationRefused,
    StreamLost,
)
from peer.ledger.api import Ledger, TxSimulator
from peer.metrics import ChaincodeMeters, Registry

Type = ChaincodeMessageType

SYSTEM_SUFFIX = ".syscc"
ESCC = "escc"
"""What endorses transactions, unless a definition names something else."""
INITIALIZED_KEY = "\x00\U0010ffffinitialized"
"""Holds the version a chaincode was initialised for; range scans of plain keys never show it."""


_INSTALLING = frozenset({("_lifecycle", b"InstallChaincode"), ("lscc", b"install")})

Executions = Callable[[str, str], TransactionParams | None]
"""Finds what an execution runs with by channel and transaction id; None once it has ended."""


class EndorsementInfo(NamedTuple):
    """What the lifecycle knows of a chaincode on a channel.

    Attributes:
        plugin: name of what is to endorse its transactions.
    """

    version: str
    ccid: str
    init_required: bool
    plugin: str = ESCC


class Definitions(Protocol):
    """Looks up what is defined on a channel; what it reads becomes part of the simulation."""

    def endorsement_info(
        self, channel_id: str, name: str, simulator: TxSimulator | None
    ) -> EndorsementInfo:
        """
        Raises:
            UnknownChaincode: nothing of that name is committed on the channel.
            DefinitionNotUsable: it is, but not to be run by this peer.
            LedgerError: the state is damaged.
        """
        ...


MayCall = Callable[[str, SignedProposal | None], None]


class Route(NamedTuple):
    """Where an invocation goes and as what: INIT or TRANSACTION."""

    ccid: str
    message_type: int


class Execution(NamedTuple):
    """What a chaincode answered."""

    response: Response
    event: ChaincodeEvent | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSettings:
    """How executions run.

    Attributes:
        execute_s: seconds one INIT or TRANSACTION may take.
        install_s: the same of a call that installs a package, if it is longer.
        keepalive_s: seconds between KEEPALIVE messages on a stream, 0 for none.
        ready_params: what READY offers beyond the base protocol.
        total_query_limit: records one query may return.
        is_debugged: tells whether a debugger is at chaincodes; an execution whose time is over then
            gets as much again.
    """

    execute_s: float = 30.0
    install_s: float = 300.0
    keepalive_s: float = 0.0
    ready_params: ChaincodeAdditionalParams
    total_query_limit: int = 100_000
    is_debugged: Callable[[], bool] = lambda: False


class ChaincodeSupport:
    """Launches chaincodes and runs transactions on them.

    Args:
        launcher: starts what is not running.
        ledgers: finds a channel's ledger, raising `UnknownChannel`.
        may_call: raises a `PeerError` unless a proposal's creator may call chaincode on a channel
            from another chaincode.
        trace: sees every message of every stream.
        meters: executions are counted there.
    """

    def __init__(
        self,
        *,
        registry: HandlerRegistry,
        launcher: RuntimeLauncher,
        definitions: Definitions,
        ledgers: Callable[[str], Ledger],
        settings: ExecutionSettings,
        may_call: MayCall = lambda channel_id, proposal: None,
        trace: Trace | None = None,
        meters: ChaincodeMeters | None = None,
    ) -> None:
        self._registry = registry
        self._definitions = definitions
        self._ledgers = ledgers
        self._settings = settings
        self._may_call = may_call
        self._trace = trace
        self._meters = meters or ChaincodeMeters(Registry())
        self._system: set[str] = set()
        self._launcher = launcher
        self._long_requests = LongRequests(
            total_query_limit=settings.total_query_limit, call_chaincode=self._call_chaincode
        )

    async def launch(self, ccid: str) -> Handler:
        """Make sure a chaincode is running and return its READY handler.

        Safe to call many times at once; one caller's cancellation stops nothing for the others.

        Args:
            ccid: ``label:sha256`` for packages, ``name:version`` for legacy ones.

        Raises:
            LaunchError: one of its kinds, with evidence; nothing is left running.

        Cancellation: leaves the launch going, it belongs to the peer.
        Source: ChaincodeSupport.Launch, core/chaincode/chaincode_support.go (release-2.5).
        """
        handler = self._registry.handler(ccid)
        if handler is None:
            await self._launcher.launch(ccid, self.handle_chaincode_stream)
            handler = self._registry.handler(ccid)
        if handler is None:
            raise StreamLost(ccid, "it was READY, then its stream ended")
        return handler

    def is_system(self, name: str) -> bool:
        """Tell whether a chaincode of that name is part of the peer."""
        return name in self._system

    async def stop(self, ccid: str) -> None:
        """Stop a chaincode; returns when its processes are gone. Executions on it fail at once."""
        await self._launcher.stop(ccid)

    async def retire(self, ccid: str, is_wanted: Callable[[str], bool]) -> None:
        """Stop a chaincode that no definition leads to any more, once its executions are over.

        Args:
            is_wanted: tells whether one leads to it again by then; it goes on running if so.
        """
        handler = self._registry.handler(ccid)
        if handler is not None:
            await handler.wait_idle()
        if not is_wanted(ccid):
            await self.stop(ccid)

    async def execute(
        self,
        params: TransactionParams,
        name: str,
        payload: ChaincodeInput,
        info: EndorsementInfo | None = None,
    ) -> Execution:
        """Run a chaincode and read its answer; a response of any status is a result.

        Args:
            info: what is defined, where the caller has looked it up through `params.simulator`.

        Raises:
            InvalidInvocation: the call does not fit the definition.
            LaunchError: it could not be started.
            ExecuteError: it gave no response.

        Source: ChaincodeSupport.Execute, core/chaincode/chaincode_support.go (release-2.5).
        """
        return _interpret(params, name, await self.invoke(params, name, payload, info))

    async def execute_legacy_init(
        self, params: TransactionParams, name: str, version: str, payload: ChaincodeInput
    ) -> Execution:
        """Send INIT to a legacy chaincode whose definition is not committed yet.

        Source: ChaincodeSupport.ExecuteLegacyInit (release-2.5).
        """
        answer = await self._run(Route(f"{name}:{version}", Type.INIT), params, name, payload)
        return _interpret(params, name, answer)

    async def invoke(
        self,
        params: TransactionParams,
        name: str,
        payload: ChaincodeInput,
        info: EndorsementInfo | None = None,
    ) -> ChaincodeMessage:
        """Run a chaincode and return its final message, COMPLETED or ERROR.

        Source: ChaincodeSupport.Invoke (release-2.5).
        """
        route = self.check_invocation(params, name, payload, info)
        return await self._run(route, params, name, payload)

    def check_invocation(
        self,
        params: TransactionParams,
        name: str,
        payload: ChaincodeInput,
        info: EndorsementInfo | None = None,
    ) -> Route:
        """Decide whether this call is an INIT or a TRANSACTION, and for which process.

        Raises:
            UnknownChaincode, DefinitionNotUsable: no definition on this channel that can be run.
            InvalidInvocation: init asked for and not needed, or needed and not asked for.

        Source: ChaincodeSupport.CheckInvocation (release-2.5).
        """
        if name in self._system:
            return Route(name + SYSTEM_SUFFIX, Type.TRANSACTION)
        if info is None:
            simulator = params.simulator
            info = self._definitions.endorsement_info(params.channel_id, name, simulator)
        needs_init = False
        if info.init_required and params.simulator is not None:
            done_for = params.simulator.get_state(name, INITIALIZED_KEY)
            needs_init = done_for != info.version.encode()
        if payload.is_init:
            if not info.init_required:
                raise InvalidInvocation(
                    f"chaincode '{name}' does not require initialization but called as init"
                )
            if not needs_init or params.simulator is None:
                raise InvalidInvocation(
                    f"chaincode '{name}' is already initialized but called as init"
                )
            params.simulator.set_state(name, INITIALIZED_KEY, info.version.encode())
            return Route(info.ccid, Type.INIT)
        if needs_init:
            raise InvalidInvocation(
                f"chaincode '{name}' has not been initialized for this version, "
                "must call as init first"
            )
        return Route(info.ccid, Type.TRANSACTION)

    async def handle_chaincode_stream(self, stream: MessageStream, gate: Gate) -> None:
        """Serve one stream to its end.

        Raises:
            StreamRefused: for the transport to tell the chaincode.

        Source: ChaincodeSupport.HandleChaincodeStream (release-2.5).
        """
        handler = Handler(
            stream,
            gate=gate,
            registry=self._registry,
            long_requests=self._long_requests,
            ready_params=self._settings.ready_params,
            meters=self._meters,
            keepalive_s=self._settings.keepalive_s,
            is_debugged=self._settings.is_debugged,
            trace=self._trace,
        )
        await handler.process_stream()

    async def handle_development_stream(self, stream: MessageStream) -> None:
        """Serve a chaincode that somebody started by hand (`chaincode.mode: dev`)."""
        await self.handle_chaincode_stream(stream, DevelopmentGate())

    async def run_in_process(
        self,
        name: str,
        chaincode: Callable[[MessageStream, Executions], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run a system chaincode in the peer until stopped or cancelled; started once READY.

        Args:
            chaincode: speaks the chaincode's side of the stream and registers as ``<name>.syscc``;
                it may ask what its executions run with.

        Source: ChaincodeSupport.LaunchInProc, core/scc/scc.go `DeploySysCC` (release-2.5).
        """
        near, far = memory_pipe()
        ccid = name + SYSTEM_SUFFIX
        state, already = self._registry.launching(ccid)
        if already:
            raise LaunchError(ccid, "it is running already")

        def executions(channel_id: str, tx_id: str) -> TransactionParams | None:
            handler = self._registry.handler(ccid)
            return None if handler is None else handler.params(channel_id, tx_id)

        self._system.add(name)
        try:
            with state.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.handle_chaincode_stream, near, _InProcessGate(ccid))
                    nursery.start_soon(chaincode, far, executions)
                    await state.done.wait()
                    task_status.started()
        finally:
            self._system.discard(name)
            self._registry.forget(state)

    async def _run(
        self, route: Route, params: TransactionParams, name: str, payload: ChaincodeInput
    ) -> ChaincodeMessage:
        with logs.bind(ccid=route.ccid):
            handler = await self.launch(route.ccid)
            if params.namespace != name:
                params = replace(params, namespace=name)
            payload = ChaincodeInput(
                args=payload.args, decorations=dict(params.decorations), is_init=payload.is_init
            )
            try:
                limit_s = self._limit_s(name, payload)
                return await handler.execute(route.message_type, params, payload, limit_s)
            except ExecuteTimeout:
                self._meters.execute_timed_out(route.ccid)
                raise

    def _limit_s(self, name: str, payload: ChaincodeInput) -> float:
        settings = self._settings
        installs = payload.args and (name, bytes(payload.args[0])) in _INSTALLING
        return max(settings.execute_s, settings.install_s) if installs else settings.execute_s

    async def _call_chaincode(self, caller: TransactionContext, spec: ChaincodeSpec) -> bytes:
        """Run INVOKE_CHAINCODE: same channel, same read-write set; another channel, a query.

        Source: Handler.HandleInvokeChaincode, core/chaincode/handler.go (release-2.5).
        """
        if spec.chaincode_id is None or spec.input is None:
            raise LedgerError("the request names no chaincode or carries no input")
        params = caller.params
        name, channel_id = _callee(spec.chaincode_id.name, params.channel_id)
        if name not in self._system:
            if not params.channel_id or params.simulator is None:
                raise LedgerError("no ledger context")
            if params.signed_proposal is None:
                raise LedgerError(
                    f"signed proposal must not be nil from caller [{params.namespace}]"
                )
        if name not in self._system:
            try:
                self._may_call(channel_id, params.signed_proposal)
            except PeerError as exc:
                raise LedgerError(str(exc)) from exc
        called = replace(params, channel_id=channel_id, namespace=name, decorations={})
        payload = ChaincodeInput(args=spec.input.args)
        elsewhere = None if channel_id == params.channel_id else self._ledgers(channel_id)
        try:
            if elsewhere is None:
                answer = await self.invoke(called, name, payload)
            else:
                answer = await self._query(elsewhere, called, name, payload)
        except PeerError as exc:
            raise LedgerError(f"execute failed: {exc}") from exc
        return answer.encode()

    async def _query(
        self, ledger: Ledger, params: TransactionParams, name: str, payload: ChaincodeInput
    ) -> ChaincodeMessage:
        """Invoke on the ledger of another channel; what it writes there is dropped."""
        simulator = ledger.new_tx_simulator(params.tx_id)
        try:
            history = None if params.history is None else ledger.new_history_query_executor()
            params = replace(params, simulator=simulator, history=history)
            return await self.invoke(params, name, payload)
        finally:
            simulator.done()


class _InProcessGate:
    """Guards an in-process stream: nobody else can be at its other end."""

    def __init__(self, ccid: str) -> None:
        self._ccid = ccid

    async def recognise(self, far_end: PeerEnd) -> None:
        """Accept: the stream is in memory."""

    def admit(self, ccid: str) -> None:
        """Refuse another name."""
        if ccid != self._ccid:
            raise RegistrationRefused(self._ccid, f"it registered as {ccid}")

    def ended(self, reason: str) -> None:
        """The nursery of `run_in_process` sees the end."""


def _callee(name: str, caller_channel: str) -> tuple[str, str]:
    """Split ``name[:version][/channel]``; the version is ignored."""
    name, _, channel_id = name.partition("/")
    return name.partition(":")[0], channel_id or caller_channel


def _interpret(params: TransactionParams, name: str, answer: ChaincodeMessage) -> Execution:
    """Turn a final message into a response.

    Source: processChaincodeExecutionResult, core/chaincode/chaincode_support.go (release-2.5).
    """
    key = params.key
    event = answer.chaincode_event
    if event is not None:
        event.chaincode_id, event.tx_id = name, key.tx_id
    if answer.type == Type.COMPLETED:
        try:
            return Execution(Response.decode(answer.payload), event)
        except DecodeError as exc:
            reason = f"failed to unmarshal response for transaction {key.tx_id}: {exc}"
            raise ChaincodeFailed(key, reason) from exc
    text = answer.payload.decode(errors="replace")
    raise ChaincodeFailed(key, f"transaction returned with failure: {text}")
