"""Make and sign blocks.

Room:      peer.ordering   (imports peer.ledger.blocks, peer.msp; used by solo)
Loop:      none; signs once, about 0.05 ms
Lifetime:  channel
Fabric:    orderer/common/multichannel/blockwriter.go (release-2.5)
"""

from __future__ import annotations

import os

from fabric_protos.codec import encode
from fabric_protos.common import (
    Block,
    BlockData,
    BlockHeader,
    BlockMetadata,
    BlockMetadataIndex,
    LastConfig,
    Metadata,
    MetadataSignature,
    OrdererBlockMetadata,
)
from fabric_protos.stream import SignatureHeader
from peer.ledger.blocks import data_hash, header_bytes, header_hash, header_of, last_config_index
from peer.msp.identity import SigningIdentity
from peer.ordering.blockcutter import Batch

NONCE_BYTES = 24


class BlockWriter:
    """Makes the blocks that follow one another in a channel.

    Args:
        last: the block to continue after.

    Raises:
        DecodeError: its metadata is damaged.
    """

    def __init__(self, signer: SigningIdentity, last: Block) -> None:
        self._signer = signer
        self._header = header_of(last)
        self._last_config = last_config_index(last)

    def next_block(self, batch: Batch, *, is_config: bool = False) -> Block:
        """Return the next block; calling again without `written` gives another in its place."""
        data = BlockData(data=batch)
        header = BlockHeader(
            number=self._header.number + 1,
            previous_hash=header_hash(self._header),
            data_hash=data_hash(data),
        )
        last_config = LastConfig(index=header.number if is_config else self._last_config)
        entries = [b""] * len(BlockMetadataIndex)
        entries[BlockMetadataIndex.SIGNATURES] = self._signed(header, last_config)
        entries[BlockMetadataIndex.LAST_CONFIG] = encode(Metadata(value=encode(last_config)))
        return Block(header=header, data=data, metadata=BlockMetadata(metadata=entries))

    def written(self, block: Block) -> None:
        """Continue after a block that has been stored."""
        self._header = header_of(block)
        self._last_config = last_config_index(block)

    def _signed(self, header: BlockHeader, last_config: LastConfig) -> bytes:
        value = encode(OrdererBlockMetadata(last_config=last_config))
        signed_by = SignatureHeader(
            creator=self._signer.creator, nonce=os.urandom(NONCE_BYTES)
        ).encode()
        signature = self._signer.sign(value + signed_by + header_bytes(header))
        signatures = [MetadataSignature(signature_header=signed_by, signature=signature)]
        return encode(Metadata(value=value, signatures=signatures))
