"""Blocks without contents."""

from __future__ import annotations

import pytest

from fabric_protos.codec import encode
from fabric_protos.common import Block, HeaderType
from fabric_protos.protos import (
    ChaincodeActionPayload,
    ChaincodeEvent,
    ProposalResponsePayload,
    Transaction,
)
from peer.events.filtered import filtered_block, transactions
from peer.ledger.api import ValidationCode as Code
from peer.ledger.blocks import committed
from tests.unit.validation.forging import CC, CHANNEL, GARBAGE, Forged, World, writes


def event(name: str = "e", chaincode: str = CC) -> bytes:
    return encode(
        ChaincodeEvent(chaincode_id=chaincode, tx_id="t", event_name=name, payload=b"secret")
    )


def judged(world: World, *transactions: tuple[bytes, Code]) -> Block:
    """Return a block as if it had been committed with these verdicts."""
    block = world.block(*(data for data, _ in transactions))
    return committed(block, bytes(code for _, code in transactions), b"")


async def test_who_did_what_and_what_became_of_it(world: World) -> None:
    good, bad = world.forged(writes("a")), world.forged(writes("b"), 0)
    good.event = bad.event = event()
    silent = world.forged(writes("c"))
    await world.commit(good.made(), bad.made(), silent.made())
    [heard] = world.heard
    filtered = filtered_block(CHANNEL, heard.block)
    assert (filtered.channel_id, filtered.number) == (CHANNEL, 2)
    assert [each.txid for each in filtered.filtered_transactions] == list(heard.tx_ids)
    assert [int(each.tx_validation_code) for each in filtered.filtered_transactions] == [
        Code.VALID,
        Code.ENDORSEMENT_POLICY_FAILURE,
        Code.VALID,
    ]
    told = []
    for each in filtered.filtered_transactions:
        assert each.type == HeaderType.ENDORSER_TRANSACTION
        assert each.transaction_actions is not None
        told.append(
            [action.chaincode_event for action in each.transaction_actions.chaincode_actions]
        )
    without = ChaincodeEvent(chaincode_id=CC, tx_id="t", event_name="e")
    assert told == [[without], [without], []]
    assert b"secret" not in encode(filtered)


async def test_what_was_read_to_judge_it_is_not_read_again(world: World) -> None:
    stale = writes("c")
    stale.add_read(CC, "a", None)
    told, refused = world.forged(writes("a")), world.forged(writes("b"), 0)
    late, silent = world.forged(stale), world.forged(writes("d"))
    told.event = refused.event = late.event = event()
    codes = await world.commit(*(each.made() for each in (told, refused, late, silent)))
    assert codes == [
        Code.VALID,
        Code.ENDORSEMENT_POLICY_FAILURE,
        Code.MVCC_READ_CONFLICT,
        Code.VALID,
    ]
    newest = world.ledger.newest
    assert newest is world.heard[0]
    assert newest.events == {0: told.event, 2: late.event, 3: b""}
    block = newest.block
    filtered = filtered_block(CHANNEL, block)
    assert filtered_block(CHANNEL, block, newest) == filtered
    assert block.data is not None
    for known in newest.events:
        block.data.data[known] = GARBAGE
    assert filtered_block(CHANNEL, block, newest) == filtered
    other = judged(world, (world.made(), Code.VALID))
    assert filtered_block(CHANNEL, other, newest) == filtered_block(CHANNEL, other)


async def test_an_event_of_no_chaincode_is_left_out(world: World) -> None:
    transaction = world.forged()
    transaction.event = event(chaincode="")
    block = judged(world, (transaction.made(), Code.INVALID_OTHER_REASON))
    [filtered] = filtered_block(CHANNEL, block).filtered_transactions
    assert filtered.transaction_actions is not None
    assert filtered.transaction_actions.chaincode_actions == []


async def test_a_configuration_has_no_actions_and_its_id_is_as_it_says(world: World) -> None:
    genesis = await world.ledger.block_by_number(0)
    assert genesis is not None
    [filtered] = filtered_block(CHANNEL, genesis).filtered_transactions
    assert filtered.type == HeaderType.CONFIG
    assert filtered.transaction_actions is None
    update = Forged(signer=world.scene.orderer, type=HeaderType.CONFIG, tx_id="", data=b"")
    [silent] = filtered_block(
        CHANNEL, judged(world, (update.made(), Code.VALID))
    ).filtered_transactions
    assert silent.txid == ""


@pytest.mark.parametrize("data", [GARBAGE, b""])
async def test_what_cannot_be_read_is_listed(world: World, data: bytes) -> None:
    block = judged(world, (data, Code.INVALID_OTHER_REASON), (world.made(), Code.VALID))
    unreadable, readable = filtered_block(CHANNEL, block).filtered_transactions
    assert (unreadable.txid, unreadable.transaction_actions) == ("", None)
    assert int(unreadable.tx_validation_code) == Code.INVALID_OTHER_REASON
    assert readable.txid != ""


async def test_a_type_that_nobody_knows_is_passed_on(world: World) -> None:
    transaction = world.forged()
    transaction.type = 4711
    block = judged(world, (transaction.made(), Code.BAD_COMMON_HEADER))
    [filtered] = filtered_block(CHANNEL, block).filtered_transactions
    assert int(filtered.type) == 4711


@pytest.mark.parametrize("level", ["data", "action_payload", "response_payload", "action", "event"])
async def test_events_as_far_as_they_can_be_read(world: World, level: str) -> None:
    transaction = world.forged()
    transaction.event = event()
    setattr(transaction, level, GARBAGE)
    [found] = transactions(judged(world, (transaction.made(), Code.VALID)))
    assert found.events == []
    assert found.tx_id != ""


async def test_an_action_without_content_has_no_event(world: World) -> None:
    empty = world.forged()
    empty.action_payload = encode(ChaincodeActionPayload())
    silent = world.forged()
    silent.response_payload = encode(ProposalResponsePayload())
    full = world.forged()
    full.event = event("first")
    full.data = encode(Transaction(actions=[empty.transaction_action(), full.transaction_action()]))
    block = judged(world, *((each.made(), Code.VALID) for each in (empty, silent, full)))
    names = [[each.event_name for each in found.events] for found in transactions(block)]
    assert names == [[], [], ["first"]]
