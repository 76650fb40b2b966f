"""The network of a peer that nobody gave one: an organisation, an orderer, and their keys.

Room:      peer.channel   (imports peer.msp; used by ordering, parts, assembly and cli)
Loop:      none; reads and writes files, so open it in a worker thread
Lifetime:  peer; the keys stay in the peer's data directory
Fabric:    none; people use cryptogen, configtxgen and the test network for this
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fabric_protos.common import Block
from peer.channel import network
from peer.channel.network import Member, Network, NetworkDescription
from peer.errors import ConfigError
from peer.msp.directory import LocalMsp, load_local, load_signing_identity
from peer.msp.identity import SigningIdentity

BATCH_TIMEOUT = "10ms"
"""One user does not wait for the transactions of others, and many still share blocks."""

MSP_SUFFIX = "MSP"


class Embedded(NamedTuple):
    """A development network and everybody in it.

    Attributes:
        local: the peer, and its organisation.
        client: makes the calls of this program.
        admin: installs and defines chaincode.
        orderer: signs blocks.
    """

    network: Network
    local: LocalMsp
    client: SigningIdentity
    admin: SigningIdentity
    orderer: SigningIdentity

    @property
    def peer_node(self) -> Member:
        """The peer, with its TLS certificate."""
        return self.network.organisations[0].nodes[0]

    @property
    def orderer_node(self) -> Member:
        """The orderer, with its TLS certificate."""
        return self.network.orderer.nodes[0]

    def genesis_block(self, channel_id: str, capability: str = "") -> Block:
        """Return a new channel's block 0.

        Args:
            capability: of its application section; the network's if empty.

        Raises:
            ConfigError: the name cannot be used, or there is no such capability.
            NetworkDirectoryError: a file of the network is missing or damaged.
        """
        own = self.network
        if channel_id == own.channel_id and capability in ("", own.description.capability):
            return own.genesis_block()
        return network.new_channel(own, channel_id, capability)


def open_embedded(directory: Path, msp_id: str) -> Embedded:
    """Return the network in a directory, made there if there is none.

    Args:
        msp_id: of its organisation.

    Raises:
        ConfigError: no organisation can have this MSP id, or the one of the directory has another.
        NetworkDirectoryError, MspDirectoryError: it is damaged, or cannot be written.
    """
    if (directory / network.DESCRIPTION).exists():
        found = network.load(directory)
    else:
        found = network.create(directory, _description(msp_id))
    orderer, [organisation, *_] = found.orderer, found.organisations
    if organisation.msp_id != msp_id:
        problem = f"peer.localMspId is {msp_id}, but the organisation of the network in {directory}"
        raise ConfigError([f"{problem} is {organisation.msp_id}"])
    node = organisation.nodes[0]
    admin, client = organisation.users[:2]
    return Embedded(
        network=found,
        local=load_local(node.msp, msp_id),
        client=load_signing_identity(client.msp, msp_id),
        admin=load_signing_identity(admin.msp, msp_id),
        orderer=load_signing_identity(orderer.nodes[0].msp, orderer.msp_id),
    )


def _description(msp_id: str) -> NetworkDescription:
    name = msp_id.removesuffix(MSP_SUFFIX)
    return NetworkDescription(
        organisations=(name,),
        msp_suffix=MSP_SUFFIX if name != msp_id else "",
        batch_timeout=BATCH_TIMEOUT,
    )
