"""Assemble a transaction from endorsements, for calls made in this program and for the Gateway.

Room:      peer.endorser   (imports peer.msp; used by client and gateway)
Loop:      none; signs once, about 0.05 ms
Lifetime:  one transaction
Fabric:    protoutil/txutils.go `CreateSignedTx` (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence

from fabric_protos.codec import encode
from fabric_protos.common import Envelope, Payload
from fabric_protos.common import Header as HeaderMessage
from fabric_protos.protos import (
    ChaincodeActionPayload,
    ChaincodeEndorsedAction,
    Endorsement,
    ProposalResponse,
    Response,
    Transaction,
    TransactionAction,
)
from fabric_protos.stream import ChaincodeProposalPayload, Header, Proposal, SignedProposal
from peer.endorser.endorser import ERROR_THRESHOLD
from peer.errors import EndorsementsDiffer
from peer.msp.identity import SigningIdentity

OK = 200


def signed_transaction(
    signed: SignedProposal, responses: Sequence[ProposalResponse], signer: SigningIdentity
) -> bytes:
    """Return the marshalled envelope of a transaction, ready for the ordering service.

    Raises:
        EndorsementsDiffer, DecodeError: as of `transaction_payload`.
    """
    payload = transaction_payload(signed, responses)
    return encode(Envelope(payload=payload, signature=signer.sign(payload)))


def transaction_payload(signed: SignedProposal, responses: Sequence[ProposalResponse]) -> bytes:
    """Return what the creator of a proposal signs to make a transaction of it.

    Args:
        responses: at least one; two of the same endorser count once.

    Raises:
        EndorsementsDiffer: a response is no success, or the endorsers do not agree on the result.
        DecodeError: the proposal cannot be read.
    """
    for response in responses:
        result = response.response or Response()
        if not OK <= result.status < ERROR_THRESHOLD:
            raise EndorsementsDiffer(
                f"proposal response was not successful, error code {result.status}, "
                f"msg {result.message}"
            )
    payloads = {response.payload for response in responses}
    if len(payloads) != 1:
        raise EndorsementsDiffer("ProposalResponsePayloads do not match")
    endorsements: dict[bytes, Endorsement] = {}
    for response in responses:
        if response.endorsement is not None:
            endorsements.setdefault(response.endorsement.endorser, response.endorsement)
    if not endorsements:
        raise EndorsementsDiffer("no response carries an endorsement")
    proposal = Proposal.decode(signed.proposal_bytes)
    header = Header.decode(proposal.header)
    public = ChaincodeProposalPayload(
        input=ChaincodeProposalPayload.decode(proposal.payload).input
    ).encode()
    action = ChaincodeActionPayload(
        chaincode_proposal_payload=public,
        action=ChaincodeEndorsedAction(
            proposal_response_payload=payloads.pop(), endorsements=list(endorsements.values())
        ),
    )
    transaction = Transaction(
        actions=[TransactionAction(header=header.signature_header, payload=encode(action))]
    )
    return encode(
        Payload(
            header=HeaderMessage(
                channel_header=header.channel_header, signature_header=header.signature_header
            ),
            data=encode(transaction),
        )
    )
