"""The text form of signature policies: ``AND('Org1MSP.member', OR('Org2MSP.admin', …))``.

Room:      peer.msp
Loop:      none
Fabric:    common/policydsl/policyparser.go (release-2.5)
"""

from __future__ import annotations

from fabric_protos.common import SignaturePolicyEnvelope


def parse_policy(text: str) -> SignaturePolicyEnvelope:
    """
    Raises:
        PolicySyntaxError: *text* is no policy; carries the place.
    """
    raise NotImplementedError
