"""Parts of the peer as the configuration wants them, for the one that puts them together.

Room:      peer.parts   (used by peer.assembly)
Loop:      Trio; what says so runs in a worker thread
Lifetime:  none; what is opened ends with the caller's stack
Fabric:    internal/peer/node/start.go (release-2.5)
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fabric_protos.stream import ChaincodeAdditionalParams
from peer.chaincode.certificates import CertificateAuthority
from peer.chaincode.support import ExecutionSettings
from peer.channel.embedded import Embedded, open_embedded
from peer.config import PeerConfig
from peer.errors import ConfigError
from peer.ground import Ground, OnOutput, open_runtime
from peer.lifecycle.builds import BuildRegistry
from peer.lifecycle.external import ExternalBuilders
from peer.lifecycle.platforms.platform import Images
from peer.lifecycle.store import PackageStore
from peer.msp.directory import LocalMsp, load_local
from peer.msp.identity import SigningIdentity
from peer.rpc.tls import server_context
from peer.version import VERSION
from runtimes.api import RuntimeBackend

if TYPE_CHECKING:
    from peer.couchdb import CouchDB

EXTERNAL_RUNTIME = "process"


class Members(NamedTuple):
    """Who acts in this program: the peer, and the client and administrator of its own calls."""

    local: LocalMsp
    client: SigningIdentity
    admin: SigningIdentity
    network: Embedded | None


def members_of(config: PeerConfig, home: Path) -> Members:
    """Return the members of the configured organisation, or of a network of the peer's own.

    Reads files, or makes them.
    """
    msp_id, path = config.peer.local_msp_id, config.peer.msp_config_path
    if path:
        local = load_local(path, msp_id)
        return Members(local, local.identity, local.identity, None)
    network = open_embedded(home / "network", msp_id)
    return Members(network.local, network.client, network.admin, network)


async def couchdb_of(config: PeerConfig, stack: AsyncExitStack) -> CouchDB | None:
    """Return the server that holds the documents, if there is to be one.

    Raises:
        ConfigError: what it needs is not installed.
        LedgerError: it cannot be reached.
    """
    ledger = config.ledger
    if ledger.state_database != "CouchDB":
        return None
    try:
        from peer.couchdb import CouchSettings, open_couchdb  # of an extra
    except ModuleNotFoundError as exc:
        problem = f"that needs `pip install triopeer[couchdb]` ({exc})"
        raise ConfigError([f"ledger.state.stateDatabase is CouchDB: {problem}"]) from exc
    settings = CouchSettings(
        address=ledger.couchdb_address,
        username=ledger.couchdb_username,
        password=ledger.couchdb_password,
        retries=ledger.couchdb_max_retries,
        startup_retries=ledger.couchdb_max_retries_on_startup,
        request_timeout_s=ledger.couchdb_request_timeout_s,
        page_size=ledger.couchdb_internal_query_limit,
        batch_size=ledger.couchdb_max_batch_update_size,
    )
    return await stack.enter_async_context(open_couchdb(settings))


async def external_runtime(ground: Ground, stack: AsyncExitStack) -> RuntimeBackend:
    """Return what runs the launchers of external builders: processes, whatever runs the rest.

    Raises:
        RuntimeNotUsable: processes cannot be started.
    """
    if ground.backend.name == EXTERNAL_RUNTIME or not ground.config.chaincode.external_builders:
        return ground.backend
    return await open_runtime(EXTERNAL_RUNTIME, {}, ground.config, ground.hooks, ground.home, stack)


def packages_of(
    config: PeerConfig,
    home: Path,
    backend: RuntimeBackend,
    on_output: OnOutput | None,
    on_installed: Callable[[str], Awaitable[None]],
) -> BuildRegistry:
    """Return the packages that are installed; reads their directory."""
    chaincode = config.chaincode
    on_line = partial(_log_build, on_output)
    return BuildRegistry(
        store=PackageStore(home),
        directory=home / "lifecycle" / "builds",
        backend=backend,
        external=ExternalBuilders(
            chaincode.external_builders, home / "externalbuilder" / "builds", on_output=on_output
        ),
        images=Images(
            builder=chaincode.builder,
            golang=chaincode.golang_runtime,
            node=chaincode.node_runtime,
            java=chaincode.java_runtime,
            python=chaincode.python_runtime,
            go_dynamic_link=chaincode.golang_dynamic_link,
            version=VERSION,
        ),
        on_line=on_line,
        install_timeout_s=chaincode.install_timeout_s,
        on_installed=on_installed,
    )


def execution_settings(config: PeerConfig, is_debugged: Callable[[], bool]) -> ExecutionSettings:
    """Return the limits of executions, and what READY tells a chaincode."""
    return ExecutionSettings(
        execute_s=config.chaincode.execute_timeout_s,
        install_s=config.chaincode.install_timeout_s,
        keepalive_s=float(config.chaincode.keepalive_s),
        ready_params=ChaincodeAdditionalParams(
            use_write_batch=config.chaincode.use_write_batch,
            max_size_write_batch=config.chaincode.max_size_write_batch,
            use_get_multiple_keys=config.chaincode.use_get_multiple_keys,
            max_size_get_multiple_keys=config.chaincode.max_size_get_multiple_keys,
        ),
        total_query_limit=config.ledger.total_query_limit,
        is_debugged=is_debugged,
    )


def chaincode_tls(authority: CertificateAuthority) -> Callable[[str], ssl.SSLContext]:
    """Return what makes the context of a listener, once for each host."""

    @cache
    def context(host: str) -> ssl.SSLContext:
        server = authority.issue_server(*dict.fromkeys((host, "127.0.0.1", "localhost")))
        return server_context(server.certificate, server.key, authority.certificate)

    return context


def _log_build(also: OnOutput | None, ccid: str, line: str) -> None:
    logging.getLogger("peer.lifecycle.build").info("%s: %s", ccid, line)
    if also is not None:
        also(ccid, line)
