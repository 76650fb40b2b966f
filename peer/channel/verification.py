"""Block verification: a block follows the last one, and the ordering service signed it.

Room:      peer.channel   (imports fabric_protos, peer.errors, peer.ledger, peer.msp)
Loop:      none; verifies signatures, about 0.1 ms each
Lifetime:  none
Fabric:    internal/pkg/peer/blocksprovider, protoutil/blockutils.go (release-2.5, release-3.1)
"""

from __future__ import annotations

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockMetadataIndex,
    Envelope,
    IdentifierHeader,
    Metadata,
    MetadataSignature,
    Payload,
    SignatureHeader,
)
from fabric_protos.errors import DecodeError
from fabric_protos.msp import SerializedIdentity
from fabric_protos.stream import ChannelHeader
from peer.channel.bundle import Bundle
from peer.errors import BlockError, BlockRefused, PolicyError
from peer.ledger.blocks import (
    check_well_formed,
    envelopes_of,
    header_bytes,
    header_of,
    metadata_of,
)
from peer.msp.policies import SignedData

BLOCK_VALIDATION = "/Channel/Orderer/BlockValidation"


def verify_block(bundle: Bundle, block: Block, number: int, previous_hash: bytes) -> None:
    """Check a block that came from an ordering service, also from the one inside the peer.

    Args:
        bundle: the configuration before the block; a configuration block takes effect after it.
        number: the block's number, at least 1: nothing vouches for block 0.
        previous_hash: header hash of the block before.

    Raises:
        BlockRefused: the block is another one, damaged, or not signed as the channel asks.
    """
    try:
        _check_place(bundle.channel_id, block, number, previous_hash)
    except BlockError as exc:
        raise BlockRefused(bundle.channel_id, number, exc.reason) from exc
    except DecodeError as exc:
        raise BlockRefused(bundle.channel_id, number, str(exc)) from exc
    verify_signatures(bundle, block)


def verify_signatures(bundle: Bundle, block: Block) -> None:
    """Check an ordering service's signatures over a block's header, and no more.

    Raises:
        BlockRefused: the metadata is damaged, or its signatures do not satisfy the policy.
    """
    header = header_of(block)
    try:
        metadata = decode(Metadata, metadata_of(block)[BlockMetadataIndex.SIGNATURES])
        signatures = [
            _signed_data(bundle, metadata.value, signature, header_bytes(header))
            for signature in metadata.signatures
        ]
    except DecodeError as exc:
        reason = f"its signatures cannot be read: {exc}"
        raise BlockRefused(bundle.channel_id, header.number, reason) from exc
    try:
        bundle.policy(BLOCK_VALIDATION).evaluate(signatures)
    except PolicyError as exc:
        reason = f"policy {BLOCK_VALIDATION} is not satisfied: {exc}"
        raise BlockRefused(bundle.channel_id, header.number, reason) from exc


def _check_place(channel_id: str, block: Block, number: int, previous_hash: bytes) -> None:
    header = header_of(block)
    if header.number != number:
        raise BlockError(number, f"block {header.number} came in its place")
    check_well_formed(block)
    if header.previous_hash != previous_hash:
        raise BlockError(number, "its previous hash is not that of the last block")
    payload = decode(Payload, decode(Envelope, envelopes_of(block)[0]).payload)
    if payload.header is None:
        raise BlockError(number, "its first transaction has no header")
    found = ChannelHeader.decode(payload.header.channel_header).channel_id
    if found != channel_id:
        raise BlockError(number, f"it belongs to channel {found!r}")


def _signed_data(
    bundle: Bundle, value: bytes, signature: MetadataSignature, header: bytes
) -> SignedData:
    covered = signature.signature_header
    if not covered and signature.identifier_header and "V3_0" in bundle.capabilities:
        covered = signature.identifier_header
        identity = _consenter(bundle, decode(IdentifierHeader, covered).identifier)
    else:
        identity = decode(SignatureHeader, covered).creator
    return SignedData(value + covered + header, identity, signature.signature)


def _consenter(bundle: Bundle, number: int) -> bytes:
    """Return the identity of the consenter with that number; no bytes, and so nobody, if none."""
    for consenter in bundle.orderer.consenters if bundle.orderer else ():
        if consenter.id == number:
            return encode(SerializedIdentity(mspid=consenter.msp_id, id_bytes=consenter.identity))
    return b""
