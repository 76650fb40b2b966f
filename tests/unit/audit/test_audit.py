"""Audits of the ledger of a real peer, as it is and with something changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, BlockMetadataIndex, Envelope, Metadata, Payload
from fabric_protos.protos import ChaincodeActionPayload, Transaction
from peer.audit import audit_chain, find_chains
from peer.audit.report import BlockReport, ChainReport, Check, Count
from peer.errors import LedgerCorrupt, LedgerStorageError
from peer.ledger import open_ledger
from peer.ledger.api import ValidationCode
from peer.ledger.blockfile import BEGINNING, BlockFiles, encode_block
from peer.ledger.blocks import (
    commit_hash_of,
    committed,
    envelopes_of,
    flags_of,
    metadata_of,
)

EVERYTHING = {
    Check.HEADER_LINK: 20,
    Check.DATA_HASH: 20,
    Check.BLOCK_SIGNATURE: 19,
    Check.CONFIGURATION: 5,
    Check.CREATOR_SIGNATURE: 15,
    Check.TRANSACTION_ID: 15,
    Check.PROPOSAL_HASH: 15,
    Check.ENDORSEMENT: 21,
    Check.COMMIT_HASH: 19,
}
TAMPERED = 12  # a block with three endorsements
AFTER = 19 - TAMPERED


class Audited(NamedTuple):
    summary: ChainReport
    blocks: list[BlockReport]

    @property
    def differences(self) -> list[tuple[int, int | None, Check]]:
        return [
            (difference.block or 0, difference.transaction, difference.check)
            for report in self.blocks
            for difference in report.differences()
        ]

    @property
    def failed(self) -> dict[Check, str]:
        counts = self.summary.counts.items()
        return {check: str(count) for check, count in counts if count.passed < count.made}


async def audited(path: Path, scratch: Path, *, replay: bool = False) -> Audited:
    reports: list[BlockReport] = []
    shutil.rmtree(scratch, ignore_errors=True)
    summary = await audit_chain(
        path, scratch, replay=replay, on_block=lambda _, report: reports.append(report)
    )
    assert summary.blocks == len(reports)
    found = Audited(summary, reports)
    assert summary.difference_count == len(found.differences) + bool(summary.damage)
    assert bool(summary.first) == bool(summary.difference_count)
    return found


def blocks_of(path: Path) -> list[Block]:
    return [record.block for record in BlockFiles(path).scan()]


def write(directory: Path, blocks: list[Block], **options: int) -> Path:
    directory.mkdir()
    files = BlockFiles(directory, **options)
    files.resume(BEGINNING)
    for block in blocks:
        files.append(block)
    files.close()
    return directory


@pytest.mark.parametrize("replay", [False, True])
async def test_a_real_ledger(real_file: Path, tmp_path: Path, replay: bool) -> None:
    found = await audited(real_file, tmp_path, replay=replay)
    expected = EVERYTHING | ({Check.VALIDATION_CODE: 20} if replay else {Check.READ_SET: 15})
    assert found.summary.counts == {check: Count(made, made) for check, made in expected.items()}
    assert (found.summary.channel_id, found.summary.repeated) == ("testchannel", 20)
    assert (found.summary.first, found.summary.unchecked) == (None, [])
    for report, block in zip(found.blocks, blocks_of(real_file), strict=True):
        assert report.computed_hash == report.recorded_hash == commit_hash_of(block)
        (told,) = report.transactions
        assert told.recorded is ValidationCode.VALID
        assert told.computed is (ValidationCode.VALID if replay else None)
    assert {report.transactions[0].type for report in found.blocks} == {
        "CONFIG",
        "ENDORSER_TRANSACTION",
    }


# One byte


def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def flip_in(data: bytes, part: bytes) -> bytes:
    assert data.count(part) == 1
    return data.replace(part, flipped(part))


def endorsed(block: Block) -> ChaincodeActionPayload:
    payload = decode(Payload, decode(Envelope, envelopes_of(block)[0]).payload)
    return decode(ChaincodeActionPayload, decode(Transaction, payload.data).actions[0].payload)


def flip_data(block: Block) -> None:
    assert block.data is not None
    part = endorsed(block).chaincode_proposal_payload
    block.data.data[0] = flip_in(block.data.data[0], part)


def flip_endorsement(block: Block) -> None:
    assert block.data is not None
    action = endorsed(block).action
    assert action is not None
    block.data.data[0] = flip_in(block.data.data[0], action.endorsements[1].signature)


def flip_creator_signature(block: Block) -> None:
    assert block.data is not None
    envelope = decode(Envelope, block.data.data[0])
    block.data.data[0] = flip_in(block.data.data[0], envelope.signature)


def flip_previous_hash(block: Block) -> None:
    assert block.header is not None
    block.header.previous_hash = flipped(block.header.previous_hash)


def flip_data_hash(block: Block) -> None:
    assert block.header is not None
    block.header.data_hash = flipped(block.header.data_hash)


def flip_metadata(index: int) -> Callable[[Block], None]:
    def flip(block: Block) -> None:
        assert block.metadata is not None
        block.metadata.metadata[index] = flipped(block.metadata.metadata[index])

    return flip


def flip_orderer_value(block: Block) -> None:
    assert block.metadata is not None
    entries = block.metadata.metadata
    metadata = decode(Metadata, entries[BlockMetadataIndex.SIGNATURES])
    metadata.value = flipped(metadata.value)
    entries[BlockMetadataIndex.SIGNATURES] = encode(metadata)


def tampered(source: Path, target: Path, change: Callable[[Block], None]) -> Path:
    """Copy a block file with one byte of one block changed."""
    content, block = source.read_bytes(), blocks_of(source)[TAMPERED]
    before = encode_block(block)
    change(block)
    after = encode_block(block)
    assert content.count(before) == 1
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    target.write_bytes(content.replace(before, after))
    return target


# What is told of the block, first difference first; whether it can be committed again
CHANGES = {
    "data": (flip_data, [Check.DATA_HASH, Check.CREATOR_SIGNATURE, Check.PROPOSAL_HASH], False),
    "endorsement": (
        flip_endorsement,
        [Check.DATA_HASH, Check.CREATOR_SIGNATURE, Check.ENDORSEMENT],
        False,
    ),
    "creator's signature": (
        flip_creator_signature,
        [Check.DATA_HASH, Check.CREATOR_SIGNATURE],
        False,
    ),
    "previous hash": (flip_previous_hash, [Check.HEADER_LINK, Check.BLOCK_SIGNATURE], False),
    "data hash": (flip_data_hash, [Check.DATA_HASH, Check.BLOCK_SIGNATURE], False),
    "signature": (flip_metadata(BlockMetadataIndex.SIGNATURES), [Check.BLOCK_SIGNATURE], True),
    "orderer's metadata": (flip_orderer_value, [Check.BLOCK_SIGNATURE], True),
    "commit hash": (flip_metadata(BlockMetadataIndex.COMMIT_HASH), [Check.COMMIT_HASH], True),
}


@pytest.mark.parametrize(("change", "checks", "goes_on"), CHANGES.values(), ids=CHANGES)
async def test_one_byte_is_found(
    real_file: Path,
    tmp_path: Path,
    change: Callable[[Block], None],
    checks: list[Check],
    goes_on: bool,
) -> None:
    path = tampered(real_file, tmp_path / "copy", change)
    found = await audited(path, tmp_path / "scratch")
    assert found.summary.first is not None
    assert (found.summary.first.block, found.summary.first.check) == (TAMPERED, checks[0])
    told = [check for block, _, check in found.differences if block == TAMPERED]
    assert told == checks if goes_on else [*checks, Check.READ_SET, Check.COMMIT_HASH]
    others = {check for block, _, check in found.differences if block != TAMPERED}
    links = {Check.HEADER_LINK} if checks[-1] is Check.BLOCK_SIGNATURE and not goes_on else set()
    assert others == links | (set() if goes_on else {Check.COMMIT_HASH})
    if not goes_on:
        assert found.failed[Check.COMMIT_HASH] == f"{TAMPERED - 1}/19"


@pytest.mark.parametrize("change", [flip_data, flip_metadata(BlockMetadataIndex.SIGNATURES)])
async def test_a_replay_ends_where_a_peer_would_refuse(
    real_file: Path, tmp_path: Path, change: Callable[[Block], None]
) -> None:
    path = tampered(real_file, tmp_path / "copy", change)
    found = await audited(path, tmp_path / "scratch", replay=True)
    assert (found.summary.blocks, found.summary.repeated) == (20, TAMPERED)
    refusals = [each for each in found.blocks[TAMPERED].differences() if "refused" in each.problem]
    assert [str(each).split(":")[0] for each in refusals] == [f"block {TAMPERED}, validation codes"]
    assert found.failed[Check.COMMIT_HASH] == f"{TAMPERED - 1}/19"
    assert "not computed: block 12 was not committed again" in {
        each.problem for each in found.blocks[-1].differences()
    }


async def test_a_verdict_that_was_changed(real_file: Path, tmp_path: Path) -> None:
    def refuse(block: Block) -> None:
        assert block.metadata is not None
        code = ValidationCode.ENDORSEMENT_POLICY_FAILURE
        block.metadata.metadata[BlockMetadataIndex.TRANSACTIONS_FILTER] = bytes([code])

    path = tampered(real_file, tmp_path / "copy", refuse)
    found = await audited(path, tmp_path / "scratch")
    assert found.differences[0] == (TAMPERED, None, Check.COMMIT_HASH)
    # What the transaction should have written is missed by others that read it.
    assert {check for _, _, check in found.differences} == {Check.COMMIT_HASH, Check.READ_SET}
    assert found.failed[Check.COMMIT_HASH] == f"{TAMPERED - 1}/19"
    # A refused transaction is not examined.
    assert found.summary.counts[Check.CREATOR_SIGNATURE] == (14, 14)
    assert found.summary.counts[Check.ENDORSEMENT] == (18, 18)

    found = await audited(path, tmp_path / "scratch", replay=True)
    assert found.differences == [(TAMPERED, 0, Check.VALIDATION_CODE)]
    assert str(found.summary.first) == (
        f"block {TAMPERED}, transaction 0, validation codes: "
        "recorded is ENDORSEMENT_POLICY_FAILURE, computed VALID"
    )


async def test_the_right_endorsement_is_named(real_file: Path, tmp_path: Path) -> None:
    path = tampered(real_file, tmp_path / "copy", flip_endorsement)
    found = await audited(path, tmp_path / "scratch")
    assert found.summary.counts[Check.ENDORSEMENT] == (20, 21)
    (told,) = [
        each for each in found.blocks[TAMPERED].differences() if each.check is Check.ENDORSEMENT
    ]
    assert str(told).startswith(
        f"block {TAMPERED}, transaction 0, endorsements: endorsement 1: Org"
    )


def covered(block: Block) -> tuple[object, ...]:
    """Return what of a block is under a hash or signature, or compared with one."""
    signatures, _, flags, _, digest = metadata_of(block)
    is_signed = block.header is not None and block.header.number > 0
    return block.header, block.data, flags, digest, is_signed and signatures


@given(place=st.integers(0, 10**9), bit=st.integers(0, 7), replay=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_bit_changes_unseen(
    real_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    place: int,
    bit: int,
    replay: bool,
) -> None:
    content = bytearray(real_file.read_bytes())
    content[place % len(content)] ^= 1 << bit
    directory = tmp_path_factory.mktemp("flipped")
    path = directory / "file"
    path.write_bytes(content)
    with suppress(LedgerCorrupt):
        changed = map(covered, blocks_of(path))
        assume(list(changed) != list(map(covered, blocks_of(real_file))))
    found = trio.run(partial(audited, path, directory / "scratch", replay=replay))
    assert found.summary.first is not None
    shutil.rmtree(directory)


# The end of the files, and their middle


async def test_a_torn_tail(real_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(real_file.read_bytes()[:-1])
    found = await audited(path, tmp_path / "scratch")
    last = len(encode_block(blocks_of(real_file)[-1])) + 2  # its length comes first
    offset = real_file.stat().st_size - last
    assert found.summary.blocks == 19
    assert found.failed == {}
    assert found.summary.damage == (
        f"{path}: from byte {offset} of file 0 on, {last - 1} bytes are no whole block"
    )
    assert str(found.summary.first) == f"block files: {found.summary.damage}"


async def test_damage_in_the_middle(real_file: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "copy", blocks_of(real_file), max_file_bytes=30_000)
    first, second, *_ = sorted(path.iterdir())
    assert (await audited(path, tmp_path / "scratch")).summary.first is None
    first.write_bytes(first.read_bytes()[:-1])
    found = await audited(path, tmp_path / "scratch")
    assert found.summary.difference_count == 1
    assert str(first) in found.summary.damage
    assert "cut short" in found.summary.damage
    second.unlink()
    found = await audited(path, tmp_path / "scratch")
    assert f"{second}: the file is missing" in found.summary.damage


async def test_what_is_no_chain(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"what is this?")
    found = await audited(path, tmp_path / "scratch")
    assert found.summary.difference_count == 1
    assert found.summary.damage
    path.write_bytes(b"")
    found = await audited(path, tmp_path / "scratch")
    assert (found.summary.blocks, found.summary.damage) == (0, "")


# Chains that are not whole


async def test_a_block_left_out(real_file: Path, tmp_path: Path) -> None:
    blocks = blocks_of(real_file)
    path = write(tmp_path / "copy", blocks[:7] + blocks[8:])
    found = await audited(path, tmp_path / "scratch")
    assert str(found.summary.first) == "block 8, header links: it comes after block 6"
    assert found.failed[Check.HEADER_LINK] == "18/19"
    assert found.failed[Check.COMMIT_HASH] == "6/18"
    assert Check.BLOCK_SIGNATURE not in found.failed


@pytest.mark.parametrize("replay", [False, True])
async def test_a_chain_that_begins_later(real_file: Path, tmp_path: Path, replay: bool) -> None:
    path = write(tmp_path / "copy", blocks_of(real_file)[3:])
    found = await audited(path, tmp_path / "scratch", replay=replay)
    assert found.summary.first is None
    assert found.summary.repeated == 0
    assert [each.split(":")[0] for each in found.summary.unchecked] == ["the first block is 3"]
    assert found.summary.counts == {
        Check.HEADER_LINK: (16, 16),
        Check.DATA_HASH: (17, 17),
        Check.CONFIGURATION: (2, 2),
        Check.BLOCK_SIGNATURE: (16, 16),
        Check.CREATOR_SIGNATURE: (15, 15),
        Check.TRANSACTION_ID: (15, 15),
        Check.PROPOSAL_HASH: (15, 15),
        Check.ENDORSEMENT: (21, 21),
    }
    assert not (tmp_path / "scratch").exists()


async def test_without_a_configuration_no_signature_is_checked(
    real_file: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "copy", blocks_of(real_file)[5:])
    found = await audited(path, tmp_path / "scratch")
    assert found.summary.counts == {
        Check.HEADER_LINK: (14, 14),
        Check.DATA_HASH: (15, 15),
        Check.TRANSACTION_ID: (15, 15),
        Check.PROPOSAL_HASH: (15, 15),
    }


def as_ordered(blocks: list[Block]) -> Iterator[Block]:
    for block in blocks:
        yield committed(block, b"", b"")


async def test_the_blocks_of_an_ordering_service(real_file: Path, tmp_path: Path) -> None:
    blocks = blocks_of(real_file)
    path = write(tmp_path / "copy", list(as_ordered(blocks)))
    found = await audited(path, tmp_path / "scratch")
    assert found.summary.first is None
    assert found.summary.repeated == 0
    assert Check.COMMIT_HASH not in found.summary.counts
    assert found.summary.counts[Check.ENDORSEMENT] == (21, 21)
    assert [each.split(",")[0] for each in found.summary.unchecked] == ["from block 0 on"]
    found = await audited(path, tmp_path / "scratch", replay=True)
    assert (found.summary.first, found.summary.unchecked) == (None, [])
    assert [report.computed_hash for report in found.blocks] == list(map(commit_hash_of, blocks))
    assert all(
        each.computed is ValidationCode.VALID
        for report in found.blocks
        for each in report.transactions
    )


@pytest.mark.parametrize("flags", [b"\0\0", b"\x64"])
async def test_verdicts_that_are_damaged(real_file: Path, tmp_path: Path, flags: bytes) -> None:
    blocks = blocks_of(real_file)
    blocks[TAMPERED] = committed(blocks[TAMPERED], flags, commit_hash_of(blocks[TAMPERED]))
    path = write(tmp_path / "copy", blocks)
    found = await audited(path, tmp_path / "scratch")
    assert found.differences == [
        (TAMPERED, None, Check.VALIDATION_CODE),
        *((number, None, Check.COMMIT_HASH) for number in range(TAMPERED, 20)),
    ]


async def test_a_configuration_that_does_not_follow(real_file: Path, tmp_path: Path) -> None:
    blocks = blocks_of(real_file)
    blocks[2].data = blocks[1].data
    path = write(tmp_path / "copy", blocks)
    found = await audited(path, tmp_path / "scratch")
    assert (2, 0, Check.CONFIGURATION) in found.differences
    problem = "its sequence is 2, but the current one is 2"
    assert problem in [each.problem for each in found.blocks[2].differences()]


async def test_a_block_that_begins_with_nothing(real_file: Path, tmp_path: Path) -> None:
    blocks = blocks_of(real_file)
    assert blocks[0].data is not None
    blocks[0].data.data[0] = b"\xff"
    path = write(tmp_path / "copy", blocks[:1])
    found = await audited(path, tmp_path / "scratch")
    assert found.differences == [
        (0, None, Check.DATA_HASH),
        (0, 0, Check.TRANSACTION_ID),
    ]
    assert "does not tell its channel" in found.summary.unchecked[0]


async def test_a_channel_of_an_impossible_name(real_file: Path, tmp_path: Path) -> None:
    blocks = blocks_of(real_file)
    for block in blocks:
        assert block.data is not None
        block.data.data = [data.replace(b"testchannel", b"Testchannel") for data in block.data.data]
    path = write(tmp_path / "copy", blocks)
    for replay in (False, True):
        found = await audited(path, tmp_path / "scratch", replay=replay)
        assert (found.summary.channel_id, found.summary.blocks) == ("Testchannel", 20)
        assert found.differences[0] == (0, None, Check.DATA_HASH)


# Where chains are


async def test_our_own_ledger_and_theirs_under_one_directory(
    real_file: Path, tmp_path: Path
) -> None:
    production = tmp_path / "production"
    async with open_ledger(production / "ours", "testchannel") as ledger:
        for block in blocks_of(real_file):
            await ledger.commit(block, [ValidationCode(flag) for flag in flags_of(block)])
    theirs = production / "theirs" / "chains" / "testchannel"
    theirs.mkdir(parents=True)
    shutil.copy(real_file, theirs)
    ours = production / "ours" / "testchannel" / "blocks"
    assert find_chains(production) == [ours, theirs]
    assert find_chains(production / "ours") == [ours]
    assert find_chains(ours.parent) == find_chains(ours) == [ours]
    assert find_chains(theirs / real_file.name) == [theirs / real_file.name]
    before = {path: path.read_bytes() for path in ours.parent.rglob("*") if path.is_file()}
    found = await audited(ours, tmp_path / "scratch", replay=True)
    assert found.summary.first is None
    assert found.summary.counts[Check.COMMIT_HASH] == (19, 19)
    assert before == {path: path.read_bytes() for path in ours.parent.rglob("*") if path.is_file()}


def test_places_without_chains(tmp_path: Path) -> None:
    with pytest.raises(LedgerStorageError, match="there is no block file"):
        find_chains(tmp_path)
    with pytest.raises(LedgerStorageError, match="No such file"):
        find_chains(tmp_path / "missing")
