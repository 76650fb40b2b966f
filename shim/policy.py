"""Endorsement policies of single keys.

Room:      shim   (imports fabric_protos.stream; loaded on use)
Loop:      none
Lifetime:  none
Fabric:    pkg/statebased (fabric-chaincode-go)
"""

from __future__ import annotations

from fabric_protos.stream import (
    MspPrincipal,
    MspPrincipalClassification,
    MspRole,
    MspRoleMspRoleType,
    SignaturePolicy,
    SignaturePolicyEnvelope,
    SignaturePolicyNOutOf,
)

ROLES = {"MEMBER": MspRoleMspRoleType.MEMBER, "PEER": MspRoleMspRoleType.PEER}


class KeyEndorsementPolicy:
    """The organisations that must all endorse a change of a key.

    Args:
        policy: marshalled ``SignaturePolicyEnvelope``, as a stub's ``get_…_validation_parameter``
            returns it. Its organisations are taken over, the structure of its rule is not.

    Raises:
        DecodeError: *policy* is no such envelope.
    """

    def __init__(self, policy: bytes | None = None) -> None:
        self._roles: dict[str, int] = {}
        for principal in SignaturePolicyEnvelope.decode(policy or b"").identities:
            if principal.principal_classification == MspPrincipalClassification.ROLE:
                role = MspRole.decode(principal.principal)
                self._roles[role.msp_identifier] = role.role

    def add_orgs(self, role: str, *msp_ids: str) -> None:
        """Demand an endorsement by ``MEMBER`` or ``PEER`` of each organisation.

        Raises:
            ValueError: there is no such role.
        """
        if role not in ROLES:
            raise ValueError(f"role type {role} does not exist")
        self._roles.update(dict.fromkeys(msp_ids, int(ROLES[role])))

    def del_orgs(self, *msp_ids: str) -> None:
        """Stop demanding these organisations; unknown ones are ignored."""
        for msp_id in msp_ids:
            self._roles.pop(msp_id, None)

    def list_orgs(self) -> list[str]:
        """Return the organisations, sorted."""
        return sorted(self._roles)

    def policy(self) -> bytes:
        """Marshal the policy; the same organisations give the same bytes on every endorser."""
        principals = [
            MspPrincipal(
                principal_classification=MspPrincipalClassification.ROLE,
                principal=MspRole(msp_identifier=msp_id, role=self._roles[msp_id]).encode(),
            )
            for msp_id in self.list_orgs()
        ]
        rules = [SignaturePolicy(signed_by=index) for index in range(len(principals))]
        rule = SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=len(rules), rules=rules))
        return SignaturePolicyEnvelope(rule=rule, identities=principals).encode()
