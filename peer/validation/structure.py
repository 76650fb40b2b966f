"""Read a transaction and check that it is one, by whom it claims to be.

Room:      peer.validation   (imports peer.msp; used by validator)
Loop:      none; verifies one signature, about 0.1 ms
Lifetime:  one transaction
Fabric:    core/common/validation/msgvalidation.go (release-2.5)
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, TypeVar

import betterproto2

from fabric_protos.codec import decode
from fabric_protos.common import Envelope, Payload
from fabric_protos.errors import DecodeError
from fabric_protos.protos import (
    ChaincodeActionPayload,
    Endorsement,
    ProposalResponsePayload,
    Transaction,
)
from fabric_protos.stream import ChannelHeader, HeaderType, SignatureHeader
from peer.errors import MembershipError
from peer.ledger.api import ValidationCode
from peer.msp.manager import MspManager
from peer.validation.verdict import Invalid

M = TypeVar("M", bound=betterproto2.Message)

ACCEPTED_TYPES = (
    HeaderType.ENDORSER_TRANSACTION,
    HeaderType.CONFIG_UPDATE,
    HeaderType.CONFIG,
)


class Signed(NamedTuple):
    """An envelope whose creator has signed it.

    Attributes:
        data: what it carries, by the type of its header.
    """

    envelope: Envelope
    channel_header: ChannelHeader
    signature_header: SignatureHeader
    header_bytes: tuple[bytes, bytes]
    data: bytes


class EndorserTransaction(NamedTuple):
    """A transaction that was endorsed.

    Attributes:
        proposal_payload: marshalled ``ChaincodeProposalPayload``, without transient data.
        response_payload: what the endorsers signed, marshalled.
        extension: the same's ``ChaincodeAction``, marshalled.
    """

    signed: Signed
    proposal_payload: bytes
    response_payload: bytes
    extension: bytes
    endorsements: list[Endorsement]

    @property
    def tx_id(self) -> str:
        """The transaction's id."""
        return self.signed.channel_header.tx_id


def read_signed(data: bytes, msps: MspManager, channel_id: str) -> Signed:
    """Read an envelope and check its headers and signature.

    Raises:
        Invalid: it is none, or not by whom it claims to be.
    """
    envelope = _read(Envelope, data, ValidationCode.INVALID_OTHER_REASON)
    payload = _read(Payload, envelope.payload, ValidationCode.BAD_PAYLOAD)
    if payload.header is None:
        raise Invalid(ValidationCode.BAD_COMMON_HEADER, "there is no header")
    parts = (payload.header.channel_header, payload.header.signature_header)
    try:
        channel_header = ChannelHeader.decode(parts[0])
        signature_header = SignatureHeader.decode(parts[1])
    except DecodeError as exc:
        raise Invalid(ValidationCode.BAD_COMMON_HEADER, str(exc)) from exc
    signed = Signed(
        envelope=envelope,
        channel_header=channel_header,
        signature_header=signature_header,
        header_bytes=parts,
        data=payload.data,
    )
    _check_headers(signed)
    _check_creator(signed, msps, channel_id)
    return signed


def read_transaction(signed: Signed) -> EndorserTransaction:
    """Read what an endorser transaction carries, and check that it belongs to its headers.

    Raises:
        Invalid: it does not.
    """
    header = signed.signature_header
    expected = hashlib.sha256(header.nonce + header.creator).hexdigest()
    if signed.channel_header.tx_id != expected:
        raise Invalid(ValidationCode.BAD_PROPOSAL_TXID, f"the id is not {expected}")
    code = ValidationCode.INVALID_ENDORSER_TRANSACTION
    actions = _read(Transaction, signed.data, code).actions
    if len(actions) != 1:
        raise Invalid(code, f"{len(actions)} actions, only one is supported")
    [action] = actions
    if action.header != signed.header_bytes[1]:  # which has been checked
        _check_action_header(action.header)
    payload = _read(ChaincodeActionPayload, action.payload, code)
    if payload.action is None:
        raise Invalid(code, "there is no action")
    response = _read(ProposalResponsePayload, payload.action.proposal_response_payload, code)
    proposal = signed.header_bytes[0] + action.header + payload.chaincode_proposal_payload
    if hashlib.sha256(proposal).digest() != response.proposal_hash:
        raise Invalid(code, "proposal hash does not match")
    return EndorserTransaction(
        signed=signed,
        proposal_payload=payload.chaincode_proposal_payload,
        response_payload=payload.action.proposal_response_payload,
        extension=response.extension,
        endorsements=payload.action.endorsements,
    )


def _check_action_header(data: bytes) -> None:
    code = ValidationCode.INVALID_ENDORSER_TRANSACTION
    try:
        header = SignatureHeader.decode(data)
    except DecodeError as exc:
        raise Invalid(code, f"the action's header cannot be read: {exc}") from exc
    if not header.nonce or not header.creator:
        raise Invalid(code, "the action's header lacks nonce or creator")


def _check_headers(signed: Signed) -> None:
    channel, signature = signed.channel_header, signed.signature_header
    problem = ""
    if channel.type not in ACCEPTED_TYPES:
        problem = f"invalid header type {channel.type}"
    elif channel.epoch != 0:
        problem = f"epoch {channel.epoch} is not 0"
    elif not signature.nonce or not signature.creator:
        problem = "nonce or creator is empty"
    if problem:
        raise Invalid(ValidationCode.BAD_COMMON_HEADER, problem)


def _check_creator(signed: Signed, msps: MspManager, channel_id: str) -> None:
    code = ValidationCode.BAD_CREATOR_SIGNATURE
    if signed.channel_header.channel_id != channel_id:
        raise Invalid(code, f"a transaction of channel {signed.channel_header.channel_id!r}")
    try:
        creator = msps.deserialize(signed.signature_header.creator)
        msps.validate(creator)
        creator.verify(signed.envelope.payload, signed.envelope.signature)
    except MembershipError as exc:
        raise Invalid(code, str(exc)) from exc


def _read(cls: type[M], data: bytes, code: ValidationCode) -> M:
    try:
        return decode(cls, data)
    except DecodeError as exc:
        raise Invalid(code, str(exc)) from exc
