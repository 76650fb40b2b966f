"""An ordering service by itself: channels, an orderer for each, their blocks in files.

Room:      peer.ordering   (imports peer.channel, peer.events; used by orderer)
Loop:      Trio
Lifetime:  the process of `python -m peer orderer start`
Fabric:    orderer/common/multichannel/registrar.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from fabric_protos.common import Block, Status
from peer.channel.bundle import Bundle
from peer.channel.configblock import bundle_of, channel_id_of
from peer.channel.verification import BLOCK_VALIDATION
from peer.errors import BroadcastRefused, ChannelConfigRefused, PolicyError
from peer.ledger.blocks import last_config_index
from peer.ledger.database import locked
from peer.msp.identity import SigningIdentity
from peer.msp.policies import SignedData
from peer.ordering.chain import Chain, open_chain
from peer.ordering.solo import SoloOrderer

log = logging.getLogger("peer.ordering")

LOCK = "lock"


class OrderedChannel:
    """A channel as this service orders and delivers it; an `events.deliver.Chain`."""

    def __init__(self, orderer: SoloOrderer, blocks: Chain) -> None:
        self.orderer = orderer
        self.blocks = blocks

    @property
    def bundle(self) -> Bundle:
        """Its configuration at this moment."""
        return self.orderer.bundle


class OrderingNode:
    """The channels of one ordering service; made by `open_node`."""

    def __init__(self) -> None:
        self.channels: dict[str, OrderedChannel] = {}

    def orderer(self, channel_id: str) -> SoloOrderer:
        """Return the orderer of a channel.

        Raises:
            BroadcastRefused: it is not ordered here.
        """
        found = self.channels.get(channel_id)
        if found is None:
            raise BroadcastRefused(Status.NOT_FOUND, f"channel {channel_id} is not ordered here")
        return found.orderer


@asynccontextmanager
async def open_node(
    directory: Path, signer: SigningIdentity, genesis: Sequence[Block]
) -> AsyncIterator[OrderingNode]:
    """Order every channel that has blocks in a directory, or is given its first one.

    Args:
        signer: signs blocks; a member of an orderer organisation of every channel.
        genesis: block 0 of channels; of one that is there already it changes nothing.

    Raises:
        ChannelConfigRefused, ConfigUpdateRefused: a channel cannot be ordered by `signer`, or not
            at all.
        LedgerLocked: another orderer uses the directory.
        LedgerStorageError: the blocks cannot be used.

    Cancellation: what is in line is not ordered; a block is written or it is not.
    """
    node = OrderingNode()
    first = {channel_id_of(block): block for block in genesis}
    for channel_id, block in first.items():
        _check_signer(bundle_of(channel_id, block), signer)
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(directory / LOCK))
        found = await trio.to_thread.run_sync(_channel_ids, directory)
        for channel_id in sorted({*found, *first}):
            opening = open_chain(directory / channel_id, first.get(channel_id))
            chain = await stack.enter_async_context(opening)
            last_config = await chain.block(last_config_index(await chain.last_block()))
            bundle = bundle_of(channel_id, last_config)
            _check_signer(bundle, signer)
            node.channels[channel_id] = OrderedChannel(SoloOrderer(bundle, chain, signer), chain)
        async with trio.open_nursery() as orderers:
            for channel_id, channel in node.channels.items():
                await orderers.start(channel.orderer.run_apart)
                log.info("channel %s: orders from block %d on", channel_id, channel.blocks.height)
            yield node
            orderers.cancel_scope.cancel()


def _channel_ids(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if any(path.glob("blockfile_*"))]


def _check_signer(bundle: Bundle, signer: SigningIdentity) -> None:
    """Make sure that peers will take what is signed here."""
    if bundle.orderer is None:
        raise ChannelConfigRefused("/Channel/Orderer", f"{bundle.channel_id} has no such section")
    signed = SignedData(b"", signer.creator, signer.sign(b""))
    try:
        bundle.policy(BLOCK_VALIDATION).evaluate([signed])
    except PolicyError as exc:
        text = f"peers of {bundle.channel_id} would refuse what this member signs: {exc}"
        raise ChannelConfigRefused(BLOCK_VALIDATION, text) from exc
