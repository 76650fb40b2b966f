"""Order for the peer in the same program: its ledger is the orderer's.

Room:      peer.ordering   (imports peer.channel, peer.channels; used by app)
Loop:      Trio
Lifetime:  peer
Fabric:    none
"""

from __future__ import annotations

import logging
from typing import NoReturn

import trio

from fabric_protos.common import Block, Status
from peer.channel.embedded import Embedded
from peer.channels import Channels, Joined
from peer.errors import BroadcastRefused, ChannelConfigRefused, IdentityRefused
from peer.ordering.solo import SoloOrderer

log = logging.getLogger("peer.ordering")


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

    def orderer(self, channel_id: str) -> SoloOrderer:
        """Return the orderer of a channel.

        Raises:
            BroadcastRefused: it is ordered elsewhere, or nowhere.
        """
        try:
            return self._orderers[channel_id]
        except KeyError:
            raise _unknown(channel_id) from None

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

    async def start(self, channel_id: str) -> None:
        """Begin to order a joined channel, if it is one of this network."""
        joined = self._channels.get(channel_id)
        bundle, signer = joined.channel.bundle, self._network.orderer
        try:
            bundle.msps.deserialize(signer.creator)
        except IdentityRefused:
            return
        orderer = SoloOrderer(bundle, CommittingStore(joined), signer, joined.statuses.refuse)
        await self._nursery.start(_run, orderer, joined)
        self._orderers[channel_id] = orderer

    async def health(self) -> None:
        """Return if every channel is ordered.

        Raises:
            BroadcastRefused: one is not, just now or any more.
        """
        for orderer in self._orderers.values():
            if orderer.trouble:
                reason = f"channel {orderer.channel_id}: {orderer.trouble}"
                raise BroadcastRefused(Status.SERVICE_UNAVAILABLE, reason)


class NoOrdering:
    """Stands where a peer has no ordering service: it takes blocks, and makes none."""

    def orderer(self, channel_id: str) -> NoReturn:
        """
        Raises:
            BroadcastRefused: always.
        """
        raise _unknown(channel_id)

    async def create_channel(self, channel_id: str, capability: str = "") -> NoReturn:
        """
        Raises:
            ChannelConfigRefused: always.
        """
        raise ChannelConfigRefused("/Channel", f"{channel_id} is joined by its genesis block only")

    async def start(self, channel_id: str) -> None:
        """Do nothing: others order."""

    async def health(self) -> None:
        """Return: how they are is theirs to tell."""


async def _run(orderer: SoloOrderer, joined: Joined, *, task_status: trio.TaskStatus[None]) -> None:
    """Order until the peer closes; a channel that breaks must not take the others down."""
    try:
        await orderer.run(task_status=task_status)
    except Exception as exc:
        log.exception("channel %s is not ordered any more", orderer.channel_id)
        reason = f"channel {orderer.channel_id} is not ordered any more: {exc}"
        orderer.fail(f"not ordered any more: {exc}")
        joined.statuses.fail(BroadcastRefused(Status.SERVICE_UNAVAILABLE, reason))


def _unknown(channel_id: str) -> BroadcastRefused:
    return BroadcastRefused(
        Status.SERVICE_UNAVAILABLE, f"this peer knows no ordering service of {channel_id}"
    )
