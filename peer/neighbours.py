"""The Gateway and Discovery, put together: this peer, and those that the configuration names.

Room:      peer.neighbours   (imports gateway, discovery; used by assembly)
Loop:      Trio
Lifetime:  peer; connections to others are made when they are needed
Fabric:    internal/peer/node/start.go `serve` (release-2.5)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

from fabric_protos.protos import ProposalResponse
from fabric_protos.stream import SignedProposal
from peer.channel.acls import LocalPolicy
from peer.channels import Channels
from peer.client.remote import RemoteEndorser
from peer.config import PeerConfig, peer_address
from peer.config.neighbours import GatewayEndorser
from peer.discovery.announcements import Announcer
from peer.discovery.endorsement import Endorsements
from peer.discovery.peers import KnownPeers, PeerNode
from peer.discovery.service import Discovery
from peer.endorser.endorser import Endorser
from peer.errors import ConfigError
from peer.gateway.endorsing import Process
from peer.gateway.gateway import Gateway, Limits
from peer.lifecycle import state
from peer.lifecycle.definitions import Definitions
from peer.msp.identity import SigningIdentity
from peer.ordering.connections import Connections
from peer.ordering.submitting import OrdererNode
from peer.remote import ClientTls, Endpoint
from peer.scc.access import AccessControl
from peer.services.api import Method


class Neighbours:
    """What clients are told of the network around this peer, and what it does there for them.

    Args:
        identity: this peer's.
        is_system: tells whether a chaincode is one of the peer's own.
        orderers: returns those of a channel.
        connections: to other peers.

    Raises:
        ConfigError: a peer of ``peer.gateway.endorsers`` cannot be used.
    """

    def __init__(
        self,
        config: PeerConfig,
        identity: SigningIdentity,
        *,
        endorser: Endorser,
        channels: Channels,
        definitions: Definitions,
        is_system: Callable[[str], bool],
        orderers: Callable[[str], Sequence[OrdererNode]],
        access: AccessControl,
        connections: Connections,
    ) -> None:
        self._config = config
        self._identity = identity
        self._endorser = endorser
        self._channels = channels
        self._definitions = definitions
        self._is_system = is_system
        self._orderers = orderers
        self._access = access
        self._connections = connections
        self._own = PeerNode(identity.msp_id, peer_address(config), identity.creator)

    async def methods(self) -> Sequence[Method]:
        """Return what is served of the two, as far as the configuration asks for it.

        Raises:
            ConfigError: a file of ``peer.gateway.endorsers`` cannot be read.
        """
        methods: list[Method] = []
        if self._config.gateway.enabled:
            methods += (await self._gateway()).methods()
        if self._config.discovery.enabled:
            methods += self._discovery().methods()
        return methods

    async def _gateway(self) -> Gateway:
        processes: dict[PeerNode, Process] = {self._own: self._endorser.process_proposal}
        processes |= await trio.to_thread.run_sync(self._others)
        peers = self._peers([node for node in processes if node != self._own])
        limits = self._config.gateway
        return Gateway(
            peers=peers,
            processes=processes,
            endorsements=Endorsements(peers, self._channels.find),
            orderers=self._orderers,
            channels=self._channels,
            access=self._access,
            limits=Limits(
                endorsement_s=limits.endorsement_timeout_s, broadcast_s=limits.broadcast_timeout_s
            ),
        )

    def _discovery(self) -> Discovery:
        discovery = self._config.discovery
        return Discovery(
            own=self._own,
            announcer=Announcer(self._identity, self._own.address),
            channel=self._channels.find,
            chaincodes=self._chaincodes,
            endorsements=Endorsements(self._peers(()), self._channels.find),
            access=self._access,
            local=LocalPolicy.MEMBERS if discovery.members_allowed else LocalPolicy.ADMINS,
        )

    def _peers(self, others: Sequence[PeerNode]) -> KnownPeers:
        return KnownPeers(self._own, others, channel=self._channels.find, can_run=self._can_run)

    def _can_run(self, channel_id: str, name: str) -> bool:
        return self._is_system(name) or bool(self._definitions.announced(channel_id, name))

    async def _chaincodes(self, channel_id: str) -> Mapping[str, str]:
        """Return what can run here on a channel; the new lifecycle itself is told of as well."""
        channel = self._channels.get(channel_id).channel
        names = await self._definitions.names(channel_id)
        found = {name: self._definitions.announced(channel_id, name) for name in names}
        if channel.has_new_lifecycle:
            found[state.LIFECYCLE] = "1"
        return {name: version for name, version in found.items() if version}

    def _others(self) -> dict[PeerNode, Process]:
        processes: dict[PeerNode, Process] = {}
        for each in self._config.gateway.endorsers:
            endpoint = Endpoint(each.address, self._tls(each))
            process = partial(_process, self._connections, endpoint)
            processes[PeerNode(each.msp_id, each.address)] = process
        return processes

    def _tls(self, endorser: GatewayEndorser) -> ClientTls | None:
        """Return how a peer is made sure of, and how it is made sure of this one."""
        if endorser.tls_root is None:
            return None
        peer = self._config.peer
        own = bool(peer.tls_certificate and peer.tls_key)
        return ClientTls(
            root=_read(str(endorser.tls_root)),
            certificate=_read(peer.tls_certificate) if own else b"",
            key=_read(peer.tls_key) if own else b"",
        )


async def _process(
    connections: Connections, endpoint: Endpoint, proposal: SignedProposal
) -> ProposalResponse:
    """Give a proposal to a peer of another machine; see `Process`."""
    return await RemoteEndorser(await connections.to(endpoint)).endorse(proposal)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise ConfigError([f"peer.gateway.endorsers: {path}: {exc.strerror or exc}"]) from exc
