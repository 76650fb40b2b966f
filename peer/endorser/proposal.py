"""Make signed proposals for calls that come through the library.

Room:      peer.endorser   (imports fabric_protos, msp; used by library)
Loop:      none
Fabric:    protoutil/proputils.go `CreateChaincodeProposalWithTxIDNonceAndTransient` (release-2.5)
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fabric_protos.stream import (
    ChaincodeHeaderExtension,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    ChaincodeSpec,
    ChannelHeader,
    Header,
    Proposal,
    SignatureHeader,
    SignedProposal,
    Timestamp,
)
from peer.msp.identity import SigningIdentity

CONFIG = 1
ENDORSER_TRANSACTION = 3
NONCE_BYTES = 24


class PreparedProposal(NamedTuple):
    """A proposal ready to be simulated."""

    tx_id: str
    timestamp: Timestamp
    signed: SignedProposal


def prepare_proposal(
    identity: SigningIdentity,
    channel_id: str,
    name: str,
    payload: ChaincodeInput,
    transient: Mapping[str, bytes],
    *,
    kind: int = ENDORSER_TRANSACTION,
) -> PreparedProposal:
    """Make and sign the proposal of one call; its transaction id is new.

    Args:
        kind: type in its header; that of a proposal to join a channel is `CONFIG`.
    """
    nonce = os.urandom(NONCE_BYTES)
    tx_id = hashlib.sha256(nonce + identity.creator).hexdigest()
    now = time.time_ns()
    timestamp = Timestamp(seconds=now // 10**9, nanos=now % 10**9)
    chaincode_id = ChaincodeId(name=name)
    channel_header = ChannelHeader(
        type=kind,
        timestamp=timestamp,
        channel_id=channel_id,
        tx_id=tx_id,
        extension=ChaincodeHeaderExtension(chaincode_id=chaincode_id).encode(),
    )
    header = Header(
        channel_header=channel_header.encode(),
        signature_header=SignatureHeader(creator=identity.creator, nonce=nonce).encode(),
    )
    spec = ChaincodeSpec(chaincode_id=chaincode_id, input=payload)
    proposal = Proposal(
        header=header.encode(),
        payload=ChaincodeProposalPayload(
            input=ChaincodeInvocationSpec(chaincode_spec=spec).encode(),
            transient_map=dict(transient),
        ).encode(),
    ).encode()
    signed = SignedProposal(proposal_bytes=proposal, signature=identity.sign(proposal))
    return PreparedProposal(tx_id, timestamp, signed)


def prepare_args(args: Sequence[bytes | str]) -> list[bytes]:
    """Return the arguments of a call as bytes, text as UTF-8."""
    return [arg.encode() if isinstance(arg, str) else bytes(arg) for arg in args]
