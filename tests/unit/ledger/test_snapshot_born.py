"""Ledgers that began with a snapshot: what they know of before, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from fabric_protos.codec import encode
from fabric_protos.protos import CollectionConfig, CollectionConfigPackage, StaticCollectionConfig
from peer.errors import BeforeSnapshot, LedgerCorrupt, LedgerError
from peer.ledger import open_ledger, public_state, rebuild_databases, reset, rollback, unjoin
from peer.ledger.api import CollectionPolicy, Ledger, ValidationCode, Version
from peer.ledger.blocks import commit_hash_of, flags_of, header_hash
from tests.unit.ledger.snapshotting import configured, running, snapshot, take_in

Wrap = Callable[[Ledger], Any]
LIFETIME = 3


def policy(namespace: str, collection: str) -> CollectionPolicy:
    return CollectionPolicy(block_to_live=LIFETIME if collection == "short" else 0)


def defined(written: Iterable[tuple[str, str]], reader: object) -> dict[str, bytes]:
    """Stand for a lifecycle: a write of "define" defines the collections."""
    if ("cc", "define") not in set(written):
        return {}
    statics = [
        StaticCollectionConfig(name="short", block_to_live=LIFETIME),
        StaticCollectionConfig(name="long"),
    ]
    package = CollectionConfigPackage(
        config=[CollectionConfig(static_collection_config=each) for each in statics]
    )
    return {"cc": encode(package)}


OPTIONS: dict[str, Any] = {
    "policies": policy,
    "defined": defined,
    "collections": {"cc": {"short", "long"}}.get,
}


async def private(ledger: Ledger, wrap: Wrap, collection: str, key: str) -> None:
    channel = wrap(ledger)
    simulator = channel.simulate()
    simulator.set_private_data("cc", collection, key, b"secret")
    assert await channel.commit(simulator) == [ValidationCode.VALID]


@pytest.fixture
async def ledgers(tmp_path: Path, wrap: Wrap) -> Path:
    """A ledger ``a`` of five blocks, and ``b``, made of its snapshot."""
    async with running(tmp_path / "a", **OPTIONS) as ledger:
        await configured(ledger)
        await wrap(ledger).put(define=b"1", k=b"1")
        await private(ledger, wrap, "short", "p2")
        await private(ledger, wrap, "long", "p3")
        await private(ledger, wrap, "short", "p4")
        place = await snapshot(ledger, tmp_path / "a")
    await take_in(tmp_path / "b", place)
    return tmp_path


async def follow(ledgers: Path, count: int, wrap: Wrap) -> None:
    """Commit blocks to the one ledger and the same to the other."""
    async with running(ledgers / "a", **OPTIONS) as one, running(ledgers / "b", **OPTIONS) as two:
        channel = wrap(one)
        for _ in range(count):
            await channel.put(k=b"%d" % one.height)
            block = await one.block_by_number(one.height - 1)
            assert block is not None
            done = await two.commit(block, [ValidationCode(flag) for flag in flags_of(block)])
            assert commit_hash_of(done.block) == commit_hash_of(block) != b""


async def test_hashes_expire_in_the_same_blocks(ledgers: Path, wrap: Wrap) -> None:
    for _ in range(5):
        await follow(ledgers, 1, wrap)
        states = [list(public_state(ledgers / name, "ch")) for name in "ab"]
        assert states[0] == states[1]
    hashes = [row for row in states[0] if "$$h" in row.namespace]
    assert [row.version for row in hashes] == [Version(3, 0)]  # that of the other collection


async def test_blocks_before_are_refused(ledgers: Path, wrap: Wrap) -> None:
    async with running(ledgers / "a", **OPTIONS) as ledger:
        old = await ledger.block_by_number(4)
        assert old is not None
        assert old.header is not None
    await follow(ledgers, 1, wrap)
    async with open_ledger(ledgers / "b", "ch", **OPTIONS) as ledger:
        assert ledger.first_block == 5
        for number in (0, 4):
            with pytest.raises(
                BeforeSnapshot,
                match=rf"cannot serve block \[{number}\]. The ledger is bootstrapped from a "
                r"snapshot. First available block = \[5\]",
            ):
                await ledger.block_by_number(number)
        assert await ledger.block_by_hash(header_hash(old.header)) is None
        assert await ledger.block_by_number(5) is not None
        info = ledger.blockchain_info()
        assert info.height == 6
        assert info.previous_block_hash == header_hash(old.header)
        assert info.bootstrapping_snapshot_info is not None
        assert info.bootstrapping_snapshot_info.last_block_in_snapshot == 4
        assert ledger.channel_config() == b"config"
        with pytest.raises(BeforeSnapshot):
            await ledger.last_config_block()


async def test_transactions_before_are_known_by_their_ids(ledgers: Path, wrap: Wrap) -> None:
    async with open_ledger(ledgers / "b", "ch", **OPTIONS) as ledger:
        assert ledger.has_transaction("tx2")
        assert not ledger.has_transaction("tx99")
        for ask in (ledger.transaction_by_id, ledger.block_by_tx_id):
            with pytest.raises(
                BeforeSnapshot,
                match=r"details for the TXID \[tx2\] not available. Ledger bootstrapped from a "
                r"snapshot. First available block = \[5\]",
            ):
                await ask("tx2")
            assert await ask("tx99") is None


async def test_it_opens_again_wherever_it_stands(ledgers: Path, wrap: Wrap) -> None:
    for count in (0, 1, 2):
        await follow(ledgers, count, wrap)
    async with open_ledger(ledgers / "b", "ch", **OPTIONS) as ledger:
        assert (ledger.first_block, ledger.height) == (5, 8)
        assert wrap(ledger).get("k") == b"7"
        history = await ledger.new_history_query_executor().get_history_for_key("cc", "k").take(9)
        assert [each.value for each in history] == [b"7", b"6", b"5"]


async def test_what_would_need_the_blocks_before_is_refused(ledgers: Path, wrap: Wrap) -> None:
    home = ledgers / "b"
    async with running(home, "other") as ledger:
        await configured(ledger)
        await wrap(ledger).put(k=b"1")
    await follow(ledgers, 2, wrap)
    before = {path: path.read_bytes() for path in (home / "ch").rglob("*") if path.is_file()}
    told = r"because the peer contains channel\(s\) \[ch\] that were bootstrapped from snapshot"
    with pytest.raises(LedgerError, match=f"cannot rebuild databases {told}"):
        await rebuild_databases(home, "ch", "other")
    with pytest.raises(LedgerError, match=f"cannot reset {told}"):
        await reset(home)
    with pytest.raises(LedgerError, match=f"cannot rollback {told}"):
        await rollback(home, "ch", 5)
    assert before == {path: path.read_bytes() for path in before}
    await rollback(home, "other", 0)
    await unjoin(home, "ch")
    await rebuild_databases(home, "other")


async def test_without_its_state_it_cannot_be_made_again(ledgers: Path, wrap: Wrap) -> None:
    await follow(ledgers, 2, wrap)
    (ledgers / "b" / "ch" / "ledger.sqlite").unlink()
    with pytest.raises(LedgerCorrupt, match="began with, a snapshot"):
        async with open_ledger(ledgers / "b", "ch"):
            raise AssertionError("opened")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"last_block_number": 1}'])
async def test_a_birth_that_cannot_be_read(ledgers: Path, content: str) -> None:
    path = ledgers / "b" / "ch" / "snapshot.json"
    path.chmod(0o600)
    path.write_text(content)
    with pytest.raises(LedgerCorrupt, match="does not tell the last block"):
        async with open_ledger(ledgers / "b", "ch"):
            raise AssertionError("opened")


async def test_a_snapshot_of_one_is_that_of_the_other(ledgers: Path, wrap: Wrap) -> None:
    await follow(ledgers, 3, wrap)
    places = []
    for name in "ab":
        async with running(ledgers / name, **OPTIONS) as ledger:
            places.append(await snapshot(ledger, ledgers / name))
    files = [{path.name: path.read_bytes() for path in place.iterdir()} for place in places]
    assert len(files[0]) == 10
    assert files[0] == files[1]
    await take_in(ledgers / "c", places[1])
    async with open_ledger(ledgers / "c", "ch", **OPTIONS) as ledger:
        assert ledger.first_block == 8
        assert ledger.has_transaction("tx2")
