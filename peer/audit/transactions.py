"""Check what a transaction says of itself: its id, its creator, its proposal, its endorsements.

Room:      peer.audit   (imports fabric_protos, peer.msp, peer.validation; used by chain)
Loop:      none; verifies signatures, about 0.1 ms each
Lifetime:  one transaction
Fabric:    core/common/validation/msgvalidation.go (release-2.5)

The rules are those of validation, but each is asked by itself, so that one that is broken does not
hide another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from fabric_protos.codec import decode
from fabric_protos.common import Envelope, Payload
from fabric_protos.errors import DecodeError
from fabric_protos.protos import (
    ChaincodeActionPayload,
    ChaincodeEndorsedAction,
    ProposalResponsePayload,
    Transaction,
)
from fabric_protos.stream import ChannelHeader, HeaderType, SignatureHeader
from peer.audit.report import Check, Finding
from peer.channel.bundle import Bundle
from peer.errors import MembershipError
from peer.msp.manager import MspManager


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope whose headers can be read."""

    envelope: Envelope
    payload: Payload
    channel_header_bytes: bytes
    channel_header: ChannelHeader
    signature_header: SignatureHeader

    @property
    def type(self) -> str:
        """The name of its type, or the number of one without a name."""
        try:
            return HeaderType(self.channel_header.type).name
        except ValueError:
            return str(self.channel_header.type)


def open_envelope(data: bytes) -> Opened:
    """Read an envelope's headers.

    Raises:
        DecodeError: they cannot be read, or are missing.
    """
    envelope = decode(Envelope, data)
    payload = decode(Payload, envelope.payload)
    if payload.header is None:
        raise DecodeError("there is no header")
    return Opened(
        envelope,
        payload,
        payload.header.channel_header,
        ChannelHeader.decode(payload.header.channel_header),
        SignatureHeader.decode(payload.header.signature_header),
    )


def creator_problem(opened: Opened, bundle: Bundle) -> str:
    """Tell why an envelope is not signed by a member of the channel; empty if it is."""
    channel_id = opened.channel_header.channel_id
    if channel_id != bundle.channel_id:
        return f"it belongs to channel {channel_id!r}"
    envelope, creator = opened.envelope, opened.signature_header.creator
    return _signature_problem(bundle.msps, creator, envelope.payload, envelope.signature)


def examine(opened: Opened, bundle: Bundle | None) -> Iterator[Finding]:
    """Check an endorser transaction.

    Args:
        bundle: the configuration before its block; without one no signature is checked.
    """
    signer = opened.signature_header
    if bundle is not None:
        yield Finding(Check.CREATOR_SIGNATURE, creator_problem(opened, bundle))
    expected, found = (
        sha256(signer.nonce + signer.creator).hexdigest(),
        opened.channel_header.tx_id,
    )
    problem = "" if found == expected else f"{found!r} is not {expected}, as nonce and creator say"
    yield Finding(Check.TRANSACTION_ID, problem)
    try:
        transaction = decode(Transaction, opened.payload.data)
        for action in transaction.actions:
            payload = decode(ChaincodeActionPayload, action.payload)
            endorsed = payload.action or ChaincodeEndorsedAction()
            response = decode(ProposalResponsePayload, endorsed.proposal_response_payload)
            covered = (
                opened.channel_header_bytes + action.header + payload.chaincode_proposal_payload
            )
            yield Finding(Check.PROPOSAL_HASH, _proposal_problem(covered, response.proposal_hash))
            if bundle is not None:
                yield from _endorsements(endorsed, bundle.msps)
    except DecodeError as exc:
        yield Finding(Check.PROPOSAL_HASH, f"the transaction cannot be read: {exc}")


def _proposal_problem(covered: bytes, endorsed: bytes) -> str:
    digest = sha256(covered).digest()
    if digest == endorsed:
        return ""
    return f"it is {digest.hex()}, endorsed was {endorsed.hex() or 'none'}"


def _endorsements(action: ChaincodeEndorsedAction, msps: MspManager) -> Iterator[Finding]:
    for index, each in enumerate(action.endorsements):
        covered = action.proposal_response_payload + each.endorser
        problem = _signature_problem(msps, each.endorser, covered, each.signature)
        yield Finding(Check.ENDORSEMENT, problem and f"endorsement {index}: {problem}")


def _signature_problem(msps: MspManager, signer: bytes, data: bytes, signature: bytes) -> str:
    """Tell why a signature does not count, whatever a policy may ask for; empty if it does."""
    who = "its signer"
    try:
        identity = msps.deserialize(signer)
        who = str(identity)
        msps.validate(identity)
        identity.verify(data, signature)
    except MembershipError as exc:
        return f"{who}: {exc}"
    return ""
