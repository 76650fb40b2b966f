"""Who waits for a transaction hears what became of it, whenever it comes."""

from __future__ import annotations

import threading
from hashlib import sha256

import pytest
import trio
import trio.testing

from peer.errors import LedgerError
from peer.events.status import CommitStatus, CommitStatuses
from peer.ledger.api import CommittedBlock
from peer.ledger.api import ValidationCode as Code
from peer.ledger.commit import BlockCommit
from peer.validation.committer import Committer
from tests.unit.validation.forging import Forged, World, writes

Heard = dict[str, CommitStatus]


@pytest.fixture
async def statuses(world: World) -> CommitStatuses:
    made = CommitStatuses(world.ledger)
    world.committer = Committer(world.channel, made.notify)
    return made


def tx_id(transaction: Forged) -> str:
    return sha256(transaction.nonce + transaction.signer.creator).hexdigest()


async def listen(statuses: CommitStatuses, tx_id: str, heard: Heard, name: str = "") -> None:
    heard[name or tx_id] = await statuses.wait(tx_id)


async def test_a_transaction_that_comes_later(
    world: World, statuses: CommitStatuses, nursery: trio.Nursery
) -> None:
    good, bad, other = world.forged(writes("a")), world.forged(writes("b"), 0), world.forged()
    heard: Heard = {}
    for each in (good, bad, other):
        nursery.start_soon(listen, statuses, tx_id(each), heard)
    nursery.start_soon(listen, statuses, tx_id(good), heard, "a second one")
    await trio.testing.wait_all_tasks_blocked()
    assert heard == {}
    await world.commit(bad.made(), good.made())
    await trio.testing.wait_all_tasks_blocked()
    assert heard == {
        tx_id(good): (Code.VALID, 2),
        "a second one": (Code.VALID, 2),
        tx_id(bad): (Code.ENDORSEMENT_POLICY_FAILURE, 2),
    }
    await world.commit(other.made())
    await trio.testing.wait_all_tasks_blocked()
    assert heard[tx_id(other)] == (Code.VALID, 3)


async def test_a_transaction_that_is_there_already(world: World, statuses: CommitStatuses) -> None:
    transaction = world.forged(writes())
    await world.commit(transaction.made())
    assert await statuses.wait(tx_id(transaction)) == (Code.VALID, 2)
    # What comes again under its id changes nothing.
    assert await world.commit(transaction.made()) == [Code.DUPLICATE_TXID]
    assert await statuses.wait(tx_id(transaction)) == (Code.VALID, 2)


async def test_of_two_with_one_id_in_a_block_the_first_counts(
    world: World, statuses: CommitStatuses, nursery: trio.Nursery
) -> None:
    first, second = world.forged(writes("a")), world.forged(writes("b"))
    second.nonce = first.nonce
    heard: Heard = {}
    nursery.start_soon(listen, statuses, tx_id(first), heard)
    await trio.testing.wait_all_tasks_blocked()
    assert await world.commit(first.made(), second.made()) == [Code.VALID, Code.DUPLICATE_TXID]
    await trio.testing.wait_all_tasks_blocked()
    assert heard == {tx_id(first): (Code.VALID, 2)}


async def test_of_two_with_one_id_the_first_counts_even_if_it_is_not_valid(
    world: World, statuses: CommitStatuses, nursery: trio.Nursery
) -> None:
    first, second = world.forged(writes("a"), 0), world.forged(writes("b"))
    second.nonce = first.nonce
    heard: Heard = {}
    nursery.start_soon(listen, statuses, tx_id(first), heard)
    await trio.testing.wait_all_tasks_blocked()
    refused = Code.ENDORSEMENT_POLICY_FAILURE
    assert await world.commit(first.made(), second.made()) == [refused, Code.VALID]
    await trio.testing.wait_all_tasks_blocked()
    assert heard == {tx_id(first): (refused, 2)}
    assert await statuses.wait(tx_id(first)) == (refused, 2)


async def test_a_transaction_whose_block_is_being_written(
    world: World, statuses: CommitStatuses, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = world.forged(writes())
    writing, go_on = trio.Event(), threading.Event()
    write = BlockCommit.write

    def slow(commit: BlockCommit) -> CommittedBlock:
        done = write(commit)
        trio.from_thread.run_sync(writing.set)
        go_on.wait()
        return done

    monkeypatch.setattr(BlockCommit, "write", slow)
    heard: Heard = {}
    try:
        nursery.start_soon(world.commit, transaction.made())
        await writing.wait()
        nursery.start_soon(listen, statuses, tx_id(transaction), heard)
        await trio.testing.wait_all_tasks_blocked()
        assert heard == {}
    finally:
        go_on.set()
    assert await statuses.wait(tx_id(transaction)) == (Code.VALID, 2)
    await trio.testing.wait_all_tasks_blocked()
    assert heard == {tx_id(transaction): (Code.VALID, 2)}


async def test_who_stops_waiting_leaves_nothing_behind(
    world: World, statuses: CommitStatuses
) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(statuses.wait, "tx")
            nursery.start_soon(statuses.wait, "tx")
            await trio.testing.wait_all_tasks_blocked()
            assert len(statuses._waiting["tx"]) == 2
            scope.cancel()
    assert statuses._waiting == {}
    await world.commit(world.made(writes()))


async def test_a_channel_that_closes(statuses: CommitStatuses) -> None:
    async def wait() -> None:
        with pytest.raises(LedgerError, match="the channel is closed"):
            await statuses.wait("tx")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        statuses.close()
    await wait()


async def test_a_transaction_that_no_block_will_bring(
    statuses: CommitStatuses, nursery: trio.Nursery
) -> None:
    told: dict[str, str] = {}

    async def wait(tx_id: str) -> None:
        with pytest.raises(LedgerError) as caught:
            await statuses.wait(tx_id)
        told[tx_id] = str(caught.value)

    for tx_id in ("dropped", "waiting"):
        nursery.start_soon(wait, tx_id)
    await trio.testing.wait_all_tasks_blocked()
    statuses.refuse("dropped", LedgerError("not any more"))
    await trio.testing.wait_all_tasks_blocked()
    assert told == {"dropped": "not any more"}
    statuses.fail(LedgerError("nothing is ordered"))
    await trio.testing.wait_all_tasks_blocked()
    assert told["waiting"] == "nothing is ordered"
    assert statuses._waiting == {}
