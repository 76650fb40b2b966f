"""Channels are joined once, and are there again after every start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockData,
    Capabilities,
    Capability,
    ConfigEnvelope,
    Envelope,
    Header,
    HeaderType,
    Payload,
)
from fabric_protos.stream import ChannelHeader
from peer.channel import network
from peer.channel.bundle import Bundle
from peer.channel.configblock import bundle_of, channel_id_of
from peer.channel.network import NetworkDescription, create
from peer.channels import Channels
from peer.errors import (
    BlockError,
    CapabilityUnknown,
    ChannelConfigRefused,
    ChannelExists,
    ConfigUpdateRefused,
    LedgerCorrupt,
    LedgerError,
    LedgerLocked,
    UnknownChannel,
)
from peer.ledger import open_ledger, pause, resume
from peer.ledger.api import CommittedBlock, ValidationCode
from peer.ledger.blocks import data_hash, envelopes_of, header_of
from peer.ordering.writer import BlockWriter
from tests.unit.channel.networks import Scene
from tests.unit.validation.forging import CHANNEL, GARBAGE, Forged, World, writes
from tests.unit.validation.test_committer import config, envelope, timeout


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two organisations."""
    description = NetworkDescription(organisations=("Org1", "Org2"))
    return Scene(create(tmp_path_factory.mktemp("network") / "net", description))


class Peer:
    """The channels of a peer whose data lie in one directory.

    Attributes:
        heard: channel and block number of each commit.
    """

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.heard: list[tuple[str, int]] = []
        self.channels = Channels(
            directory, lambda name: open_ledger(directory, name), stack, self._on_commit
        )

    def _on_commit(self, channel_id: str, committed: CommittedBlock) -> None:
        self.heard.append((channel_id, header_of(committed.block).number))


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Peer]:
    """Start a peer, and close it in the end."""
    async with AsyncExitStack() as stack:
        peer = Peer(directory, stack)
        await peer.channels.open_all()
        yield peer


def genesis(scene: Scene, channel_id: str = CHANNEL) -> Block:
    return network.new_channel(scene.network, channel_id)


def orderer(scene: Scene, last: Block) -> BlockWriter:
    return BlockWriter(scene.orderer, last)


async def test_a_channel_that_is_joined(tmp_path: Path, scene: Scene) -> None:
    async with opened(tmp_path / "ledgers") as peer:
        assert peer.channels.ids == []
        assert peer.channels.find(CHANNEL) is None
        block = genesis(scene)
        joined = await peer.channels.join(block)
        assert (joined.ledger.height, joined.channel.channel_id) == (1, CHANNEL)
        assert joined.channel.bundle.sequence == 0
        assert peer.channels.ids == [CHANNEL]
        assert peer.channels.get(CHANNEL) is joined
        assert peer.channels.find(CHANNEL) is joined.channel
        stored = await joined.ledger.block_by_number(0)
        assert stored is not None
        assert (stored.header, stored.data) == (block.header, block.data)
        with pytest.raises(UnknownChannel):
            peer.channels.get("other")


async def test_blocks_are_heard_of(tmp_path: Path, scene: Scene) -> None:
    async with opened(tmp_path) as peer:
        for name in (CHANNEL, "second"):
            block = genesis(scene, name)
            joined = await peer.channels.join(block)
            transaction = Forged(signer=scene.user(0), channel_id=name).made()
            await joined.committer.commit_block(orderer(scene, block).next_block([transaction]))
    assert peer.heard == [(CHANNEL, 1), ("second", 1)]


async def test_a_paused_channel_is_left_alone(tmp_path: Path, scene: Scene) -> None:
    block = genesis(scene)
    async with opened(tmp_path) as peer:
        await peer.channels.join(block)
        await peer.channels.join(genesis(scene, "second"))
    await pause(tmp_path, CHANNEL)
    async with opened(tmp_path) as peer:
        assert peer.channels.ids == ["second"]
        assert peer.channels.find(CHANNEL) is None
        assert CHANNEL in peer.channels
        assert "third" not in peer.channels
        with pytest.raises(ChannelExists, match=r"already exists with state \[INACTIVE\]"):
            await peer.channels.join(block)
    await resume(tmp_path, CHANNEL)
    async with opened(tmp_path) as peer:
        assert peer.channels.ids == [CHANNEL, "second"]
        with pytest.raises(ChannelExists, match=r"\[ACTIVE\]"):
            await peer.channels.join(block)


async def test_a_restart_finds_every_channel_as_it_was(tmp_path: Path, scene: Scene) -> None:
    async with opened(tmp_path) as peer:
        first = genesis(scene)
        joined = await peer.channels.join(first)
        world = World(scene, joined.ledger)
        world.writer = orderer(scene, first)
        world.channel, world.committer = joined.channel, joined.committer
        assert await world.commit(world.made(writes())) == [ValidationCode.INVALID_CHAINCODE]
        made = config(world, timeout, [scene.orderer_admin])
        block = world.block(envelope(world, made), is_config=True)
        await joined.committer.commit_block(block)
        world.writer.written(block)
        await world.commit(world.made(writes()))
        await peer.channels.join(genesis(scene, "second"))
    async with opened(tmp_path) as peer:
        assert peer.channels.ids == [CHANNEL, "second"]
        again = peer.channels.get(CHANNEL)
        assert (again.ledger.height, again.channel.bundle.sequence) == (4, 1)
        assert again.channel.bundle.orderer is not None
        assert again.channel.bundle.orderer.batch_timeout_s == 7
        assert peer.channels.get("second").channel.bundle.sequence == 0


async def test_a_channel_is_joined_once(tmp_path: Path, scene: Scene) -> None:
    text = r"ledger \[mychannel\] already exists with state \[ACTIVE\]"
    async with opened(tmp_path) as peer:
        joined = await peer.channels.join(genesis(scene))
        with pytest.raises(ChannelExists, match=text):
            await peer.channels.join(genesis(scene))
        assert peer.channels.get(CHANNEL) is joined
    async with opened(tmp_path) as peer:
        with pytest.raises(ChannelExists, match=text):
            await peer.channels.join(genesis(scene))


async def test_of_two_at_once_one_joins(tmp_path: Path, scene: Scene) -> None:
    outcomes: list[str] = []

    async def join(peer: Peer) -> None:
        try:
            await peer.channels.join(genesis(scene))
            outcomes.append("joined")
        except ChannelExists:
            outcomes.append("exists")

    async with opened(tmp_path) as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, peer)
            nursery.start_soon(join, peer)
        assert peer.channels.ids == [CHANNEL]
    assert sorted(outcomes) == ["exists", "joined"]


async def test_a_peer_killed_while_it_joined_joins_again(
    tmp_path: Path, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_ledger(tmp_path, CHANNEL):
        pass  # the ledger is there, and no block in it
    async with opened(tmp_path) as peer:
        assert "channel mychannel has no block yet, join it again" in caplog.text
        assert peer.channels.ids == []
        joined = await peer.channels.join(genesis(scene))
        assert joined.ledger.height == 1
    async with opened(tmp_path) as peer:
        assert peer.channels.ids == [CHANNEL]


async def test_cancelled_while_joining(tmp_path: Path, scene: Scene) -> None:
    async with opened(tmp_path) as peer:
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.channels.join(genesis(scene))
        assert scope.cancelled_caught
        assert peer.channels.ids == []
        await peer.channels.join(genesis(scene))


async def test_who_waits_for_a_transaction_hears_of_the_end(tmp_path: Path, scene: Scene) -> None:
    async def wait(peer: Peer) -> None:
        with pytest.raises(LedgerError, match=r"^the channel is closed$"):
            await peer.channels.get(CHANNEL).statuses.wait("tx")

    async with trio.open_nursery() as nursery, opened(tmp_path) as peer:
        await peer.channels.join(genesis(scene))
        nursery.start_soon(wait, peer)
        await trio.testing.wait_all_tasks_blocked()


# Blocks that are none to join by


def typed(kind: int, data: bytes = b"", channel_id: str = CHANNEL) -> bytes:
    header = Header(channel_header=ChannelHeader(type=kind, channel_id=channel_id).encode())
    return encode(Envelope(payload=encode(Payload(header=header, data=data))))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "holds no envelope"),
        (GARBAGE, "cannot be read"),
        (encode(Envelope(payload=GARBAGE)), "cannot be read"),
        (encode(Envelope()), "has no header"),
        (typed(HeaderType.ENDORSER_TRANSACTION), "not CONFIG"),
        (typed(HeaderType.CONFIG), "no configuration"),
        (typed(HeaderType.CONFIG, GARBAGE), "cannot be read"),
    ],
    ids=["empty", "garbage", "payload", "header", "transaction", "no config", "config"],
)
async def test_a_block_without_a_configuration(
    tmp_path: Path, scene: Scene, data: bytes | None, text: str
) -> None:
    block = genesis(scene)
    block.data = BlockData(data=[] if data is None else [data])
    header_of(block).data_hash = data_hash(block.data)
    async with opened(tmp_path) as peer:
        with pytest.raises(ConfigUpdateRefused, match=text):
            await peer.channels.join(block)
        assert peer.channels.ids == []
    assert list(tmp_path.iterdir()) == []


async def test_a_block_that_is_not_the_first(tmp_path: Path, scene: Scene) -> None:
    block = genesis(scene)
    header_of(block).number = 5
    async with opened(tmp_path) as peer:
        with pytest.raises(ConfigUpdateRefused, match="by its block 0"):
            await peer.channels.join(block)


async def test_a_block_whose_header_does_not_cover_it(tmp_path: Path, scene: Scene) -> None:
    block = genesis(scene)
    header_of(block).data_hash = bytes(32)
    async with opened(tmp_path) as peer:
        with pytest.raises(BlockError, match="does not cover its data"):
            await peer.channels.join(block)
        assert (await peer.channels.join(genesis(scene))).ledger.height == 1


def changed(scene: Scene, change: str) -> Block:
    """Return a first block with something changed in its configuration."""
    block = genesis(scene)
    [data] = envelopes_of(block)
    made = decode(Envelope, data)
    payload = decode(Payload, made.payload)
    found = decode(ConfigEnvelope, payload.data)
    assert found.config is not None
    assert found.config.channel_group is not None
    groups = found.config.channel_group.groups
    if change == "application":
        del groups["Application"]
    else:
        capabilities = Capabilities(capabilities={change: Capability()})
        groups["Application"].values["Capabilities"].value = encode(capabilities)
    payload.data = encode(found)
    made.payload = encode(payload)
    block.data = BlockData(data=[encode(made)])
    header_of(block).data_hash = data_hash(block.data)
    return block


async def test_a_channel_that_is_none_for_peers(tmp_path: Path, scene: Scene) -> None:
    async with opened(tmp_path) as peer:
        with pytest.raises(ChannelConfigRefused, match="no channel for peers"):
            await peer.channels.join(changed(scene, "application"))


async def test_a_channel_that_asks_for_what_this_peer_cannot_do(
    tmp_path: Path, scene: Scene
) -> None:
    async with opened(tmp_path) as peer:
        with pytest.raises(CapabilityUnknown, match="V9_9"):
            await peer.channels.join(changed(scene, "V9_9"))


# Ledgers that cannot be opened again


async def test_a_ledger_with_the_configuration_of_another_channel(
    tmp_path: Path, scene: Scene
) -> None:
    async with open_ledger(tmp_path, CHANNEL) as ledger:
        await ledger.commit(genesis(scene, "other"), [ValidationCode.VALID])
    with pytest.raises(LedgerCorrupt, match="mychannel"):
        async with opened(tmp_path):
            raise AssertionError("it was opened")


async def test_a_ledger_that_another_peer_has_open(tmp_path: Path, scene: Scene) -> None:
    async with opened(tmp_path) as peer:
        await peer.channels.join(genesis(scene))
        with pytest.raises(LedgerLocked):
            async with opened(tmp_path):
                raise AssertionError("it was opened")


def test_what_a_first_block_tells(scene: Scene) -> None:
    block = genesis(scene, "second")
    assert channel_id_of(block) == "second"
    assert bundle_of("second", block).application is not None
    with pytest.raises(ConfigUpdateRefused):
        bundle_of(CHANNEL, block)


async def test_a_channel_is_joined_by_a_snapshot_and_opened_again(
    tmp_path: Path, scene: Scene
) -> None:
    async with opened(tmp_path / "a") as first, trio.open_nursery() as generating:
        joined = await first.channels.join(genesis(scene))
        generating.start_soon(joined.ledger.snapshots.run)
        await joined.ledger.snapshots.submit(0)
        while joined.ledger.snapshots.pending():
            await trio.lowlevel.checkpoint()
        generating.cancel_scope.cancel()
    place = tmp_path / "a" / CHANNEL / "snapshots" / "completed" / CHANNEL / "0"

    def refuse(bundle: Bundle) -> None:
        raise ChannelConfigRefused("/Channel", f"not {bundle.channel_id}")

    home = tmp_path / "b"
    async with opened(home) as second:
        with pytest.raises(ChannelConfigRefused, match="not mychannel"):
            await second.channels.join_by_snapshot(place, refuse)
        assert not list(home.glob(f"*{CHANNEL}*"))
        born = await second.channels.join_by_snapshot(place, lambda bundle: None)
        assert born.channel.bundle.config == joined.channel.bundle.config
        with pytest.raises(ChannelExists):
            await second.channels.join_by_snapshot(place, lambda bundle: None)
        assert (born.ledger.first_block, born.ledger.height) == (1, 1)
    (home / ".killed.joining").mkdir()
    async with opened(home) as second:
        assert second.channels.ids == [CHANNEL]
        assert second.channels.get(CHANNEL).ledger.first_block == 1
        assert not list(home.glob(".*"))
