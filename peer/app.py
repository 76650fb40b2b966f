"""The peer, put together.

Room:      peer.app   (the composition root: imports everything, imported by cli and `peer` only)
Loop:      Trio, with an asyncio loop inside for gRPC
Lifetime:  peer
Fabric:    internal/peer/node/start.go (release-2.5)
"""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from fabric_protos.stream import ChaincodeAdditionalParams, ChaincodeEvent, ChaincodeInput
from peer import logs
from peer.chaincode.certificates import CertificateAuthority
from peer.chaincode.environment import ChaincodeEnvironment
from peer.chaincode.handler import Trace
from peer.chaincode.launcher import LaunchLimits, RuntimeLauncher
from peer.chaincode.registry import HandlerRegistry, OnStage
from peer.chaincode.support import ChaincodeSupport, Execution, ExecutionSettings
from peer.chaincode.transactions import TransactionParams
from peer.config import PeerConfig, chaincode_listen_address
from peer.config.values import split_address
from peer.endorser.proposal import (
    PreparedProposal,
    SigningIdentity,
    prepare_args,
    prepare_proposal,
)
from peer.errors import LedgerStorageError, UnknownChannel
from peer.ledger.api import CommittingTransaction, Ledger, Timestamp, ValidationCode
from peer.ledger.kvledger import open_ledger
from peer.lifecycle.definitions import ChaincodeDefinition, DefinitionStore
from peer.lifecycle.packages import InstalledPackage, PackageStore
from peer.rpc.connector import ServiceConnector
from peer.rpc.listener import ChaincodeListeners
from peer.rpc.loop import open_loop
from peer.rpc.tls import server_context
from peer.scc.cscc import Cscc
from peer.scc.runner import serve
from runtimes import loader, naming
from runtimes.api import RuntimeSettings

log = logging.getLogger("peer")

DEFAULT_CHANNEL = "mychannel"
ERROR_THRESHOLD = 400
"""Responses from here on are not endorsed, so nothing of them is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one call.

    Attributes:
        status: 200 is success; from 400 on nothing is committed.
        validation_code: verdict of the commit; None when nothing was to be committed.
    """

    tx_id: str
    status: int
    message: str
    payload: bytes
    event: ChaincodeEvent | None
    validation_code: ValidationCode | None = None

    @property
    def committed(self) -> bool:
        """The writes of this call are part of the ledger."""
        return self.validation_code is ValidationCode.VALID


class Peer:
    """An open peer; made by `open_peer`.

    Attributes:
        chaincode: launches and runs chaincodes; most callers need `invoke` and `query` only.
    """

    def __init__(
        self,
        *,
        chaincode: ChaincodeSupport,
        packages: PackageStore,
        definitions: DefinitionStore,
        ledgers: dict[str, Ledger],
        open_ledger: Callable[[str], Awaitable[Ledger]],
        identity: SigningIdentity,
    ) -> None:
        self.chaincode = chaincode
        self._packages = packages
        self._definitions = definitions
        self._ledgers = ledgers
        self._open_ledger = open_ledger
        self._identity = identity

    @property
    def channels(self) -> list[str]:
        """Ids of the channels this peer has joined."""
        return sorted(self._ledgers)

    def ledger(self, channel_id: str) -> Ledger:
        """
        Raises:
            UnknownChannel: not joined.
        """
        try:
            return self._ledgers[channel_id]
        except KeyError:
            raise UnknownChannel(channel_id, self.channels) from None

    async def join_channel(self, channel_id: str) -> None:
        """Open a channel's ledger, empty if it is new; joining twice is fine.

        Raises:
            LedgerError: the id is not valid, or the ledger cannot be opened.
        """
        if channel_id not in self._ledgers:
            self._ledgers[channel_id] = await self._open_ledger(channel_id)

    async def install(
        self,
        source: str | os.PathLike[str],
        *,
        name: str = "",
        version: str = "1.0",
        channels: Sequence[str] = (),
        init_required: bool = False,
        collections: Collection[str] = (),
    ) -> InstalledPackage:
        """Install chaincode and define it on channels; nothing is started yet.

        Installing again under the same name replaces the definition; if the code changed, the next
        call launches the new code.

        Args:
            source: a directory of code, or a lifecycle package (``.tar.gz``).
            name: what it is invoked as; the package's label if empty.
            version: changing it asks for another init where one is required.
            channels: where; every joined channel if empty.
            collections: names of private data collections.

        Raises:
            PackageError: `source` cannot be used.
            UnknownChannel: a channel is not joined.
        """
        package = await trio.to_thread.run_sync(self._packages.install, Path(source))
        for channel_id in channels or self.channels:
            self.ledger(channel_id)
            definition = ChaincodeDefinition(
                name=name or package.label,
                version=version,
                ccid=package.ccid,
                init_required=init_required,
                collections=frozenset(collections),
            )
            self._definitions.define(channel_id, definition)
        return package

    async def invoke(
        self,
        channel_id: str,
        name: str,
        args: Sequence[bytes | str],
        *,
        transient: Mapping[str, bytes] | None = None,
        is_init: bool = False,
    ) -> Result:
        """Run a chaincode, launching it if need be, and commit what it wrote.

        Args:
            args: function name first; text is sent as UTF-8.
            transient: reaches the chaincode, never the ledger.

        Raises:
            UnknownChannel, UnknownChaincode, InvalidInvocation: the call makes no sense here.
            LaunchError: the chaincode could not be started.
            ExecuteError: it gave no response. A response of any status is a result.

        Cancellation: nothing is committed, unless the commit has begun; that is finished.
        """
        payload = ChaincodeInput(args=prepare_args(args), is_init=is_init)
        return await self._call(channel_id, name, payload, transient or {}, commits=True)

    async def query(
        self,
        channel_id: str,
        name: str,
        args: Sequence[bytes | str],
        *,
        transient: Mapping[str, bytes] | None = None,
    ) -> Result:
        """Run a chaincode and drop what it wrote; otherwise like `invoke`.

        A system chaincode may be asked without a channel (``""``).
        """
        payload = ChaincodeInput(args=prepare_args(args))
        return await self._call(channel_id, name, payload, transient or {}, commits=False)

    async def _call(
        self,
        channel_id: str,
        name: str,
        payload: ChaincodeInput,
        transient: Mapping[str, bytes],
        *,
        commits: bool,
    ) -> Result:
        proposal = prepare_proposal(self._identity, channel_id, name, payload, transient)
        with logs.bind(channel=channel_id, tx=proposal.tx_id):
            if not channel_id:
                params = TransactionParams(
                    channel_id="",
                    tx_id=proposal.tx_id,
                    namespace=name,
                    signed_proposal=proposal.signed,
                )
                return _result(proposal, await self.chaincode.execute(params, name, payload))
            return await self._simulate(channel_id, name, payload, proposal, commits=commits)

    async def _simulate(
        self,
        channel_id: str,
        name: str,
        payload: ChaincodeInput,
        proposal: PreparedProposal,
        *,
        commits: bool,
    ) -> Result:
        ledger = self.ledger(channel_id)
        simulator = ledger.new_tx_simulator(proposal.tx_id)
        try:
            params = TransactionParams(
                channel_id=channel_id,
                tx_id=proposal.tx_id,
                namespace=name,
                signed_proposal=proposal.signed,
                simulator=simulator,
                history=ledger.new_history_query_executor() if ledger.has_history else None,
                collections=self._definitions,
            )
            execution = await self.chaincode.execute(params, name, payload)
            if not commits or execution.response.status >= ERROR_THRESHOLD:
                return _result(proposal, execution)
            results = simulator.get_tx_simulation_results()
        finally:
            simulator.done()
        [code] = await ledger.commit(
            [
                CommittingTransaction(
                    tx_id=proposal.tx_id,
                    timestamp=Timestamp(proposal.timestamp.seconds, proposal.timestamp.nanos),
                    results=results,
                )
            ]
        )
        return _result(proposal, execution, code)


@asynccontextmanager
async def open_peer(
    config: PeerConfig | None = None,
    *,
    trace: Trace | None = None,
    on_stage: OnStage | None = None,
) -> AsyncIterator[Peer]:
    """Open a peer and hold it.

        async with open_peer() as peer:
            await peer.install("examples/asset_transfer", name="assets")
            result = await peer.query("mychannel", "assets", ["get_all"])

    The channel ``mychannel`` is joined already. Leaving the context, by whatever way, stops every
    chaincode and leaves no process, socket, file or thread behind.

    Args:
        config: `PeerConfig()` if None: chaincodes as processes, data in a temporary directory.
        trace: sees every message of every chaincode stream.
        on_stage: hears of every stage of every launch.

    Raises:
        LedgerError: the data directory cannot be used.
        RuntimeFailure: the chosen runtime is not there.

    Cancellation: closes the peer.
    """
    config = config or PeerConfig()
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        home = stack.enter_context(_home(config))
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triopeer-")))
        await stack.enter_async_context(open_loop())
        settings = RuntimeSettings(
            network_id=config.peer.network_id,
            peer_id=config.peer.id,
            state_dir=_private_directory(home / "runtimes" / config.vm.runtime),
            options=config.vm.options,
            on_output=partial(_log_output, config),
        )
        backend = await stack.enter_async_context(loader.load(config.vm.runtime)(settings))
        authority = CertificateAuthority() if config.peer.tls_enabled else None
        registry = HandlerRegistry(on_stage)
        packages = PackageStore(home / "lifecycle" / "chaincodes")
        definitions = DefinitionStore()
        ledgers: dict[str, Ledger] = {}
        listeners = ChaincodeListeners(
            run_dir,
            tls=_chaincode_tls(authority) if authority is not None else None,
            limit=config.peer.max_recv_msg_size,
        )

        async def ledger_of(channel_id: str) -> Ledger:
            return await stack.enter_async_context(
                open_ledger(
                    home / "ledgersData",
                    channel_id,
                    history=config.ledger.history_enabled,
                    collections=definitions.collections(channel_id),
                )
            )

        async with trio.open_nursery() as instances:
            launcher = RuntimeLauncher(
                instances=instances,
                registry=registry,
                backend=backend,
                packages=packages,
                listeners=listeners,
                connector=ServiceConnector(limit=config.peer.max_recv_msg_size),
                environment=ChaincodeEnvironment(
                    msp_id=config.peer.local_msp_id,
                    logging_level=config.chaincode.logging_level,
                    logging_shim=config.chaincode.logging_shim,
                    logging_format=config.chaincode.logging_format,
                ),
                limits=LaunchLimits(
                    startup_s=config.chaincode.startup_timeout_s,
                    stop_s=config.chaincode.stop_timeout_s,
                ),
                authority=authority,
            )
            peer = Peer(
                chaincode=ChaincodeSupport(
                    registry=registry,
                    launcher=launcher,
                    definitions=definitions,
                    ledgers=lambda channel_id: peer.ledger(channel_id),
                    settings=_execution_settings(config),
                    trace=trace,
                ),
                packages=packages,
                definitions=definitions,
                ledgers=ledgers,
                open_ledger=ledger_of,
                identity=SigningIdentity.self_signed(config.peer.local_msp_id),
            )
            cscc = Cscc(lambda: peer.channels)
            await instances.start(peer.chaincode.run_in_process, cscc.name, partial(serve, cscc))
            await peer.join_channel(DEFAULT_CHANNEL)
            try:
                async with _development_listener(config, listeners, peer.chaincode):
                    yield peer
            except Exception as exc:  # raised below, outside the nurseries that would wrap it
                failure = exc
            instances.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def _development_listener(
    config: PeerConfig, listeners: ChaincodeListeners, chaincode: ChaincodeSupport
) -> AsyncIterator[None]:
    """In development mode, hold the address that chaincodes started by hand dial."""
    if config.chaincode.mode != "dev":
        yield
        return
    host, port = split_address(chaincode_listen_address(config))
    async with listeners.open(
        chaincode.handle_development_stream, host=host, port=port
    ) as endpoint:
        log.info("development mode: chaincodes can register at %s", endpoint.address)
        yield


def _execution_settings(config: PeerConfig) -> ExecutionSettings:
    return ExecutionSettings(
        execute_s=config.chaincode.execute_timeout_s,
        keepalive_s=float(config.chaincode.keepalive_s),
        ready_params=ChaincodeAdditionalParams(
            use_write_batch=config.chaincode.use_write_batch,
            max_size_write_batch=config.chaincode.max_size_write_batch,
            use_get_multiple_keys=config.chaincode.use_get_multiple_keys,
            max_size_get_multiple_keys=config.chaincode.max_size_get_multiple_keys,
        ),
        total_query_limit=config.ledger.total_query_limit,
    )


def _chaincode_tls(authority: CertificateAuthority) -> ssl.SSLContext:
    server = authority.issue_server("127.0.0.1", "localhost")
    return server_context(server.certificate, server.key, authority.certificate)


@contextmanager
def _home(config: PeerConfig) -> Iterator[Path]:
    """Hold the peer's data directory: the configured one, or a temporary one."""
    if config.peer.file_system_path:
        yield _private_directory(Path(config.peer.file_system_path))
        return
    with tempfile.TemporaryDirectory(prefix="triopeer-data-") as path:
        yield Path(path)


def _private_directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise LedgerStorageError(str(path), f"the directory cannot be used: {exc}") from exc
    return path


def _log_output(config: PeerConfig, ccid: str, line: str) -> None:
    name = naming.container_name(ccid, network_id=config.peer.network_id, peer_id=config.peer.id)
    logs.chaincode_logger(name).info("%s", line)


def _result(
    proposal: PreparedProposal, execution: Execution, code: ValidationCode | None = None
) -> Result:
    response = execution.response
    return Result(
        tx_id=proposal.tx_id,
        status=response.status,
        message=response.message,
        payload=response.payload,
        event=execution.event,
        validation_code=code,
    )
