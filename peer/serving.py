"""What is served where: the peer's services on its address, the orderer's on another.

Room:      peer.serving   (imports rpc, services; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    internal/peer/node/start.go `serve`, core/peer/config.go `GetServerConfig` (release-2.5)
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from peer.channel.network import Member
from peer.config import NodeConfig, PeerConfig
from peer.config.values import split_address
from peer.errors import ConfigError
from peer.metrics import GrpcMeters
from peer.rpc.server import Limits, Server
from peer.rpc.tls import server_context
from peer.services.api import Method
from peer.services.introspection import CONCURRENCY, introspected

log = logging.getLogger("peer")

PEER = "peer.listenAddress"
ORDERER = "orderer.listenAddress"


async def open_server(
    stack: AsyncExitStack,
    config: PeerConfig,
    key: str,
    methods: Sequence[Method],
    member: Member | None = None,
    meters: GrpcMeters | None = None,
) -> str:
    """Serve methods until the stack unwinds, with health and reflection; return where.

    Args:
        key: of the setting that has the address; nothing is served where it is empty.
        member: of the embedded network, whose TLS certificate serves where none is configured.
        meters: connections and calls are counted there.

    Raises:
        ConfigError: the address cannot be listened on, or the TLS files cannot be used.
    """
    address = config.peer.listen_address if key == PEER else config.orderer.listen_address
    if not address:
        return ""
    tls = None
    if config.peer.tls_enabled:
        tls = await trio.to_thread.run_sync(_tls, config.peer, member)
    everything = introspected(methods)
    server = Server(everything, tls=tls, limits=_limits(config.peer), meters=meters)
    try:
        bound = await stack.enter_async_context(server.listen(*split_address(address)))
    except OSError as exc:
        raise ConfigError([f"{key} {address}: {exc.strerror or exc}"]) from exc
    services = sorted({method.path.split("/")[1] for method in everything})
    log.info("%s %s: serving %s", key, bound, ", ".join(services))
    return bound


def _limits(peer: NodeConfig) -> Limits:
    return Limits(
        max_recv=peer.max_recv_msg_size,
        max_send=peer.max_send_msg_size,
        held=4 * peer.max_recv_msg_size,
        concurrency={
            **CONCURRENCY,
            "/protos.Endorser": peer.endorser_concurrency,
            "/protos.Deliver": peer.deliver_concurrency,
            "/gateway.Gateway": peer.gateway_concurrency,
        },
        min_ping_s=peer.keepalive_min_interval_s,
        ping_s=peer.keepalive_interval_s,
        ping_timeout_s=peer.keepalive_timeout_s,
    )


def _tls(peer: NodeConfig, member: Member | None) -> ssl.SSLContext:
    """Return the context of the configured files; what is not configured, the member has."""
    certificate, key, roots = peer.tls_certificate, peer.tls_key, peer.tls_client_root_cas
    if member is not None and not (certificate or key):
        certificate, key = str(member.tls / "server.crt"), str(member.tls / "server.key")
    if member is not None and not roots:
        roots = (str(member.tls / "ca.crt"),)
    problems: list[str] = []
    if peer.tls_client_auth_required and not roots:
        problems.append("peer.tls.clientAuthRequired is true, but peer.tls.clientRootCAs.files: []")
    client_ca = b""
    if peer.tls_client_auth_required:
        client_ca = b"\n".join(_read("peer.tls.clientRootCAs.files", p, problems) for p in roots)
    chain = _read("peer.tls.cert.file", certificate, problems)
    private = _read("peer.tls.key.file", key, problems)
    if problems:
        raise ConfigError(problems)
    try:
        return server_context(chain, private, client_ca)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(
            [f"peer.tls: the certificates and the key cannot be used: {exc}"]
        ) from exc


def _read(key: str, path: str, problems: list[str]) -> bytes:
    if not path:
        problems.append(f"peer.tls.enabled is true, but {key} is not set")
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        problems.append(f"{key}: {path}: {exc.strerror or exc}")
        return b""
