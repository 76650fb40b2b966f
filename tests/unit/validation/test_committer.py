"""Blocks into a channel: in their order, verified, judged, and with their configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockMetadata,
    ConfigEnvelope,
    ConfigGroup,
    ConfigUpdate,
    Envelope,
    HeaderType,
)
from fabric_protos.orderer import BatchTimeout
from fabric_protos.protos import ProposalResponse
from fabric_protos.protos import Response as ResponseMessage
from fabric_protos.stream import ChaincodeInput, Response
from peer.channel.configtx import next_config
from peer.channel.tree import propose_update
from peer.endorser import preprocess
from peer.endorser.endorsement import endorse, response_payload
from peer.endorser.proposal import prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.errors import BlockRefused, ChannelConfigRefused, ConfigUpdateRefused
from peer.ledger.api import TransactionKind
from peer.ledger.api import ValidationCode as Code
from peer.ledger.blocks import header_of
from peer.msp.identity import SigningIdentity
from peer.ordering.writer import BlockWriter
from peer.validation.committer import Committer
from tests.unit.channel.networks import signed_update
from tests.unit.validation.forging import (
    CC,
    CHANNEL,
    VERSION,
    Forged,
    World,
    results_of,
    writes,
)

VALID = Code.VALID


async def test_a_transaction_of_this_programs_own_making(world: World) -> None:
    """From the proposal to the state, with the parts that clients and endorsers use."""
    client = world.scene.user(0)
    called = ChaincodeInput(args=[b"put"])
    prepared = prepare_proposal(client, CHANNEL, CC, called, {"secret": b"s"})
    simulator = world.ledger.new_tx_simulator(prepared.tx_id)
    simulator.get_state(CC, "k")
    simulator.set_state(CC, "k", b"v")
    payload = response_payload(
        preprocess.unpack(prepared.signed).proposal_hash,
        results=results_of(simulator),
        event=None,
        response=Response(status=200),
        name=CC,
        version=VERSION,
    )
    simulator.done()
    responses = [
        ProposalResponse(
            response=ResponseMessage(status=200),
            payload=payload,
            endorsement=endorse(payload, world.scene.peer(index)),
        )
        for index in (0, 1)
    ]
    assert await world.commit(signed_transaction(prepared.signed, responses, client)) == [VALID]
    assert world.state() == b"v"
    assert world.ledger.has_transaction(prepared.tx_id)


async def test_listeners_hear_of_each_block_once_it_is_committed(world: World) -> None:
    heights: list[int] = []
    world.committer = Committer(
        world.channel, lambda committed: heights.append(world.ledger.height)
    )
    await world.commit(world.made(writes()))
    await world.commit(world.made(writes(), 0))
    assert heights == [3, 4]


async def test_private_data_that_comes_with_a_block(world: World) -> None:
    simulator = world.ledger.new_tx_simulator("")
    simulator.set_private_data(CC, "_implicit_org_Org1MSP", "k", b"secret")
    results = simulator.get_tx_simulation_results()
    simulator.done()
    block = world.block(world.made(results.public, 0))
    committed = await world.committer.commit_block(block, {0: results.private})
    assert committed.codes == [VALID]
    reader = world.ledger.new_query_executor()
    assert reader.get_private_data(CC, "_implicit_org_Org1MSP", "k") == b"secret"
    reader.done()


# Blocks that are not taken


def unsigned(world: World) -> Block:
    block = world.block(world.made(writes()))
    block.metadata = BlockMetadata()
    return block


def signed_by_a_peer(world: World) -> Block:
    writer = BlockWriter(world.scene.peer(0), last_header(world))
    return writer.next_block([world.made(writes())])


def last_header(world: World) -> Block:
    """Return a block with the header of the last one."""
    header = dataclasses.replace(world.writer._header)
    return Block(header=header, metadata=world.scene.network.genesis_block().metadata)


def of_a_later_number(world: World) -> Block:
    header = header_of(last_header(world))
    header.number += 1
    return BlockWriter(world.scene.orderer, Block(header=header)).next_block([world.made(writes())])


def after_another_block(world: World) -> Block:
    header = header_of(last_header(world))
    header.data_hash = bytes(32)
    return BlockWriter(world.scene.orderer, Block(header=header)).next_block([world.made(writes())])


def with_other_data(world: World) -> Block:
    block = world.block(world.made(writes()))
    assert block.data is not None
    block.data.data = [world.made(writes())]
    return block


def empty(world: World) -> Block:
    return world.block()


def of_another_channel(world: World) -> Block:
    transaction = world.forged(writes())
    transaction.channel_id = "otherchannel"
    return world.block(transaction.made())


def with_an_unsigned_envelope(world: World) -> Block:
    envelope = Envelope(payload=world.forged(writes()).payload())
    return world.block(world.made(writes()), encode(envelope))


def with_trailing_bytes(world: World) -> Block:
    return world.block(world.made(writes()), world.made(writes()) + b"\x00")


def encoded_otherwise(world: World) -> Block:
    envelope = decode(Envelope, world.made(writes()))
    reordered = encode(Envelope(signature=envelope.signature)) + encode(
        Envelope(payload=envelope.payload)
    )
    return world.block(world.made(writes()), reordered)


@pytest.mark.parametrize(
    "make",
    [
        unsigned,
        signed_by_a_peer,
        of_a_later_number,
        after_another_block,
        with_other_data,
        empty,
        of_another_channel,
        with_an_unsigned_envelope,
        with_trailing_bytes,
        encoded_otherwise,
    ],
    ids=lambda make: make.__name__.replace("_", " "),
)
async def test_a_block_that_is_not_taken(world: World, make: Callable[[World], Block]) -> None:
    with pytest.raises(BlockRefused):
        await world.committer.commit_block(make(world))
    assert (world.ledger.height, world.heard) == (2, [])
    # The channel goes on with the block that should have come.
    assert await world.commit(world.made(writes())) == [VALID]


async def test_a_block_a_second_time(world: World) -> None:
    block = world.block(world.made(writes()))
    await world.committer.commit_block(block)
    with pytest.raises(BlockRefused, match="block 2 came in its place"):
        await world.committer.commit_block(block)


async def test_two_blocks_at_once_are_taken_one_after_the_other(world: World) -> None:
    first = world.block(world.made(writes()))
    world.writer.written(first)
    second = world.block(world.made(writes(value=b"w")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.committer.commit_block, first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(world.committer.commit_block, second)
    assert world.state() == b"w"


async def test_cancelled_while_judging_nothing_is_committed(world: World) -> None:
    block = world.block(world.made(writes()))
    with trio.CancelScope() as scope:
        scope.cancel()
        await world.committer.commit_block(block)
    assert scope.cancelled_caught
    assert world.ledger.height == 2
    assert (await world.committer.commit_block(block)).codes == [VALID]


async def test_bad_transactions_do_not_stand_in_the_way_of_good_ones(world: World) -> None:
    no_action = world.forged(writes())
    no_action.data = b""
    garbage = world.forged(b"\xff\xff\xff")
    codes = await world.commit(no_action.made(), garbage.made(), world.made(writes()))
    assert codes == [Code.INVALID_ENDORSER_TRANSACTION, Code.BAD_RWSET, VALID]
    assert world.state() == b"v"
    [committed] = world.heard
    assert committed.namespaces == {CC}
    endorsed = TransactionKind(HeaderType.ENDORSER_TRANSACTION, f"{CC}:{VERSION}")
    assert committed.kinds == [TransactionKind(), TransactionKind(), endorsed]
    assert all(0 < seconds < 60 for seconds in committed.times)


# Configurations


def timeout(root: ConfigGroup) -> None:
    root.groups["Orderer"].values["BatchTimeout"].value = encode(BatchTimeout(timeout="7s"))


def without_org2(root: ConfigGroup) -> None:
    del root.groups["Application"].groups["Org2"]


def update(world: World, change: Callable[[ConfigGroup], None]) -> ConfigUpdate:
    old, new = world.channel.bundle.config, world.scene.config()
    assert new.channel_group is not None
    change(new.channel_group)
    return propose_update(CHANNEL, old, new)


def config(
    world: World, change: Callable[[ConfigGroup], None], signers: Sequence[SigningIdentity]
) -> ConfigEnvelope:
    return next_config(world.channel.bundle, signed_update(update(world, change), signers))


def envelope(world: World, made: ConfigEnvelope) -> bytes:
    """Return a configuration as the orderer puts it into a block."""
    return Forged(signer=world.scene.orderer, type=HeaderType.CONFIG, data=encode(made)).made()


async def test_a_configuration_takes_effect_after_its_block(world: World) -> None:
    before = world.channel.bundle
    made = config(world, timeout, [world.scene.orderer_admin])
    block = world.block(envelope(world, made), is_config=True)
    committed = await world.committer.commit_block(block)
    assert committed.codes == [VALID]
    assert world.channel.bundle is not before
    assert world.channel.bundle.sequence == 1
    assert world.channel.bundle.orderer is not None
    assert world.channel.bundle.orderer.batch_timeout_s == 7
    last = await world.ledger.last_config_block()
    assert last is not None
    assert header_of(last).number == 2
    world.writer.written(block)
    assert await world.commit(world.made(writes())) == [VALID]


async def test_after_a_member_left_its_clients_are_strangers(world: World) -> None:
    stranger = world.forged(writes())
    stranger.signer = world.scene.user(1)
    assert await world.judge(stranger.made()) == [VALID]
    made = config(world, without_org2, [world.scene.admin(0), world.scene.admin(1)])
    assert await world.commit(envelope(world, made)) == [VALID]
    assert await world.judge(stranger.made()) == [Code.BAD_CREATOR_SIGNATURE]
    # Nor do its peers endorse any more.
    assert await world.judge(world.made(writes())) == [Code.ENDORSEMENT_POLICY_FAILURE]


async def test_a_configuration_signed_by_a_stranger_is_no_valid_transaction(world: World) -> None:
    made = config(world, timeout, [world.scene.orderer_admin])
    forged = Forged(
        signer=SigningIdentity.self_signed("OrdererMSP"),
        type=HeaderType.CONFIG,
        data=encode(made),
    )
    before = world.channel.bundle
    assert await world.commit(forged.made()) == [Code.BAD_CREATOR_SIGNATURE]
    assert world.channel.bundle is before
    last = await world.ledger.last_config_block()
    assert last is not None
    assert header_of(last).number == 0


def unauthorised(world: World) -> list[bytes]:
    made = config(world, timeout, [world.scene.orderer_admin])
    made.last_update = signed_update(update(world, timeout), [world.scene.admin(0)])
    return [envelope(world, made)]


def of_another_sequence(world: World) -> list[bytes]:
    made = config(world, timeout, [world.scene.orderer_admin])
    assert made.config is not None
    made.config.sequence = 7
    return [envelope(world, made)]


def beside_a_transaction(world: World) -> list[bytes]:
    made = config(world, timeout, [world.scene.orderer_admin])
    return [world.made(writes()), envelope(world, made)]


def garbage(world: World) -> list[bytes]:
    forged = Forged(signer=world.scene.orderer, type=HeaderType.CONFIG, data=b"\xff\xff\xff")
    return [forged.made()]


@pytest.mark.parametrize(
    "make",
    [unauthorised, of_another_sequence, beside_a_transaction, garbage],
    ids=lambda make: make.__name__.replace("_", " "),
)
async def test_a_configuration_that_does_not_follow_stops_the_channel(
    world: World, make: Callable[[World], list[bytes]]
) -> None:
    before = world.channel.bundle
    with pytest.raises(ConfigUpdateRefused):
        await world.commit(*make(world))
    assert world.channel.bundle is before
    assert world.ledger.height == 2


async def test_a_configuration_that_breaks_a_rule_stops_the_channel(world: World) -> None:
    """One that every signature allows, and that nobody can work with."""

    def unusable(root: ConfigGroup) -> None:
        root.groups["Orderer"].values["BatchTimeout"].value = encode(BatchTimeout(timeout="x"))

    made = config(world, unusable, [world.scene.orderer_admin])
    with pytest.raises(ChannelConfigRefused):
        await world.commit(envelope(world, made))
    assert world.ledger.height == 2
