"""Organisational units: those an MSP demands, and those that tell roles apart.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one MSP
Fabric:    msp/mspimplsetup.go `setupOUs`, `setupNodeOUs`, msp/mspimplvalidate.go (release-2.5)
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from fabric_protos.common import MspRoleMspRoleType as Role
from fabric_protos.msp import FabricMspConfig, FabricNodeOUs, FabricOuIdentifier
from peer.msp.authorities import Authorities
from peer.msp.certificates import CertificateProblem, read_certificate
from peer.msp.identity import Identity, chain_digest
from peer.msp.version import MspVersion


class _NodeUnit(NamedTuple):
    name: str
    certifiers: bytes
    """Digest of the chain that must have issued it; empty for any."""


class Units:
    """What an MSP asks of the organisational units in a certificate's subject.

    Attributes:
        enforced: node OUs are on, so that each identity has exactly one role.

    Raises:
        CertificateProblem: a unit names a certificate that is no authority here, or node OUs lack
            a role that this version demands.
    """

    def __init__(
        self,
        config: FabricMspConfig,
        authorities: Authorities,
        version: MspVersion,
        hash_name: str,
    ) -> None:
        self._msp_id = config.name
        self._version = version
        self._authorities = authorities
        self._hash_name = hash_name
        self._allowed: defaultdict[str, set[bytes]] = defaultdict(set)
        for unit in config.organizational_unit_identifiers:
            certifiers = self._certifiers(unit.certificate)
            self._allowed[unit.organizational_unit_identifier].add(certifiers)
        self.enforced = False
        self._nodes: dict[Role, _NodeUnit] = {}
        if config.fabric_node_ous is not None and version >= MspVersion.V1_1:
            self._set_nodes(config.fabric_node_ous)

    def has_role(self, role: Role) -> bool:
        """Tell whether a node OU marks that role."""
        return self.enforced and role in self._nodes

    def problem(self, identity: Identity) -> str | None:
        """Tell why the units of *identity* make it invalid, if they do."""
        return self._node_problem(identity) if self.enforced else self._unit_problem(identity)

    def role_problem(self, identity: Identity, role: Role) -> str | None:
        """Tell why *identity*, whose units are valid, has not that role."""
        if not self.enforced:
            return "NodeOUs not activated. Cannot tell apart identities."
        node = self._nodes.get(role)
        if node is None:
            return (
                f"cannot test for classification, node ou for type [{role.name}], "
                f"not defined, msp: [{self._msp_id}]"
            )
        if any(name == node.name for name, _ in identity.units):
            return None
        return f"The identity does not contain OU [{role.name}], MSP: [{self._msp_id}]"

    def _set_nodes(self, nodes: FabricNodeOUs) -> None:
        units = {Role.CLIENT: nodes.client_ou_identifier, Role.PEER: nodes.peer_ou_identifier}
        if self._version < MspVersion.V1_4_3:
            for role, unit in units.items():
                if unit is None or not unit.organizational_unit_identifier:
                    raise CertificateProblem(f"node OUs need a unit for {role.name}")
        else:
            units[Role.ADMIN] = nodes.admin_ou_identifier
            units[Role.ORDERER] = nodes.orderer_ou_identifier
        self._nodes = {role: self._node(unit) for role, unit in units.items() if unit is not None}
        self.enforced = nodes.enable and bool(self._nodes)

    def _node(self, unit: FabricOuIdentifier) -> _NodeUnit:
        certifiers = self._certifiers(unit.certificate) if unit.certificate else b""
        return _NodeUnit(unit.organizational_unit_identifier, certifiers)

    def _certifiers(self, pem: bytes) -> bytes:
        """Return the digest of the chain from the authority in *pem* up."""
        authority = self._authorities.find(read_certificate(pem))
        if authority is None:
            raise CertificateProblem(
                "Failed adding OU. Certificate not in root or intermediate certs."
            )
        if authority in self._authorities.roots:
            return chain_digest([authority], self._hash_name)
        chain = self._authorities.chain(authority)
        if self._authorities.is_inner(authority):
            raise CertificateProblem(
                f"an OU needs an authority that issues identities, unlike {authority.name}"
            )
        return chain_digest(chain, self._hash_name)

    def _unit_problem(self, identity: Identity) -> str | None:
        if not self._allowed or any(
            certifiers in self._allowed.get(name, ()) for name, certifiers in identity.units
        ):
            return None
        if not identity.units:
            return "the identity certificate does not contain an Organizational Unit (OU)"
        units = self._described(identity)
        return f"none of the identity's organizational units {units} are in MSP {self._msp_id}"

    def _node_problem(self, identity: Identity) -> str | None:
        nodes = {node.name: node for node in self._nodes.values()}
        count = 0
        for name, certifiers in identity.units:
            if (node := nodes.get(name)) is not None:
                if node.certifiers and node.certifiers != certifiers:
                    units = self._described(identity)
                    return f"certifiersIdentifier does not match: {units}, MSP: [{self._msp_id}]"
                count += 1
        if count == 1:
            return None
        kinds = (
            "a client or a peer identity"
            if self._version < MspVersion.V1_4_3
            else "a client, a peer, an orderer or an admin identity"
        )
        return (
            f"the identity must be {kinds} to be valid, not a combination of them. "
            f"OUs: {self._described(identity)}, MSP: [{self._msp_id}]"
        )

    @staticmethod
    def _described(identity: Identity) -> str:
        units = (f"{name}({certifiers[:8].hex().upper()})" for name, certifiers in identity.units)
        return f"[{' '.join(units)}]"
