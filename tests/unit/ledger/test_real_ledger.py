"""Blocks that real Fabric peers committed, committed again here."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block
from fabric_protos.rwset import CollectionPvtReadWriteSet, NsPvtReadWriteSet, TxPvtReadWriteSet
from peer.ledger import open_ledger, rebuild_databases, rollback
from peer.ledger.api import CollectionPolicy, Ledger, ValidationCode, Version
from peer.ledger.blocks import commit_hash_of, flags_of, header_hash, version_bytes
from tests.leveldb_log import State, read_log, read_state

OUR_COLLECTIONS = (
    "_implicit_org_Org2MSP",
    "collectionMarbles",
    "collectionMarblePrivateDetails",
)
CHANNEL = b"testchannel\0"


def policy(namespace: str, collection: str) -> CollectionPolicy:
    lifetime = 1_000_000 if namespace == "marblesp" else 0
    return CollectionPolicy(block_to_live=lifetime, is_member=collection in OUR_COLLECTIONS)


def real_private_data(ledger: Path) -> dict[Version, bytes]:
    """Return what the private store of the recorded peer holds, by transaction."""
    found: defaultdict[Version, list[NsPvtReadWriteSet]] = defaultdict(list)
    for key, value in read_log(ledger / "pvtdataStore").items():
        if key.startswith(CHANNEL + b"\2\1"):  # data, of a block number of one byte
            version = Version(key[len(CHANNEL) + 2], key[len(CHANNEL) + 3])
            namespace = key[len(CHANNEL) + 4 :].partition(b"\0")[0].decode()
            rwset = decode(CollectionPvtReadWriteSet, value)
            found[version].append(
                NsPvtReadWriteSet(namespace=namespace, collection_pvt_rwset=[rwset])
            )
    return {
        version: encode(TxPvtReadWriteSet(ns_pvt_rwset=parts)) for version, parts in found.items()
    }


def our_state(directory: Path) -> State:
    query = "SELECT namespace, key, block, tx, value, metadata FROM state"
    with sqlite3.connect(directory / "testchannel" / "ledger.sqlite") as database:
        rows = database.execute(query).fetchall()
    database.close()
    return {
        (namespace, key): (version_bytes(Version(block, tx)), value, metadata)
        for namespace, key, block, tx, value, metadata in rows
    }


async def commit_all(
    ledger: Ledger, blocks: list[Block], private: dict[Version, bytes]
) -> list[bytes]:
    """Commit blocks with their recorded verdicts; return our commit hashes."""
    hashes = []
    for number, block in enumerate(blocks):
        verdicts = [ValidationCode(flag) for flag in flags_of(block)]
        held = {tx: each for (at, tx), each in private.items() if at == number}
        done = await ledger.commit(block, verdicts, held)
        assert list(done.codes) == verdicts
        hashes.append(commit_hash_of(done.block))
    return hashes


async def test_real_blocks_lead_to_the_same_hashes_state_and_history(
    tmp_path: Path, real_ledger: Path, real_blocks: list[Block]
) -> None:
    private = real_private_data(real_ledger)
    assert len(private) == 4
    async with open_ledger(tmp_path, "testchannel", policies=policy) as ledger:
        hashes = await commit_all(ledger, real_blocks, private)
        assert hashes == [commit_hash_of(block) for block in real_blocks]
        assert [len(digest) for digest in hashes] == [0] + [32] * 19
        [*stored] = [await ledger.block_by_number(number) for number in range(20)]
        assert stored == real_blocks
        assert await ledger.last_config_block() == real_blocks[4]
        assert real_blocks[19].header is not None
        assert ledger.blockchain_info().current_block_hash == header_hash(real_blocks[19].header)
    expected = read_state(real_ledger, "testchannel")
    assert len(expected) == 91
    assert our_state(tmp_path) == expected
    with sqlite3.connect(tmp_path / "testchannel" / "ledger.sqlite") as database:
        written = database.execute("SELECT namespace, key, block, tx FROM history").fetchall()
    database.close()
    assert sorted(map(history_key, written)) == sorted(
        key
        for key in read_log(real_ledger / "historyLeveldb")
        if key.startswith(CHANNEL) and key != CHANNEL + b"s"
    )


def history_key(row: tuple[str, bytes, int, int]) -> bytes:
    namespace, key, block, tx = row
    size = version_bytes(Version(len(key), 0))[:-1]
    return (
        CHANNEL
        + namespace.encode()
        + b"\0"
        + size
        + key
        + b"\0"
        + version_bytes(Version(block, tx))
    )


async def test_the_databases_are_made_again_from_blocks_and_private_store(
    tmp_path: Path, real_ledger: Path, real_blocks: list[Block]
) -> None:
    async with open_ledger(tmp_path, "testchannel", policies=policy) as ledger:
        await commit_all(ledger, real_blocks, real_private_data(real_ledger))
    await rebuild_databases(tmp_path, "testchannel")
    async with open_ledger(tmp_path, "testchannel") as ledger:
        assert ledger.height == 20
    assert our_state(tmp_path) == read_state(real_ledger, "testchannel")


async def test_without_the_private_data_the_hashes_are_the_same(
    tmp_path: Path, real_ledger: Path, real_blocks: list[Block]
) -> None:
    async with open_ledger(tmp_path, "testchannel", policies=policy) as ledger:
        hashes = await commit_all(ledger, real_blocks, {})
        assert hashes == [commit_hash_of(block) for block in real_blocks]
        missing = await ledger.missing_private_data()
        assert [(block, tx) for block, tx, _, _ in missing] == [
            (6, 0),
            (10, 0),
            (13, 0),
            (13, 0),
            (15, 0),
        ]
    expected = read_state(real_ledger, "testchannel")
    assert our_state(tmp_path) == {
        (namespace, key): held
        for (namespace, key), held in expected.items()
        if "$$p" not in namespace
    }


async def test_blocks_that_come_again_find_their_private_data(
    tmp_path: Path, real_ledger: Path, real_blocks: list[Block]
) -> None:
    private = real_private_data(real_ledger)
    assert {version.block for version in private} > {10, 13}
    async with open_ledger(tmp_path / "short", "testchannel", policies=policy) as ledger:
        await commit_all(ledger, real_blocks[:10], private)
    async with open_ledger(tmp_path, "testchannel", policies=policy) as ledger:
        await commit_all(ledger, real_blocks, private)
    await rollback(tmp_path, "testchannel", 9)
    async with open_ledger(tmp_path, "testchannel", policies=policy) as ledger:
        assert ledger.height == 10
        assert await ledger.private_data(6) != {}
        assert await ledger.private_data(13) == {}
        assert our_state(tmp_path) == our_state(tmp_path / "short")
        for block in real_blocks[10:]:
            done = await ledger.commit(block, [ValidationCode(flag) for flag in flags_of(block)])
            assert done.block == block
        assert await ledger.missing_private_data() == []
        assert await ledger.private_data(13) != {}
    assert our_state(tmp_path) == read_state(real_ledger, "testchannel")
