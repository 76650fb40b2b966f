"""Hashes, metadata and form of a block.

Room:      peer.ledger   (imports fabric_protos; used by whoever makes or checks blocks)
Loop:      none
Lifetime:  none
Fabric:    protoutil/blockutils.go, core/ledger/kvledger/kv_ledger.go (release-2.5)

A block is a ``common.Block``. Its header covers the data; the metadata is outside every block hash,
and what peers decided about a block is in its metadata: one verdict for each transaction, and the
commit hash, which chains verdicts and state changes from block to block.
"""

from __future__ import annotations

from hashlib import sha256

from fabric_protos.codec import DecodeError, decode, encode
from fabric_protos.common import (
    Block,
    BlockData,
    BlockHeader,
    BlockMetadata,
    BlockMetadataIndex,
    Envelope,
    LastConfig,
    Metadata,
    OrdererBlockMetadata,
    Payload,
)
from fabric_protos.stream import ChannelHeader, HeaderType
from fabric_protos.wire import varint_bytes
from peer.errors import BlockError
from peer.ledger.api import Version

CONFIG_TYPES = (HeaderType.CONFIG, HeaderType.ORDERER_TRANSACTION)


def header_bytes(header: BlockHeader) -> bytes:
    """Return what a block hash and an orderer's signature cover: the header in ASN.1 DER."""
    number = header.number.to_bytes(header.number.bit_length() // 8 + 1, "big")  # signed
    content = _der(0x02, number) + _der(0x04, header.previous_hash) + _der(0x04, header.data_hash)
    return _der(0x30, content)


def header_hash(header: BlockHeader) -> bytes:
    """Return the hash of a block, which its successor refers to."""
    return sha256(header_bytes(header)).digest()


def data_hash(data: BlockData) -> bytes:
    """Return the hash of a block's transactions."""
    digest = sha256()
    for envelope in data.data:
        digest.update(envelope)
    return digest.digest()


def commit_hash(flags: bytes, updates: bytes, previous: bytes) -> bytes:
    """Return the commit hash of a block.

    Args:
        flags: the final verdicts, one byte for each transaction.
        updates: what the block changes in public state and hashed collections, an ``Updates``.
        previous: commit hash of the block before, empty where it has none.
    """
    return sha256(varint_bytes(len(flags)) + flags + updates + previous).digest()


def version_bytes(version: Version) -> bytes:
    """Return a version so that the order of the bytes is that of the heights."""
    return b"".join(map(_ordered, version))


def read_version(data: bytes) -> Version:
    """Return the version that `version_bytes` made bytes of.

    Raises:
        DecodeError: it made none of these.
    """
    numbers, at = [], 0
    while at < len(data):
        end = at + 1 + data[at]
        numbers.append(int.from_bytes(data[at + 1 : end], "big"))
        at = end
    if len(numbers) != 2 or version_bytes(Version(*numbers)) != data:
        raise DecodeError(f"{data.hex()} is no version")
    return Version(*numbers)


def header_of(block: Block) -> BlockHeader:
    """Return a block's header.

    Raises:
        BlockError: it has none.
    """
    if block.header is None:
        raise BlockError(None, "it has no header")
    return block.header


def envelopes_of(block: Block) -> list[bytes]:
    """Return a block's transactions as they were received."""
    return [] if block.data is None else block.data.data


def metadata_of(block: Block) -> list[bytes]:
    """Return a copy of a block's metadata, with an empty entry for each that is missing."""
    entries = [] if block.metadata is None else list(block.metadata.metadata)
    return entries + [b""] * (len(BlockMetadataIndex) - len(entries))


def flags_of(block: Block) -> bytes:
    """Return the recorded verdicts, empty before a peer committed the block."""
    return metadata_of(block)[BlockMetadataIndex.TRANSACTIONS_FILTER]


def commit_hash_of(block: Block) -> bytes:
    """Return the recorded commit hash, empty where there is none.

    Raises:
        DecodeError: the entry is no ``Metadata``.
    """
    return decode(Metadata, metadata_of(block)[BlockMetadataIndex.COMMIT_HASH]).value


def committed(block: Block, flags: bytes, digest: bytes) -> Block:
    """Return a block with its verdicts and commit hash recorded; header and data are shared."""
    entries = metadata_of(block)
    entries[BlockMetadataIndex.TRANSACTIONS_FILTER] = flags
    entries[BlockMetadataIndex.COMMIT_HASH] = encode(Metadata(value=digest)) if digest else b""
    return Block(header=block.header, data=block.data, metadata=BlockMetadata(metadata=entries))


def last_config_index(block: Block) -> int:
    """Return the number of the configuration block that held when a block was made.

    Raises:
        DecodeError: the metadata that tells is damaged.
    """
    entries = metadata_of(block)
    signed = decode(Metadata, entries[BlockMetadataIndex.SIGNATURES]).value
    if signed:
        last = decode(OrdererBlockMetadata, signed).last_config
    else:
        last = decode(LastConfig, decode(Metadata, entries[BlockMetadataIndex.LAST_CONFIG]).value)
    return 0 if last is None else last.index


def is_config_block(block: Block) -> bool:
    """Tell whether a block holds exactly one transaction, and that a configuration."""
    match envelopes_of(block):
        case [envelope]:
            try:
                header = decode(Payload, decode(Envelope, envelope).payload).header
                return (
                    header is not None
                    and ChannelHeader.decode(header.channel_header).type in CONFIG_TYPES
                )
            except DecodeError:
                return False
        case _:
            return False


def check_well_formed(block: Block) -> None:
    """Check the form of a block received from elsewhere, before anything is read from it.

    Raises:
        BlockError: no header or no transaction; the header does not cover the data; or, except
            in a configuration block, a transaction is no envelope in its canonical encoding with
            payload and signature.
    """
    header = header_of(block)
    if block.data is None or not block.data.data:
        raise BlockError(header.number, "it has no transaction")
    if data_hash(block.data) != header.data_hash:
        raise BlockError(header.number, "its header does not cover its data")
    if is_config_block(block):
        return
    for index, data in enumerate(block.data.data):
        try:
            envelope = decode(Envelope, data)
        except DecodeError as exc:
            raise BlockError(header.number, f"transaction {index}: {exc}") from exc
        if not envelope.payload or not envelope.signature:
            missing = "signature" if envelope.payload else "payload"
            raise BlockError(header.number, f"transaction {index} has no {missing}")
        if encode(envelope) != data:
            raise BlockError(header.number, f"transaction {index} is not encoded canonically")


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _ordered(number: int) -> bytes:
    size = (number.bit_length() + 7) // 8
    return bytes((size,)) + number.to_bytes(size, "big")
