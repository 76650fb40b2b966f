"""An ordering service by itself: which channels it orders, and what is left of it on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from fabric_protos.common import Block, Status
from peer.channel.bundle import Bundle
from peer.channel.network import Network, new_channel
from peer.channel.verification import verify_block
from peer.errors import (
    BroadcastRefused,
    ChannelConfigRefused,
    LedgerCorrupt,
    LedgerLocked,
    LedgerStorageError,
)
from peer.ledger.blocks import header_hash, header_of
from peer.msp.identity import SigningIdentity
from peer.ordering.chain import open_chain
from peer.ordering.node import OrderingNode, open_node
from peer.ordering.writer import BlockWriter
from tests.unit.ordering.conftest import CHANNEL, data_of, envelope_of, update_of

FILE = "blockfile_000000"


class Site:
    """Opens the same ordering service again and again."""

    def __init__(self, directory: Path, signer: SigningIdentity) -> None:
        self.directory = directory
        self.signer = signer

    def open(self, *genesis: Block) -> AbstractAsyncContextManager[OrderingNode]:
        return open_node(self.directory, self.signer, genesis)


@pytest.fixture
def site(tmp_path: Path, orderer_identity: SigningIdentity) -> Site:
    return Site(tmp_path, orderer_identity)


async def test_it_goes_on_after_the_last_block(
    site: Site, made: Network, client: SigningIdentity, bundle: Bundle
) -> None:
    genesis = made.genesis_block()
    for number in (1, 2):
        async with site.open(genesis) as node:
            await node.orderer(CHANNEL).broadcast(envelope_of(client, b"%d" % number))
            await node.channels[CHANNEL].blocks.reached(number + 1)
    async with site.open() as node:  # the channel is known by now
        blocks = node.channels[CHANNEL].blocks
        found = [await blocks.block(number) for number in range(blocks.height)]
    assert found[0] == genesis
    assert [data_of(block) for block in found[1:]] == [[b"1"], [b"2"]]
    for former, block in pairwise(found):
        number = header_of(block).number
        verify_block(bundle, block, number, header_hash(header_of(former)))


async def test_a_changed_configuration_holds_after_a_restart(
    site: Site,
    made: Network,
    bundle: Bundle,
    client: SigningIdentity,
    orderer_admin: SigningIdentity,
) -> None:
    async with site.open(made.genesis_block()) as node:
        channel = node.channels[CHANNEL]
        await channel.orderer.broadcast(update_of(bundle, client, [orderer_admin], count=1))
        await channel.blocks.reached(2)
        await channel.orderer.broadcast(envelope_of(client))
        await channel.blocks.reached(3)
        assert channel.bundle.sequence == 1
    async with site.open() as node:
        orderer = node.channels[CHANNEL].bundle.orderer
        assert orderer is not None
        assert orderer.max_message_count == 1


async def test_several_channels(site: Site, made: Network, client: SigningIdentity) -> None:
    other = new_channel(made, "other")
    async with site.open(made.genesis_block(), other) as node:
        assert sorted(node.channels) == [CHANNEL, "other"]
        await node.orderer("other").broadcast(envelope_of(client, channel_id="other"))
        await node.channels["other"].blocks.reached(2)
        assert node.channels[CHANNEL].blocks.height == 1
        with pytest.raises(BroadcastRefused) as caught:
            node.orderer("third")
        assert caught.value.status == Status.NOT_FOUND


async def test_nobody_orders_whose_blocks_peers_would_refuse(
    tmp_path: Path, made: Network, client: SigningIdentity
) -> None:
    for signer in (client, SigningIdentity.self_signed("OrdererMSP")):
        with pytest.raises(ChannelConfigRefused, match="peers of mychannel would refuse"):
            async with open_node(tmp_path, signer, [made.genesis_block()]):
                pass
    assert not (tmp_path / CHANNEL).exists()


async def test_two_do_not_share_a_directory(site: Site, made: Network) -> None:
    async with site.open(made.genesis_block()):
        with pytest.raises(LedgerLocked):
            async with site.open():
                pass


async def test_what_a_kill_left_half_written_is_cut_off(
    site: Site, made: Network, client: SigningIdentity
) -> None:
    async with site.open(made.genesis_block()) as node:
        await node.orderer(CHANNEL).broadcast(envelope_of(client, b"kept"))
        await node.channels[CHANNEL].blocks.reached(2)
    path = site.directory / CHANNEL / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b"\xff\xff\x01half a block")
    async with site.open() as node:
        assert node.channels[CHANNEL].blocks.height == 2
    assert path.read_bytes() == whole


async def test_a_channel_whose_first_block_was_not_written_begins_again(
    site: Site, made: Network
) -> None:
    (site.directory / CHANNEL).mkdir()
    (site.directory / CHANNEL / FILE).write_bytes(b"\xff\xff\x01half a block")
    with pytest.raises(LedgerCorrupt, match="there is no block in it"):
        async with site.open():
            pass
    async with site.open(made.genesis_block()) as node:
        assert node.channels[CHANNEL].blocks.height == 1


async def chain_with(directory: Path, blocks: Sequence[Block]) -> None:
    async with open_chain(directory, blocks[0]) as chain:
        for block in blocks[1:]:
            await chain.append(block)


@pytest.mark.parametrize("which", ["number", "hash"])
async def test_blocks_that_do_not_follow_one_another_are_found(
    tmp_path: Path,
    made: Network,
    orderer_identity: SigningIdentity,
    client: SigningIdentity,
    which: str,
) -> None:
    genesis = made.genesis_block()
    first = BlockWriter(orderer_identity, genesis).next_block([envelope_of(client)])
    if which == "number":
        wrong = first
    else:
        wrong = BlockWriter(orderer_identity, first).next_block([envelope_of(client)])
        header_of(wrong).previous_hash = bytes(32)
    await chain_with(tmp_path / "chain", [genesis, first, wrong])
    with pytest.raises(LedgerCorrupt, match="does not follow block 1"):
        async with open_chain(tmp_path / "chain"):
            pass


async def test_a_directory_that_cannot_be_made(tmp_path: Path, made: Network) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LedgerStorageError):
        async with open_chain(tmp_path / "file" / "chain", made.genesis_block()):
            pass


async def test_whoever_waits_for_a_block_gets_it(
    tmp_path: Path, made: Network, orderer_identity: SigningIdentity, client: SigningIdentity
) -> None:
    genesis = made.genesis_block()
    writer = BlockWriter(orderer_identity, genesis)
    async with open_chain(tmp_path / "chain", genesis) as chain, trio.open_nursery() as nursery:
        seen: list[Block] = []

        async def wait() -> None:
            await chain.reached(3)
            seen.append(await chain.block(1))

        nursery.start_soon(wait)
        for _ in range(2):
            assert not seen
            block = writer.next_block([envelope_of(client)])
            await chain.append(block)
            writer.written(block)
    assert header_of(seen[0]).number == 1
