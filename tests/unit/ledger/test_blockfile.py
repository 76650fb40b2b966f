"""Block files: format, torn tails, trouble on the disk."""

from __future__ import annotations

import os
import resource
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_protos.common import Block, BlockData, BlockHeader, BlockMetadata
from fabric_protos.errors import DecodeError
from peer.errors import LedgerCorrupt, LedgerFull, LedgerStorageError
from peer.ledger import durable
from peer.ledger.blockfile import (
    BEGINNING,
    BlockFiles,
    Position,
    Record,
    decode_block,
    encode_block,
)


def block(number: int, *envelopes: bytes) -> Block:
    return Block(
        header=BlockHeader(number=number, previous_hash=b"p" * 32, data_hash=b"d" * 32),
        data=BlockData(data=list(envelopes)),
        metadata=BlockMetadata(metadata=[b"", b"m"]),
    )


def written(path: Path, *blocks: Block, max_file_bytes: int = 10**6) -> list[Record]:
    path.mkdir()
    files = BlockFiles(path, max_file_bytes=max_file_bytes)
    files.resume(BEGINNING)
    for each in blocks:
        files.append(each)
    files.close()
    return list(files.scan())


def numbers(path: Path) -> list[int]:
    return [record.block.header.number for record in BlockFiles(path).scan() if record.block.header]


def test_the_files_of_a_real_peer(real_ledger: Path, tmp_path: Path) -> None:
    chain = real_ledger / "chains" / "chains" / "testchannel"
    records = list(BlockFiles(chain).scan())
    assert [record.block.header.number for record in records if record.block.header] == [*range(20)]
    copies = written(tmp_path / "copy", *(record.block for record in records))
    assert copies == records
    original = (chain / "blockfile_000000").read_bytes()
    assert (tmp_path / "copy" / "blockfile_000000").read_bytes() == original
    alone = BlockFiles(chain / "blockfile_000000")
    assert list(alone.scan()) == records
    assert alone.read(records[7].start) == records[7]
    assert alone.torn_bytes(records[-1].end) == 0
    with pytest.raises(LedgerStorageError, match="only read"):
        alone.resume(records[-1].end)


@given(
    number=st.integers(0, 2**64 - 1),
    hashes=st.tuples(st.binary(), st.binary()),
    envelopes=st.lists(st.binary(max_size=300)),
    metadata=st.lists(st.binary(max_size=9)),
)
def test_any_block_survives(
    number: int, hashes: tuple[bytes, bytes], envelopes: list[bytes], metadata: list[bytes]
) -> None:
    original = Block(
        header=BlockHeader(number=number, previous_hash=hashes[0], data_hash=hashes[1]),
        data=BlockData(data=envelopes),
        metadata=BlockMetadata(metadata=metadata),
    )
    encoded = encode_block(original)
    assert decode_block(encoded) == original
    for cut in {0, 1, len(encoded) // 2, len(encoded) - 1}:
        with pytest.raises(DecodeError):
            decode_block(encoded[:cut])
    with pytest.raises(DecodeError, match="1 bytes follow"):
        decode_block(encoded + b"\0")


def test_a_block_goes_whole_into_the_next_file(tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    blocks = [block(n, b"x" * 100) for n in range(7)]
    blocks.insert(3, block(3, b"x" * 1000))  # longer than a file may be
    records = written(chain, *blocks, max_file_bytes=400)
    assert [record.start.file for record in records] == [0, 0, 1, 2, 3, 3, 4, 4]
    for before, after in pairwise(records):
        assert after.start in (before.end, (before.end.file + 1, 0))
    assert [record.block for record in records] == blocks
    assert list(BlockFiles(chain).scan(records[4].start)) == records[4:]
    assert list(BlockFiles(chain).scan(records[-1].end)) == []


def test_every_torn_tail_is_cut_and_nothing_else(tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    first, second = written(chain, block(0, b"a" * 200), block(1, b"b" * 200))
    path = chain / "blockfile_000000"
    whole = path.read_bytes()
    assert whole[second.start.offset] > 0x7F  # a length of two bytes can be torn, too
    for size in range(second.start.offset, len(whole)):
        for zeros in (0, 3, 5000):
            path.write_bytes(whole[:size] + bytes(zeros))
            files = BlockFiles(chain)
            torn = size + zeros < len(whole) or size == second.start.offset
            if not torn:
                continue  # of the right length and wrong content: not for this layer to tell
            assert list(files.scan()) == [first]
            assert files.torn_bytes(first.end) == size + zeros - first.end.offset
            files.resume(first.end)
            assert files.append(second.block) == second.start
            files.close()
            assert path.read_bytes() == whole


def test_a_tail_that_is_not_torn_but_damaged_is_kept(tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    records = written(chain, *(block(n, b"x" * 50) for n in range(3)))
    path = chain / "blockfile_000000"
    whole = path.read_bytes()
    damages = [
        (records[1].start.offset, b"\0", "cut short"),  # an empty record
        (records[1].start.offset + 2, b"\x21", "no block"),  # a length within
        (records[2].start.offset, b"\xff" * 11, "no block: a varint is longer"),
    ]
    for at, damage, reason in damages:
        path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        with pytest.raises(LedgerCorrupt, match=f"what is at byte .* {reason}"):
            list(BlockFiles(chain).scan())


def test_a_file_before_the_last_has_no_torn_tail(tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    written(chain, *(block(n, b"x" * 300) for n in range(3)), max_file_bytes=400)
    path = chain / "blockfile_000001"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LedgerCorrupt, match=r"blockfile_000001.*cut short"):
        list(BlockFiles(chain).scan())
    path.unlink()
    with pytest.raises(LedgerCorrupt, match="blockfile_000001: the file is missing"):
        list(BlockFiles(chain).scan())


def test_an_empty_file_begun_and_not_used(tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    [record] = written(chain, block(0))
    (chain / "blockfile_000001").touch()
    assert list(BlockFiles(chain).scan()) == [record]
    files = BlockFiles(chain)
    files.resume(record.end)
    files.append(block(1))
    files.close()
    assert numbers(chain) == [0, 1]
    assert not (chain / "blockfile_000001").exists()


def test_reading_where_nothing_is(tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    [record] = written(chain, block(0))
    with pytest.raises(LedgerCorrupt, match="no block at byte"):
        BlockFiles(chain).read(record.end)
    with pytest.raises(LedgerStorageError, match="No such file"):
        BlockFiles(chain).read(Position(5, 0))
    with pytest.raises(LedgerStorageError, match="No such file"):
        list(BlockFiles(tmp_path / "nothing").scan())


def test_a_full_disk_takes_nothing_and_the_next_try_succeeds(tmp_path: Path) -> None:
    chain = tmp_path
    files = BlockFiles(chain)
    files.resume(BEGINNING)
    files.append(block(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(LedgerStorageError, match="File too large"):
            files.append(block(1, b"x" * 20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert numbers(chain) == [0]
    files.append(block(1, b"x" * 20_000))
    files.close()
    assert numbers(chain) == [0, 1]


def test_no_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = BlockFiles(tmp_path)
    files.resume(BEGINNING)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LedgerFull, match="free some space"):
        files.append(block(0))
    files.close()


def test_after_a_failed_sync_nothing_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = tmp_path
    files = BlockFiles(chain)
    files.resume(BEGINNING)
    files.append(block(0))

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "sync", failing)
        with pytest.raises(LedgerStorageError, match="Input/output error"):
            files.append(block(1))
    for _ in range(2):
        with pytest.raises(LedgerStorageError, match="open the ledger again"):
            files.append(block(1))
    files.close()


def test_the_last_append_can_be_taken_back(tmp_path: Path) -> None:
    chain = tmp_path
    files = BlockFiles(chain, max_file_bytes=100)
    files.resume(BEGINNING)
    files.append(block(0))
    start = files.append(block(1, b"wrong" * 20))
    files.cut(start)
    assert numbers(chain) == [0]
    assert files.append(block(1)) == start
    files.close()
    files.close()
    assert numbers(chain) == [0, 1]
    with pytest.raises(LedgerStorageError, match="closed"):
        files.append(block(2))
