"""Which channel is ordered where: those of the embedded network here, all others by others.

Room:      peer.ordering   (imports peer.channels; used by library and assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/peer/peer.go `Peer.createChannel` (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import trio

from fabric_protos.common import Block, Status
from peer.channel.bundle import Bundle
from peer.channel.channel import Channel
from peer.channels import Channels, Joined
from peer.errors import BroadcastRefused, ChannelConfigRefused
from peer.ordering.embedded import EmbeddedOrdering
from peer.ordering.remote import RemoteOrdering
from peer.ordering.submitting import OrdererNode, submit

HERE = "embedded"


class Orderer(Protocol):
    """Where transactions of a channel go."""

    async def broadcast(self, data: bytes) -> None:
        """
        Raises:
            BroadcastRefused: the envelope is not taken.
            CallFailed: nobody is there who could take it.
        """
        ...


class OrderingState(NamedTuple):
    """Where the blocks of a channel come from at this moment.

    Attributes:
        source: address of an orderer, ``embedded``, or empty while there is none.
        trouble: why there is none, or nothing can be ordered; empty if all is well.
    """

    source: str
    trouble: str


class Ordering:
    """The ordering services of all channels of a peer.

    Args:
        embedded: that of the peer's own network; None where it has none.
    """

    def __init__(
        self, channels: Channels, remote: RemoteOrdering, embedded: EmbeddedOrdering | None
    ) -> None:
        self._channels = channels
        self._remote = remote
        self._embedded = embedded
        self._not_started: dict[str, str] = {}

    async def join(self, block: Block) -> Joined:
        """Join a channel by its genesis block, and follow its ordering service.

        Raises:
            ChannelExists, ChannelConfigRefused, ConfigUpdateRefused, BlockError,
            LedgerStorageError: as of `Channels.join`.

        Cancellation: the channel is joined or it is not.
        """
        joined = await self._channels.join(block)
        with trio.CancelScope(shield=True):
            await self.start(joined.channel.channel_id)
        return joined

    async def join_by_snapshot(self, snapshot: Path) -> Joined:
        """Join a channel by a snapshot of its ledger, and follow its ordering service.

        Raises:
            SnapshotRefused, ChannelExists, ChannelConfigRefused, ConfigUpdateRefused,
            LedgerStorageError: as of `Channels.join_by_snapshot`.

        Cancellation: the channel is joined or it is not.
        """
        joined = await self._channels.join_by_snapshot(snapshot, self._check_elsewhere)
        with trio.CancelScope(shield=True):
            await self.start(joined.channel.channel_id)
        return joined

    def _check_elsewhere(self, bundle: Bundle) -> None:
        if self._embedded is not None and self._embedded.is_own(bundle):
            reason = "this peer's own orderer continues after a block, which no snapshot has"
            raise ChannelConfigRefused("/Channel/Orderer", reason)

    async def start(self, channel_id: str) -> None:
        """Begin to order a joined channel, or to follow those who do.

        If this raises, `state` tells what.
        """
        try:
            if self._embedded is None or not await self._embedded.start(channel_id):
                self._remote.start(self._channels.get(channel_id))
        except Exception as exc:
            self._not_started[channel_id] = f"its ordering was not started: {exc}"
            raise

    async def create_channel(self, channel_id: str, capability: str = "") -> None:
        """Make a channel of the peer's own network; see `EmbeddedOrdering.create_channel`.

        Raises:
            ChannelConfigRefused: it has none.
        """
        if self._embedded is None:
            raise ChannelConfigRefused("/Channel", f"{channel_id} is joined by its block 0 only")
        await self._embedded.create_channel(channel_id, capability)

    def orderers(self, channel_id: str) -> Sequence[OrdererNode]:
        """Return the orderers of a channel; there may be none.

        Raises:
            UnknownChannel: it is not joined.
        """
        joined = self._channels.get(channel_id)
        if self._embedded is not None and self._embedded.orders(channel_id):
            return self._embedded.orderers(channel_id)
        return self._remote.orderers(joined.channel.bundle)

    def orderer(self, channel_id: str) -> Orderer:
        """Return where transactions of a channel go.

        Raises:
            BroadcastRefused: nobody is known who orders it.
        """
        if self._embedded is not None and self._embedded.orders(channel_id):
            return self._embedded.orderer(channel_id)
        channel = self._channels.find(channel_id)
        nodes = self._remote.orderers(channel.bundle) if channel is not None else ()
        if channel is None or not nodes:
            reason = f"this peer knows no ordering service of {channel_id}"
            raise BroadcastRefused(Status.SERVICE_UNAVAILABLE, reason)
        return _Elsewhere(channel, nodes)

    def state(self, channel_id: str) -> OrderingState:
        """Tell where the blocks of a channel come from.

        Raises:
            UnknownChannel: it is not joined.
        """
        self._channels.get(channel_id)
        if self._embedded is not None and self._embedded.orders(channel_id):
            return OrderingState(HERE, self._embedded.orderer(channel_id).trouble)
        follower = self._remote.follower(channel_id)
        if follower is None:
            joined = "it has only just been joined"
            return OrderingState("", self._not_started.get(channel_id, joined))
        return OrderingState(follower.source, follower.trouble)

    async def health(self) -> None:
        """Return if every channel is ordered here, or followed.

        Raises:
            BroadcastRefused: one is not, just now or any more.
        """
        for channel_id in self._channels.ids:
            if trouble := self.state(channel_id).trouble:
                reason = f"channel {channel_id}: {trouble}"
                raise BroadcastRefused(Status.SERVICE_UNAVAILABLE, reason)


class _Elsewhere:
    """The ordering service of a channel that others order."""

    def __init__(self, channel: Channel, nodes: Sequence[OrdererNode]) -> None:
        self._channel = channel
        self._nodes = nodes

    async def broadcast(self, data: bytes) -> None:
        await submit(self._channel.bundle, self._nodes, data)
