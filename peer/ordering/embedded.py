"""Order for the peer in the same program: its ledger is the orderer's.

Room:      peer.ordering   (imports peer.channel, peer.channels; used by service and assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    none
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from fabric_protos.common import Block, Status
from peer.channel.bundle import Bundle
from peer.channel.embedded import Embedded
from peer.channels import Channels, Joined
from peer.errors import BroadcastRefused, IdentityRefused
from peer.ordering.solo import SoloOrderer
from peer.ordering.submitting import OrdererNode


class CommittingStore:
    """Keeps blocks by committing them; see `solo.BlockStore`. One copy, one wait for the disk.

    A block passes the same verification as one from another machine.
    """

    def __init__(self, joined: Joined) -> None:
        self._joined = joined

    async def last_block(self) -> Block:
        """Return the last block committed."""
        ledger = self._joined.ledger
        block = await ledger.block_by_number(ledger.height - 1)
        assert block is not None, "a joined channel has its genesis block"
        return block

    async def append(self, block: Block) -> None:
        """Commit a block.

        Raises:
            BlockRefused, LedgerError: it cannot be committed.
        """
        await self._joined.committer.commit_block(block)


class EmbeddedOrdering:
    """The orderers of the embedded network, one for each channel.

    Args:
        nursery: of the peer; the orderers work in it until it is cancelled.
    """

    def __init__(self, network: Embedded, channels: Channels, nursery: trio.Nursery) -> None:
        self._network = network
        self._channels = channels
        self._nursery = nursery
        self._orderers: dict[str, SoloOrderer] = {}
        self._creating = trio.Lock()

    def orders(self, channel_id: str) -> bool:
        """Tell whether a channel is one of this network, and joined."""
        return channel_id in self._orderers

    def is_own(self, bundle: Bundle) -> bool:
        """Tell whether a configuration is that of a channel of this network."""
        try:
            bundle.msps.deserialize(self._network.orderer.creator)
        except IdentityRefused:
            return False
        return True

    def orderer(self, channel_id: str) -> SoloOrderer:
        """Return the orderer of a channel.

        Raises:
            BroadcastRefused: it is ordered elsewhere, or nowhere.
        """
        try:
            return self._orderers[channel_id]
        except KeyError:
            reason = f"the embedded ordering service does not order {channel_id}"
            raise BroadcastRefused(Status.SERVICE_UNAVAILABLE, reason) from None

    def orderers(self, channel_id: str) -> Sequence[OrdererNode]:
        """Return the orderer of a channel as the only one.

        Raises:
            BroadcastRefused: it is ordered elsewhere, or nowhere.
        """
        organisation = self._network.network.orderer
        address, broadcast = organisation.nodes[0].address, self.orderer(channel_id).broadcast
        return [OrdererNode(address, organisation.msp_id, broadcast)]

    async def create_channel(self, channel_id: str, capability: str = "") -> None:
        """Make a channel of all organisations, join it and begin to order; once is enough.

        Args:
            capability: of its application section; the network's if empty.

        Raises:
            ConfigError: the name cannot be used, or there is no such capability.
            LedgerStorageError: its ledger cannot be made.

        Cancellation: before it is joined; from then on it is ordered, too.
        """
        async with self._creating:
            if channel_id in self._orderers:
                return
            make = self._network.genesis_block
            block = await trio.to_thread.run_sync(make, channel_id, capability)
            with trio.CancelScope(shield=True):
                await self._channels.join(block)
                await self.start(channel_id)

    async def start(self, channel_id: str) -> bool:
        """Begin to order a joined channel, and tell whether it is one of this network."""
        joined = self._channels.get(channel_id)
        bundle, signer = joined.channel.bundle, self._network.orderer
        if not self.is_own(bundle):
            return False
        orderer = SoloOrderer(bundle, CommittingStore(joined), signer, joined.statuses.refuse)
        await self._nursery.start(orderer.run_apart, joined.statuses.fail)
        self._orderers[channel_id] = orderer
        return True
