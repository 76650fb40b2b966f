"""Turn the results of a simulation into an endorsement.

Room:      peer.endorser   (imports peer.msp; used by endorser)
Loop:      none; signs once, about 0.05 ms
Lifetime:  one proposal
Fabric:    core/handlers/endorsement/builtin/default_endorsement.go, protoutil/proputils.go
           (release-2.5)
"""

from __future__ import annotations

from fabric_protos.codec import encode
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeId,
    Endorsement,
    ProposalResponsePayload,
    Response,
)
from fabric_protos.stream import ChaincodeEvent
from fabric_protos.stream import Response as StreamResponse
from peer.msp.identity import SigningIdentity


def response_payload(
    proposal_hash: bytes,
    *,
    results: bytes,
    event: ChaincodeEvent | None,
    response: StreamResponse,
    name: str,
    version: str,
) -> bytes:
    """Return the marshalled ``ProposalResponsePayload``: what every endorser must agree on.

    Args:
        results: the public read-write sets, empty where nothing was simulated.
        name, version: of the chaincode's definition.
    """
    action = ChaincodeAction(
        results=results,
        events=event.encode() if event is not None else b"",
        response=message_of(response),
        chaincode_id=ChaincodeId(name=name, version=version),
    )
    return encode(ProposalResponsePayload(proposal_hash=proposal_hash, extension=encode(action)))


def endorse(payload: bytes, signer: SigningIdentity) -> Endorsement:
    """Sign a payload together with the endorser's identity."""
    return Endorsement(endorser=signer.creator, signature=signer.sign(payload + signer.creator))


def message_of(response: StreamResponse) -> Response:
    """Return a chaincode's response as the message that travels to clients."""
    return Response(status=response.status, message=response.message, payload=response.payload)
