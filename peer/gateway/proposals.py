"""What a client asks to be run, read as far as the Gateway has to know it.

Room:      peer.gateway   (used by gateway)
Loop:      none
Lifetime:  one call
Fabric:    internal/pkg/gateway/{endorse,evaluate}.go (release-2.5)
"""

from __future__ import annotations

from typing import NamedTuple

from fabric_protos.errors import DecodeError
from fabric_protos.protos import SignedProposal as SignedProposalMessage
from fabric_protos.stream import (
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    ChannelHeader,
    Header,
    Proposal,
    SignedProposal,
)
from peer.errors import ProposalRefused


class Asked(NamedTuple):
    """A proposal that somebody else has signed; whether it is any good is for endorsers to say.

    Attributes:
        chaincode: the name in the invocation, which is the one the Gateway goes by.
    """

    signed: SignedProposal
    channel_id: str
    tx_id: str
    chaincode: str
    has_transient: bool


def read(proposed: SignedProposalMessage | None) -> Asked | None:
    """Read a proposal; None where there is none.

    Raises:
        ProposalRefused: it cannot be read.
    """
    if proposed is None or not proposed.proposal_bytes:
        return None
    try:
        proposal = Proposal.decode(proposed.proposal_bytes)
        channel = ChannelHeader.decode(Header.decode(proposal.header).channel_header)
        payload = ChaincodeProposalPayload.decode(proposal.payload)
        spec = ChaincodeInvocationSpec.decode(payload.input).chaincode_spec
    except DecodeError as exc:
        raise ProposalRefused(f"error unmarshalling proposal: {exc}") from exc
    chaincode_id = spec.chaincode_id if spec is not None else None
    return Asked(
        signed=SignedProposal(proposal_bytes=proposed.proposal_bytes, signature=proposed.signature),
        channel_id=channel.channel_id,
        tx_id=channel.tx_id,
        chaincode=chaincode_id.name if chaincode_id is not None else "",
        has_transient=bool(payload.transient_map),
    )


def check(asked: Asked | None) -> Asked:
    """Return a proposal that names its channel and its chaincode.

    Raises:
        ProposalRefused: it does not, or there is none.
    """
    if asked is None:
        raise ProposalRefused("a signed proposal is required")
    if not asked.channel_id:
        raise ProposalRefused("no channel id provided")
    if not asked.chaincode:
        raise ProposalRefused(f"no chaincode name is provided, channel id [{asked.channel_id}]")
    return asked
