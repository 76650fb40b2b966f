"""The peers of a channel, as far as this one knows them.

Room:      peer.discovery   (imports channel, msp; used by endorsement, service and gateway)
Loop:      none
Lifetime:  peer
Fabric:    gossip/discovery, gossip/service (release-2.5), which find out what is configured here
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fabric_protos.codec import decode
from fabric_protos.common import MspPrincipal, MspPrincipalClassification, MspRole
from fabric_protos.errors import DecodeError
from peer.channel.channel import Channel
from peer.errors import IdentityRefused
from peer.msp.manager import MspManager
from peer.msp.standard import Role

_ROLES_OF_PEERS = (Role.MEMBER, Role.PEER)


@dataclass(frozen=True, slots=True)
class PeerNode:
    """A peer.

    Attributes:
        address: ``host:port`` that clients reach it at.
        identity: ``msp.SerializedIdentity``; empty where it is not known.
    """

    msp_id: str
    address: str
    identity: bytes = field(default=b"", repr=False)

    def satisfies(self, principal: MspPrincipal, msps: MspManager) -> bool:
        """Tell whether it is what a principal describes.

        Where its identity is not known it is taken for a peer of its organisation, no more.
        """
        if self.identity:
            try:
                return msps.refusal(msps.deserialize(self.identity), principal) is None
            except IdentityRefused:
                return False
        if principal.principal_classification != MspPrincipalClassification.ROLE:
            return False
        try:
            role = decode(MspRole, principal.principal)
        except DecodeError:
            return False
        return role.msp_identifier == self.msp_id and role.role in _ROLES_OF_PEERS


class KnownPeers:
    """This peer, and others that it was told of.

    Args:
        channel: finds a joined channel, None where there is none of that name.
        can_run: tells whether this peer can run a chaincode on a channel.
    """

    def __init__(
        self,
        own: PeerNode,
        others: Sequence[PeerNode],
        *,
        channel: Callable[[str], Channel | None],
        can_run: Callable[[str, str], bool],
    ) -> None:
        self.own = own
        self.others = tuple(others)
        self._channel = channel
        self._can_run = can_run

    def of_channel(self, channel_id: str) -> list[PeerNode]:
        """Return the peers of a channel, this one first; none where it is not joined.

        Another one is taken to have joined whatever its organisation is a member of.
        """
        channel = self._channel(channel_id)
        if channel is None:
            return []
        application = channel.bundle.application
        organisations = application.organisations.values() if application else ()
        members = {each.msp_id for each in organisations}
        return [self.own, *(node for node in self.others if node.msp_id in members)]

    def with_chaincode(self, channel_id: str, name: str) -> list[PeerNode]:
        """Return the peers of a channel that can run a chaincode.

        Another one is taken to be able to: asked to, it says so if it is not.

        Raises:
            LedgerError: the state is damaged.
        """
        found = self.of_channel(channel_id)
        if found and not self._can_run(channel_id, name):
            found.remove(self.own)
        return found
