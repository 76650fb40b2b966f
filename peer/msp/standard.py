"""Policies that need no text: any member of some organisations, everybody, nobody.

Room:      peer.msp
Loop:      none
Fabric:    common/policydsl/policydsl_builder.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterable

from fabric_protos.codec import encode
from fabric_protos.common import (
    MspPrincipal,
    MspPrincipalClassification,
    MspRole,
    MspRoleMspRoleType,
    SignaturePolicy,
    SignaturePolicyEnvelope,
    SignaturePolicyNOutOf,
)

Role = MspRoleMspRoleType


def role_principal(msp_id: str, role: Role) -> MspPrincipal:
    """Return the principal that is a role of an organisation."""
    return MspPrincipal(
        principal_classification=MspPrincipalClassification.ROLE,
        principal=encode(MspRole(msp_identifier=msp_id, role=role)),
    )


def signed_by_any(role: Role, msp_ids: Iterable[str]) -> SignaturePolicyEnvelope:
    """Return the policy that one signature with *role* in any of the organisations satisfies."""
    principals = [role_principal(msp_id, role) for msp_id in sorted(msp_ids)]
    rules = [SignaturePolicy(signed_by=number) for number in range(len(principals))]
    return _envelope(1, rules, principals)


def majority_of(role: Role, msp_ids: Iterable[str]) -> SignaturePolicyEnvelope:
    """Return the policy that signatures with *role* in most of the organisations satisfy."""
    principals = [role_principal(msp_id, role) for msp_id in sorted(msp_ids)]
    rules = [SignaturePolicy(signed_by=number) for number in range(len(principals))]
    return _envelope(len(principals) // 2 + 1, rules, principals)


def accept_all() -> SignaturePolicyEnvelope:
    """Return the policy that everything satisfies, even no signature."""
    return _envelope(0, [], [])


def reject_all() -> SignaturePolicyEnvelope:
    """Return the policy that nothing satisfies."""
    return _envelope(1, [], [])


def _envelope(
    n: int, rules: list[SignaturePolicy], principals: list[MspPrincipal]
) -> SignaturePolicyEnvelope:
    rule = SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=n, rules=rules))
    return SignaturePolicyEnvelope(rule=rule, identities=principals)
