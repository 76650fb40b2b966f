"""Read a signed proposal and check all that can be checked without running anything.

Room:      peer.endorser   (imports peer.msp; used by endorser)
Loop:      none; verifies one signature, about 0.1 ms
Lifetime:  one proposal
Fabric:    core/endorser/msgvalidation.go `UnpackProposal`, `Validate`,
           core/handlers/auth/filter/expiration.go (release-2.5)
"""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    ChaincodeHeaderExtension,
    ChaincodeInput,
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    ChannelHeader,
    Header,
    HeaderType,
    Proposal,
    SignatureHeader,
    SignedProposal,
)
from peer.errors import MembershipError, ProposalRefused
from peer.msp.identity import Identity, expiry_of

log = logging.getLogger("peer.endorser")

ACCEPTED_TYPES = (HeaderType.ENDORSER_TRANSACTION, HeaderType.CONFIG)


class Identities(Protocol):
    """The MSPs that decide who somebody is: a channel's, or the peer's own."""

    def deserialize(self, serialized: bytes) -> Identity:
        """
        Raises:
            IdentityRefused: the bytes are no identity of these MSPs.
        """
        ...

    def validate(self, identity: Identity) -> None:
        """
        Raises:
            IdentityRefused: it is not valid.
        """
        ...


class UnpackedProposal(NamedTuple):
    """A proposal, read down to the chaincode's input.

    Attributes:
        name: of the chaincode, as the header's extension has it.
        spec_name: of the chaincode, as the invocation has it; some system chaincodes compare.
        proposal_hash: what the endorsement refers to.
    """

    signed: SignedProposal
    channel_header: ChannelHeader
    signature_header: SignatureHeader
    name: str
    spec_name: str
    input: ChaincodeInput
    transient: dict[str, bytes]
    proposal_hash: bytes

    @property
    def channel_id(self) -> str:
        """The channel, empty for a call without one."""
        return self.channel_header.channel_id

    @property
    def tx_id(self) -> str:
        """The transaction's id, as the client computed it."""
        return self.channel_header.tx_id


def unpack(signed: SignedProposal) -> UnpackedProposal:
    """Read all levels of a signed proposal, once its creator's certificate turns out to hold.

    Raises:
        ProposalRefused: the certificate has ended, or a level cannot be read, or lacks what it must
            have.
    """
    try:
        proposal = Proposal.decode(signed.proposal_bytes)
        header = Header.decode(proposal.header)
        signature_header = SignatureHeader.decode(header.signature_header)
    except DecodeError as exc:
        raise ProposalRefused(f"failed parsing proposal: {exc}") from exc
    _check_expiry(signature_header.creator)
    try:
        channel_header = ChannelHeader.decode(header.channel_header)
        extension = ChaincodeHeaderExtension.decode(channel_header.extension)
        payload = ChaincodeProposalPayload.decode(proposal.payload)
        spec = ChaincodeInvocationSpec.decode(payload.input).chaincode_spec
    except DecodeError as exc:
        raise ProposalRefused(f"error unmarshalling proposal: {exc}") from exc
    if extension.chaincode_id is None:
        raise ProposalRefused("ChaincodeHeaderExtension.ChaincodeId is nil")
    if not extension.chaincode_id.name:
        raise ProposalRefused("ChaincodeHeaderExtension.ChaincodeId.Name is empty")
    if spec is None:
        raise ProposalRefused("chaincode invocation spec did not contain chaincode spec")
    if spec.input is None:
        raise ProposalRefused("chaincode input did not contain any input")
    return UnpackedProposal(
        signed=signed,
        channel_header=channel_header,
        signature_header=signature_header,
        name=extension.chaincode_id.name,
        spec_name=spec.chaincode_id.name if spec.chaincode_id is not None else "",
        input=spec.input,
        transient=payload.transient_map,
        proposal_hash=_proposal_hash(header, payload.input),
    )


def _proposal_hash(header: Header, chaincode_input: bytes) -> bytes:
    """Hash what was received: the two headers, then the payload without its transient map."""
    public = ChaincodeProposalPayload(input=chaincode_input).encode()
    return hashlib.sha256(header.channel_header + header.signature_header + public).digest()


def check(unpacked: UnpackedProposal, identities: Identities) -> Identity:
    """Check headers, transaction id, creator and signature, and return the creator.

    Raises:
        ProposalRefused: one of them is wrong.
    """
    channel, signature = unpacked.channel_header, unpacked.signature_header
    if channel.type not in ACCEPTED_TYPES:
        raise _invalid(f"invalid header type {channel.type}")
    if channel.epoch != 0:
        raise _invalid(f"epoch is non-zero: {channel.epoch}")
    if not signature.nonce:
        raise _invalid("nonce is empty")
    if not signature.creator:
        raise _invalid("creator is empty")
    expected = hashlib.sha256(signature.nonce + signature.creator).hexdigest()
    if channel.tx_id != expected:
        raise _invalid(f"incorrectly computed txid '{channel.tx_id}' -- expected '{expected}'")
    if not unpacked.signed.proposal_bytes:
        raise _invalid("empty proposal bytes")
    if not unpacked.signed.signature:
        raise _invalid("empty signature bytes")
    return _check_creator(unpacked, identities)


def _check_expiry(creator: bytes) -> None:
    """Look at the certificate alone, whoever issued it: no channel is known yet."""
    end = expiry_of(creator)
    if end is not None and end < datetime.now(UTC):
        raise ProposalRefused("proposal client identity expired")


def _check_creator(unpacked: UnpackedProposal, identities: Identities) -> Identity:
    denied = f"access denied: channel [{unpacked.channel_id}] creator org"
    try:
        creator = identities.deserialize(unpacked.signature_header.creator)
    except MembershipError as exc:
        log.warning("a creator is refused: %s", exc)
        raise _invalid(f"{denied} unknown, creator is malformed") from exc
    try:
        identities.validate(creator)
        creator.verify(unpacked.signed.proposal_bytes, unpacked.signed.signature)
    except MembershipError as exc:  # deliberately general: the log has it
        log.warning("the proposal of %s is refused: %s", creator, exc)
        raise _invalid(f"{denied} [{creator.msp_id}]") from exc
    return creator


def _invalid(reason: str) -> ProposalRefused:
    return ProposalRefused(f"error validating proposal: {reason}")
