"""Hashes and form of blocks, against known vectors and the blocks of a real network."""

from __future__ import annotations

from hashlib import sha256

import pytest

from fabric_protos.codec import encode
from fabric_protos.common import (
    Block,
    BlockData,
    BlockHeader,
    BlockMetadata,
    Envelope,
    LastConfig,
    Metadata,
    OrdererBlockMetadata,
)
from fabric_protos.txmgr import KvWrite, Updates
from peer.errors import BlockError
from peer.ledger.api import Version
from peer.ledger.blocks import (
    check_well_formed,
    commit_hash,
    commit_hash_of,
    committed,
    data_hash,
    flags_of,
    header_bytes,
    header_hash,
    is_config_block,
    last_config_index,
    metadata_of,
    version_bytes,
)


@pytest.mark.parametrize(
    ("number", "prefix", "digest"),
    [
        (0, "3027020100", "34028f2d794dde3d3b2f0125dce6ec3e3140bb32afa4f93097cf1cc890380dc7"),
        (1, "3047020101", "43b389e9924adf4aa2a7df5f9397d06523b514e27a44620417dabdfe8446a939"),
        (127, "304702017f", "ae0b283ecef260be2502b50f468012f85a9ed1183d625b94e2939b936083b7d0"),
        (128, "304802020080", "cffe93c281844ca9b76ea4b5c57d198462966e9211d7b4158847a2782d46de8b"),
        (256, "304802020100", "f58dd411e95101ff171d49a4ce40ff0e8d38b1993004e00180a15041a4554509"),
        (
            32768,
            "30490203008000",
            "f0d772aafe35c964e2aca4a64cd398cd29b719372e71f1db86c8844cc9be0269",
        ),
    ],
)
def test_header_hashes(number: int, prefix: str, digest: str) -> None:
    header = BlockHeader(
        number=number, previous_hash=bytes(32) if number else b"", data_hash=b"\1" * 32
    )
    assert header_bytes(header).hex().startswith(prefix)
    assert header_hash(header).hex() == digest


@pytest.mark.parametrize(("size", "length"), [(127, "7f"), (128, "8180"), (300, "82012c")])
def test_a_long_hash_gets_a_long_length(size: int, length: str) -> None:
    encoded = header_bytes(BlockHeader(number=1, data_hash=bytes(size)))
    assert f"020101040004{length}" in encoded.hex()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (Version(0, 0), "0000"),
        (Version(1, 0), "010100"),
        (Version(255, 1), "01ff0101"),
        (Version(256, 3), "0201000103"),
        (Version(2**64 - 1, 0), "08" + "ff" * 8 + "00"),
    ],
)
def test_version_bytes(version: Version, expected: str) -> None:
    assert version_bytes(version).hex() == expected


def test_commit_hashes() -> None:
    first = Updates(
        kvwrites=[
            KvWrite(namespace="mycc", key=b"a", value=b"1", version_bytes=b"\1\1\0"),
            KvWrite(key=b"b", is_delete=True, version_bytes=b"\1\1\0"),
        ]
    )
    assert encode(first).hex() == (
        "0a110a046d7963631a01612a01313203010100" + "0a0a1a016220013203010100"
    )
    one = commit_hash(b"\0", encode(first), b"")
    assert one.hex() == "5fe02c366192c3617c5bbe4d1e7c087687fd84aef2922e7cf34db35cdfdb53ba"
    version = version_bytes(Version(2, 1))
    second = Updates(
        kvwrites=[
            KvWrite(namespace="mycc", key=b"a", value=b"2", version_bytes=version),
            KvWrite(
                collection="c1",
                key=sha256(b"k").digest(),
                value=sha256(b"v").digest(),
                version_bytes=version,
            ),
            KvWrite(
                namespace="zz",
                collection="c9",
                key=sha256(b"k2").digest(),
                is_delete=True,
                version_bytes=version,
            ),
        ]
    )
    two = commit_hash(b"\x0b\0", encode(second), one)
    assert two.hex() == "dc3be26cd36a14931271421eb570de84fa7ae21890b4535ea6fbb69b9a2480cf"
    three = commit_hash(b"\xff", b"", two)
    assert three.hex() == "83627a866966f211eabb760e1aedd285a1aab94dff5b2cf4373f40472e5f8330"


def test_a_real_chain(real_blocks: list[Block]) -> None:
    previous = b""
    for number, block in enumerate(real_blocks):
        assert block.header is not None
        assert block.data is not None
        assert (block.header.number, block.header.previous_hash) == (number, previous)
        assert data_hash(block.data) == block.header.data_hash
        check_well_formed(block)
        previous = header_hash(block.header)
    assert number == 19


def test_what_real_metadata_says(real_blocks: list[Block]) -> None:
    assert [is_config_block(block) for block in real_blocks] == [True] * 5 + [False] * 15
    assert [last_config_index(block) for block in real_blocks] == [0, 1, 2, 3, 4] + [4] * 15
    assert [len(commit_hash_of(block)) for block in real_blocks] == [0] + [32] * 19
    assert [len(metadata_of(block)) for block in real_blocks] == [5] * 20
    assert [flags_of(block) for block in real_blocks[1:]] == [b"\0"] * 19


def test_committing_records_verdicts_and_hash_and_leaves_the_rest() -> None:
    block = envelope_block(metadata=[b"signatures"])
    done = committed(block, b"\0\x0b", b"h" * 32)
    assert metadata_of(done) == [b"signatures", b"", b"\0\x0b", b"", b"\x0a\x20" + b"h" * 32]
    assert (flags_of(done), commit_hash_of(done)) == (b"\0\x0b", b"h" * 32)
    assert (done.header, done.data) == (block.header, block.data)
    assert metadata_of(block) == [b"signatures", b"", b"", b"", b""]
    assert metadata_of(committed(block, b"\0", b""))[4] == b""


def test_the_last_configuration_before_it_moved_into_the_signatures() -> None:
    value = encode(Metadata(value=encode(LastConfig(index=7))))
    assert last_config_index(envelope_block(metadata=[encode(Metadata()), value])) == 7
    newer = encode(Metadata(value=encode(OrdererBlockMetadata(last_config=LastConfig(index=9)))))
    assert last_config_index(envelope_block(metadata=[newer, value])) == 9


def envelope_block(*envelopes: bytes, metadata: list[bytes] | None = None) -> Block:
    data = BlockData(data=list(envelopes))
    return Block(
        header=BlockHeader(number=1, previous_hash=bytes(32), data_hash=data_hash(data)),
        data=data,
        metadata=BlockMetadata(metadata=metadata or []),
    )


GOOD = encode(Envelope(payload=b"payload", signature=b"signature"))


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (b"\xff", "transaction 1: "),
        (encode(Envelope(signature=b"signature")), "transaction 1 has no payload"),
        (encode(Envelope(payload=b"payload")), "transaction 1 has no signature"),
        (b"", "transaction 1 has no payload"),
        (GOOD[9:] + GOOD[:9], "transaction 1 is not encoded canonically"),  # fields swapped
        (GOOD[:1] + b"\x87\0" + GOOD[2:], "transaction 1 is not encoded canonically"),
    ],
)
def test_a_malformed_envelope_makes_the_block_refused(envelope: bytes, reason: str) -> None:
    check_well_formed(envelope_block(GOOD, GOOD))
    with pytest.raises(BlockError, match=f"^block 1 cannot be committed: {reason}"):
        check_well_formed(envelope_block(GOOD, envelope))


def test_other_blocks_that_are_refused() -> None:
    with pytest.raises(BlockError, match=r"^a block cannot be committed: it has no header$"):
        check_well_formed(Block(data=BlockData(data=[GOOD])))
    with pytest.raises(BlockError, match="no transaction"):
        check_well_formed(envelope_block())
    with pytest.raises(BlockError, match="no transaction"):
        check_well_formed(Block(header=BlockHeader()))
    changed = envelope_block(GOOD)
    changed.data = BlockData(data=[GOOD, GOOD])
    with pytest.raises(BlockError, match="does not cover its data"):
        check_well_formed(changed)


def test_a_configuration_is_alone_and_readable(real_blocks: list[Block]) -> None:
    assert real_blocks[1].data is not None
    [config] = real_blocks[1].data.data
    assert is_config_block(envelope_block(config))
    assert not is_config_block(envelope_block(config, config))
    assert not is_config_block(envelope_block(b"\xff"))
    assert not is_config_block(envelope_block(GOOD))
