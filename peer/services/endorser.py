"""``protos.Endorser``: proposals in, endorsements out.

Room:      peer.services   (imports peer.endorser; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    `Endorser.ProcessProposal`, core/endorser/endorser.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence

from fabric_protos.codec import encode
from fabric_protos.protos import ProposalResponse
from fabric_protos.stream import SignedProposal
from peer.endorser.endorser import Endorser
from peer.errors import CallRefused, Code, ProposalRefused
from peer.services.api import Caller, Method, Unary


def methods(endorser: Endorser) -> Sequence[Method]:
    """Return the methods of the service.

    A proposal that is not taken is a gRPC error, UNKNOWN as in Fabric; one that is taken and comes
    to nothing is answered with a status of 400 or more.
    """

    async def process_proposal(signed: SignedProposal, _: Caller) -> ProposalResponse:
        try:
            return await endorser.process_proposal(signed)
        except ProposalRefused as exc:
            raise CallRefused(Code.UNKNOWN, str(exc)) from exc

    path = "/protos.Endorser/ProcessProposal"
    return [Unary(path=path, decode=SignedProposal.decode, call=process_proposal, encode=encode)]
