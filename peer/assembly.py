"""The peer, put together.

Room:      peer.assembly   (knows everything; imported by peer.app while the runtime starts)
Loop:      Trio
Lifetime:  peer
Fabric:    internal/peer/node/start.go (release-2.5)
"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from peer import logs, serving
from peer.chaincode.certificates import CertificateAuthority
from peer.chaincode.environment import ChaincodeEnvironment
from peer.chaincode.launcher import LaunchLimits, RuntimeLauncher
from peer.chaincode.registry import HandlerRegistry
from peer.chaincode.support import ChaincodeSupport
from peer.channel.embedded import Embedded
from peer.channels import Channels
from peer.client.calls import Client, OwnVerdicts
from peer.config import PeerConfig, chaincode_host, chaincode_listen_address
from peer.config.values import split_address
from peer.directories import LEDGERS, SNAPSHOTS
from peer.errors import ConfigError
from peer.ground import DEFAULT_CHANNEL, Ground
from peer.ledger.api import CommittedBlock, Ledger
from peer.ledger.kvledger import open_ledger
from peer.library import Peer
from peer.lifecycle.definitions import Definitions
from peer.lifecycle.deployments import Deployments
from peer.lifecycle.development import StartedByHand
from peer.lifecycle.state import defined_collections
from peer.metrics import GrpcMeters, Metrics
from peer.neighbours import Neighbours
from peer.operations import open_operations
from peer.ordering.connections import Connections
from peer.ordering.embedded import EmbeddedOrdering
from peer.ordering.joining import SnapshotJoins
from peer.ordering.service import Ordering
from peer.outgoing import remote_ordering
from peer.parts import (
    chaincode_tls,
    couchdb_of,
    execution_settings,
    external_runtime,
    members_of,
    packages_of,
)
from peer.rpc.client import dial
from peer.rpc.connector import ServiceConnector
from peer.rpc.listener import ChaincodeListeners
from peer.scc.access import AccessControl
from peer.scc.cscc import Cscc
from peer.scc.lifecycle import Lifecycle
from peer.scc.lscc import Lscc
from peer.scc.qscc import Qscc
from peer.scc.runner import SystemChaincode, serve
from peer.services import broadcast, deliver, snapshots
from peer.services import endorser as endorsing
from peer.serving import open_server
from peer.tracing import kinds_of
from peer.version import VERSION

log = logging.getLogger("peer")


async def assemble(ground: Ground, stack: AsyncExitStack) -> Peer:
    """Make every part, and leave on the stack what takes it down again, the last part first."""
    config, hooks, run_dir, home, backend = ground
    is_development = config.chaincode.mode == "dev"
    kinds = await kinds_of(config, stack)
    authority = CertificateAuthority() if config.peer.tls_enabled else None
    metrics = Metrics(
        VERSION,
        heights=lambda: {each: channels.get(each).ledger.height for each in channels.ids},
        ordered=lambda: [each for each in channels.ids if not ordering.state(each).trouble],
        log_entries=logs.entries,
        chaincode=kinds.chaincode_meters,
    )
    registry = HandlerRegistry(hooks.on_stage, metrics.chaincode.launch_settled)
    external = await external_runtime(ground, stack)
    packages = await trio.to_thread.run_sync(
        packages_of,
        config,
        home,
        backend,
        hooks.on_output,
        lambda ccid: deployments.on_install(ccid),
    )
    await packages.prune()
    keeps_packages = bool(config.peer.file_system_path)
    stack.push_async_callback(packages.close, keeps_packages=keeps_packages)
    members = await trio.to_thread.run_sync(members_of, config, home)
    listeners = ChaincodeListeners(
        run_dir,
        tls=chaincode_tls(authority) if authority is not None else None,
        limit=config.peer.max_recv_msg_size,
        ping_s=config.peer.keepalive_interval_s,
        ping_timeout_s=config.peer.keepalive_timeout_s,
    )
    # Below the instances: a ledger joined later still closes after the last execution.
    open_ledgers = await stack.enter_async_context(AsyncExitStack())
    definitions = Definitions(
        channel=lambda channel_id: channels.find(channel_id),
        packages=packages,
        identity=members.local.identity,
        is_development=is_development,
    )

    couchdb = await couchdb_of(config, stack)

    def ledger_of(channel_id: str) -> AbstractAsyncContextManager[Ledger]:
        return open_ledger(
            home / LEDGERS,
            channel_id,
            history=config.ledger.history_enabled,
            collections=definitions.collection_names(channel_id),
            policies=definitions.policies(channel_id),
            defined=defined_collections,
            snapshots=Path(config.ledger.snapshots_root or home / SNAPSHOTS),
            documents=None if couchdb is None else couchdb.channel(channel_id),
        )

    def on_commit(channel_id: str, committed: CommittedBlock) -> None:
        transactions = zip(committed.kinds, committed.codes, strict=True)
        metrics.ledger.block_committed(channel_id, committed.times, transactions)
        kinds.committed(channel_id, committed)

    deployments: Deployments = Deployments(
        channels=lambda: channels.ids,
        ledger=lambda channel_id: channels.get(channel_id).ledger,
        definitions=definitions,
        packages=packages,
        retire=lambda ccid: instances.start_soon(chaincode.retire, ccid, deployments.is_defined),
    )
    channels: Channels = Channels(
        home / LEDGERS,
        ledger_of,
        open_ledgers,
        on_commit,
        deployments.on_commit,
        lambda work: instances.start_soon(work),
    )
    instances = await stack.enter_async_context(trio.open_nursery())
    stack.callback(instances.cancel_scope.cancel)
    launcher = RuntimeLauncher(
        instances=instances,
        registry=registry,
        backend=backend,
        packages=StartedByHand(packages) if is_development else packages,
        listeners=listeners,
        connector=ServiceConnector(limit=config.peer.max_recv_msg_size),
        environment=ChaincodeEnvironment(
            msp_id=members.local.msp.name,
            logging_level=config.chaincode.logging_level,
            logging_shim=config.chaincode.logging_shim,
            logging_format=config.chaincode.logging_format,
        ),
        limits=LaunchLimits(
            startup_s=config.chaincode.startup_timeout_s,
            stop_s=config.chaincode.stop_timeout_s,
        ),
        authority=authority,
        external=external,
        remote_name=chaincode_host(config),
    )
    access = AccessControl(channel=channels.find, local=members.local.msp)
    chaincode = kinds.chaincode(
        registry=registry,
        launcher=launcher,
        definitions=definitions,
        ledgers=lambda channel_id: channels.get(channel_id).ledger,
        settings=execution_settings(config, hooks.is_debugged),
        may_call=partial(access.check, "peer/ChaincodeToChaincode"),
        trace=hooks.trace,
        meters=metrics.chaincode,
    )
    joins = SnapshotJoins(
        channels,
        lambda snapshot: ordering.join_by_snapshot(snapshot),
        instances,
        deployments.refresh,
    )
    system: SystemChaincode
    for system in (
        Cscc(
            access=access,
            channel=channels.find,
            channels=lambda: channels.ids,
            join=lambda block: ordering.join(block),
            snapshots=joins,
        ),
        Qscc(access=access, channel=channels.find),
        Lscc(access=access, channel=channels.find, packages=packages),
        Lifecycle(
            access=access,
            channel=channels.find,
            channels=lambda: channels.ids,
            definitions=definitions,
            packages=packages,
            msp_id=members.local.msp.name,
        ),
    ):
        await instances.start(chaincode.run_in_process, system.name, partial(serve, system))
    endorser = kinds.endorser(
        chaincode=chaincode,
        channel=channels.find,
        definitions=definitions,
        collections=definitions,
        local=members.local.msp,
        signer=members.local.identity,
        meters=metrics.endorser,
    )
    network = members.network
    embedded = None if network is None else EmbeddedOrdering(network, channels, instances)
    ordering: Ordering = Ordering(
        channels, await remote_ordering(config, members.local.identity, instances), embedded
    )
    await channels.open_all()
    for channel_id in channels.ids:
        await deployments.refresh(channel_id)
        await ordering.start(channel_id)
    if not is_development:
        instances.start_soon(deployments.launch_all, chaincode.launch)
    if network is not None and DEFAULT_CHANNEL not in channels:
        await ordering.create_channel(DEFAULT_CHANNEL)
    client, admin = (
        Client(
            identity,
            endorsers=[endorser],
            verdicts=OwnVerdicts(channels),
            orderer=ordering.orderer,
        )
        for identity in (members.client, members.admin)
    )
    neighbours = Neighbours(
        config,
        members.local.identity,
        endorser=endorser,
        channels=channels,
        definitions=definitions,
        is_system=chaincode.is_system,
        orderers=ordering.orderers,
        access=access,
        connections=Connections(
            partial(dial, connect_timeout_s=config.gateway.dial_timeout_s), instances
        ),
    )
    address = await open_server(
        stack,
        config,
        serving.PEER,
        kinds.served(
            [
                *await neighbours.methods(),
                *endorsing.methods(endorser),
                *snapshots.methods(channels.find, access),
                *deliver.methods(
                    channels.find,
                    definitions.is_member,
                    time_window_s=config.peer.time_window_s,
                    meters=metrics.deliver,
                ),
            ]
        ),
        None if network is None else network.peer_node,
        metrics.grpc,
    )
    orderer_address = await _open_orderer(stack, config, embedded, channels, network, metrics.grpc)
    peer = Peer(
        chaincode=chaincode,
        packages=packages,
        definitions=definitions,
        endorser=endorser,
        joined=channels,
        ordering=ordering,
        client=client,
        admin=admin,
        metrics=metrics.registry,
        address=address,
        orderer_address=orderer_address,
        operations_address=await stack.enter_async_context(
            open_operations(
                config,
                metrics=metrics.registry,
                checks={
                    backend.name: backend.health,
                    "ordering": ordering.health,
                    **({} if couchdb is None else {"couchdb": couchdb.health}),
                },
            )
        ),
    )
    if is_development:
        await _listen_for_development(stack, config, listeners, peer.chaincode)
    return peer


async def _open_orderer(
    stack: AsyncExitStack,
    config: PeerConfig,
    ordering: EmbeddedOrdering | None,
    channels: Channels,
    network: Embedded | None,
    meters: GrpcMeters,
) -> str:
    """Serve the embedded ordering service, if it is to be, and return its address."""
    if network is None or ordering is None:
        if config.orderer.listen_address:
            problem = "peer.mspConfigPath is set, so there is no ordering service to serve"
            raise ConfigError([f"{serving.ORDERER} is set, but {problem}"])
        return ""
    methods = broadcast.methods(
        ordering.orderer,
        partial(deliver.chain, channels.find),
        time_window_s=config.peer.time_window_s,
    )
    node = network.orderer_node
    return await open_server(stack, config, serving.ORDERER, methods, node, meters)


async def _listen_for_development(
    stack: AsyncExitStack,
    config: PeerConfig,
    listeners: ChaincodeListeners,
    chaincode: ChaincodeSupport,
) -> None:
    """Hold the address that chaincodes started by hand dial."""
    if config.peer.tls_enabled:
        problem = "nobody can give a chaincode started by hand the certificate that TLS demands"
        raise ConfigError([f"chaincode.mode is dev and peer.tls.enabled is true: {problem}"])
    host, port = split_address(chaincode_listen_address(config))
    try:
        endpoint = await stack.enter_async_context(
            listeners.open(chaincode.handle_development_stream, host=host, port=port)
        )
    except OSError as exc:
        problem = f"peer.chaincodeListenAddress {host}:{port}: {exc.strerror or exc}"
        raise ConfigError([problem]) from exc
    log.info("development mode: chaincodes can register at %s", endpoint.address)
