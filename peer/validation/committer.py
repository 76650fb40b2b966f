"""Take blocks into a channel, one after the other.

Room:      peer.validation   (imports peer.channel, peer.ledger; used by channels and audit)
Loop:      Trio
Lifetime:  as long as the peer is joined to the channel
Fabric:    gossip/state/state.go `commitBlock`, core/committer/committer_impl.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import trio

from fabric_protos.common import Block
from peer.channel.channel import Channel
from peer.channel.verification import verify_block
from peer.ledger.api import CommittedBlock
from peer.validation.validator import validate


class Committer:
    """The one way for a block into a channel; blocks come in their order, one at a time."""

    def __init__(
        self,
        channel: Channel,
        *listeners: Callable[[CommittedBlock], None],
        follow: Callable[[CommittedBlock], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            listeners: hear of each block once it is committed; they must not wait.
            follow: is awaited with each block before they hear of it, and is not cancelled.
        """
        self._channel = channel
        self._listeners = listeners
        self._follow = follow
        self._one_at_a_time = trio.Lock()

    async def commit_block(
        self, block: Block, private: Mapping[int, bytes] = MappingProxyType({})
    ) -> CommittedBlock:
        """Verify a block, judge its transactions, commit it, and follow a new configuration.

        Args:
            private: index of a transaction to its ``rwset.TxPvtReadWriteSet``, as far as it came
                with the block.

        Raises:
            BlockRefused: it is not the next block, or the ordering service has not signed it.
            ConfigUpdateRefused, ChannelConfigRefused, LedgerError: it cannot be judged, because
                the channel or the state is damaged.
            LedgerStorageError: it cannot be written; height and state are as before.

        Cancellation: before the writing begins nothing is committed; from then on it is finished.
        """
        channel = self._channel
        async with self._one_at_a_time:
            info = channel.ledger.blockchain_info()
            verify_block(channel.bundle, block, info.height, info.current_block_hash)
            verdicts = await validate(channel, block)
            committed = await channel.ledger.commit(
                block, verdicts.codes, private, verdicts.contents
            )
            channel.bundle = verdicts.bundle or channel.bundle
            if self._follow is not None:
                with trio.CancelScope(shield=True):
                    await self._follow(committed)
            for listener in self._listeners:
                listener(committed)
            return committed
