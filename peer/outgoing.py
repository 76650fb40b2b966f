"""How the configured peer reaches orderers on other machines.

Room:      peer.outgoing   (imports config, ordering, rpc; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/deliverservice/config.go (release-2.5)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from peer.config import PeerConfig
from peer.errors import ConfigError
from peer.msp.identity import SigningIdentity
from peer.ordering.endpoints import Override, Routes
from peer.ordering.following import Patience
from peer.ordering.remote import RemoteOrdering
from peer.rpc.client import dial


async def remote_ordering(
    config: PeerConfig, identity: SigningIdentity, nursery: trio.Nursery
) -> RemoteOrdering:
    """Return what follows the channels that others order; it does so in the nursery.

    Raises:
        ConfigError: a file of ``peer.tls`` or of an address override cannot be read.
    """
    delivery = config.delivery
    connect = partial(
        dial,
        connect_timeout_s=delivery.connect_timeout_s,
        limit=config.peer.max_recv_msg_size,
    )
    patience = Patience(longest_pause_s=delivery.longest_pause_s, silence_s=delivery.silence_s)
    routes = await trio.to_thread.run_sync(_routes, config)
    return RemoteOrdering(identity, connect, routes, patience, nursery)


def _routes(config: PeerConfig) -> Routes:
    """The certificate shown to orderers is the client's, if there is one, else the server's."""
    problems: list[str] = []

    def read(key: str, path: str) -> bytes:
        if not (path and config.peer.tls_enabled):
            return b""
        try:
            return Path(path).read_bytes()
        except OSError as exc:
            problems.append(f"{key}: {path}: {exc.strerror or exc}")
            return b""

    if config.client.certificate or config.client.private_key:
        certificate = read("peer.tls.clientCert.file", config.client.certificate)
        key = read("peer.tls.clientKey.file", config.client.private_key)
    else:
        certificate = read("peer.tls.cert.file", config.peer.tls_certificate)
        key = read("peer.tls.key.file", config.peer.tls_key)
    overrides = {
        each.channel_address: Override(
            each.address, read("peer.deliveryclient.addressOverrides", each.roots)
        )
        for each in config.delivery.address_overrides
    }
    if problems:
        raise ConfigError(problems)
    return Routes(
        is_tls=config.peer.tls_enabled, certificate=certificate, key=key, overrides=overrides
    )
