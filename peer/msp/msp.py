"""One organisation's membership rules.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration, or the peer for its own MSP
Fabric:    msp/mspimpl.go, msp/mspimplsetup.go, msp/mspimplvalidate.go (release-2.5)

What is found out about an identity is kept by its bytes, as the rules of an `Msp` never change.
Reasons are Fabric's own words where it has them; clients see them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

import betterproto2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fabric_protos.codec import DecodeError, decode
from fabric_protos.common import (
    CombinedPrincipal,
    MspIdentityAnonymity,
    MspPrincipal,
    MspRole,
    OrganizationUnit,
)
from fabric_protos.common import MspIdentityAnonymityMspIdentityAnonymityType as Anonymity
from fabric_protos.common import MspPrincipalClassification as Classification
from fabric_protos.common import MspRoleMspRoleType as Role
from fabric_protos.msp import FabricCryptoConfig, FabricMspConfig
from fabric_protos.stream import SerializedIdentity
from peer.errors import IdentityRefused, MspRefused, PrincipalNotSatisfied
from peer.msp import signatures
from peer.msp.authorities import Authorities
from peer.msp.certificates import Certificate, CertificateProblem, read_certificate
from peer.msp.identity import HASHES, Identity
from peer.msp.revocation import Revocations
from peer.msp.units import Units
from peer.msp.version import MspVersion as MspVersion

KEPT = 1024
LONGEST_KEPT = 16_384
_SIGNATURE_HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA2": hashes.SHA256(),
    "SHA3": hashes.SHA3_256(),
}

_ROLES_OF_UNITS = (Role.CLIENT, Role.PEER, Role.ORDERER)

M = TypeVar("M", bound=betterproto2.Message)


class _NotSatisfied(Exception):
    """Why an identity is not what a principal describes."""


class Msp:
    """What one ``FabricMSPConfig`` allows.

    Attributes:
        name: the MSP id.
        config: what it was made of.
        version: whose rules it keeps.

    Raises:
        MspRefused: the configuration breaks a rule.
    """

    def __init__(self, config: FabricMspConfig, *, version: MspVersion) -> None:
        self.name = config.name
        self.config = config
        self.version = version
        # Bounded, and safe to use from several threads at once.
        self._read = lru_cache(KEPT)(self._read_identity)
        self._invalidity = lru_cache(KEPT)(self._find_invalidity)
        self._refusal = lru_cache(4 * KEPT)(self._find_refusal)
        try:
            self._set_up(config)
        except CertificateProblem as exc:
            raise MspRefused(self.name, str(exc)) from exc
        self._check_administrators()

    def deserialize(self, serialized: bytes) -> Identity:
        """Read an ``msp.SerializedIdentity``; the same bytes give the same object.

        Raises:
            IdentityRefused: of another MSP, no certificate of this one, or its key has no use.
        """
        is_short = len(serialized) <= LONGEST_KEPT
        read = self._read(serialized) if is_short else self._read_identity(serialized)
        if isinstance(read, str):
            raise IdentityRefused(self.name, read)
        return read

    def validate(self, identity: Identity) -> None:
        """Check that *identity*, which this MSP read, is valid; its expiry does not matter.

        Raises:
            IdentityRefused: issued by the wrong authority, revoked, or of the wrong units.
        """
        if (reason := self._invalidity(identity)) is not None:
            raise IdentityRefused(self.name, reason)

    def satisfies(self, identity: Identity, principal: MspPrincipal) -> None:
        """Check that *identity*, which this MSP read, is what *principal* describes.

        Raises:
            PrincipalNotSatisfied: it is not, or is not valid.
        """
        if (reason := self.refusal(identity, principal)) is not None:
            raise PrincipalNotSatisfied(reason)

    def refusal(self, identity: Identity, principal: MspPrincipal) -> str | None:
        """Tell why *identity* does not satisfy *principal*; None if it does."""
        kind, content = principal.principal_classification, principal.principal
        if len(content) > LONGEST_KEPT:
            return self._find_refusal(identity, kind, content)
        return self._refusal(identity, kind, content)

    # Setting up

    def _set_up(self, config: FabricMspConfig) -> None:
        crypto = config.crypto_config or FabricCryptoConfig()
        hash_name = HASHES.get(crypto.identity_identifier_hash_function or "SHA256")
        signed = _SIGNATURE_HASHES.get(crypto.signature_hash_family or "SHA2")
        if hash_name is None or signed is None:
            raise CertificateProblem(
                f"hash family or function not recognized [{crypto.signature_hash_family}, "
                f"{crypto.identity_identifier_hash_function}]"
            )
        self._hash_name = hash_name
        self._signature_hash = signed
        if not config.root_certs:
            raise CertificateProblem("expected at least one CA certificate")
        self._authorities = Authorities(config.root_certs, config.intermediate_certs)
        self._revocations = Revocations(config.revocation_list)
        for each in (*self._authorities.roots, *self._authorities.intermediates):
            self._check_key(each)
            if each.constrains_names:
                raise CertificateProblem(f"name constraints are not supported: {each.name}")
        self._check_not_revoked(self._authorities)
        self._check_not_revoked(Authorities(config.tls_root_certs, config.tls_intermediate_certs))
        self._units = Units(config, self._authorities, self.version, self._hash_name)
        self._administrators = [self._identity(b"", pem) for pem in config.admins]
        self._administrator_ders = {each.chain[0].der for each in self._administrators}

    def _check_not_revoked(self, authorities: Authorities) -> None:
        for each in authorities.intermediates:
            chain = authorities.chain(each)
            if len(chain) > 1 and (problem := self._revocations.problem(each, chain[1])):
                raise CertificateProblem(f"CA Certificate is not valid: {each.name}: {problem}")

    def _check_administrators(self) -> None:
        if self.version >= MspVersion.V1_4_3 and not (
            self._administrators or self._units.has_role(Role.ADMIN)
        ):
            reason = "administrators must be declared when no admin ou classification is set"
            raise MspRefused(self.name, reason)
        for number, identity in enumerate(self._administrators):
            if (problem := self._administrator_problem(identity)) is not None:
                raise MspRefused(self.name, f"admin {number} is invalid: {problem}")

    def _administrator_problem(self, identity: Identity) -> str | None:
        if not self._units.enforced:
            return self._invalidity(identity)
        as_client = self._units.role_problem(identity, Role.CLIENT)
        if self.version < MspVersion.V1_4_3:
            return self._invalidity(identity) or as_client
        # Fabric asks for nothing but the unit here: not even whether it is revoked.
        if (problem := self._chain_problem(identity)) is not None:
            return problem
        as_admin = self._units.role_problem(identity, Role.ADMIN)
        return f"[{as_client},{as_admin}]" if as_client and as_admin else None

    # Reading

    def _read_identity(self, serialized: bytes) -> Identity | str:
        """Return the identity, or why there is none."""
        try:
            message = SerializedIdentity.decode(serialized)
        except DecodeError as exc:
            return f"could not deserialize a SerializedIdentity: {exc}"
        if message.mspid != self.name:
            return f"expected MSP ID {self.name}, received {message.mspid}"
        try:
            return self._identity(serialized, message.id_bytes)
        except CertificateProblem as exc:
            return str(exc)

    def _identity(self, serialized: bytes, pem: bytes) -> Identity:
        certificate = read_certificate(pem)
        self._check_key(certificate)
        key = certificate.key
        if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
            raise CertificateProblem("the key of an identity must be ECDSA")
        chain = self._authorities.chain(certificate)
        if len(chain) > 1:
            chain = (certificate.with_low_s(chain[1]), *chain[1:])
        return Identity(
            self.name,
            serialized,
            chain,
            verify=signatures.verifier(key, self._signature_hash),
            hash_name=self._hash_name,
        )

    def _check_key(self, certificate: Certificate) -> None:
        is_newer = isinstance(certificate.key, ed25519.Ed25519PublicKey)
        if is_newer and self.version < MspVersion.V3_0:
            raise CertificateProblem(
                f"Ed25519 keys need the channel capability V3_0: {certificate.name}"
            )

    # Validity

    def _find_invalidity(self, identity: Identity) -> str | None:
        if (problem := self._chain_problem(identity)) is not None:
            return f"could not obtain certification chain: {problem}"
        if (problem := self._revocations.problem(*identity.chain[:2])) is not None:
            return f"could not validate identity against certification chain: {problem}"
        if (problem := self._units.problem(identity)) is not None:
            return f"could not validate identity's OUs: {problem}"
        return None

    def _chain_problem(self, identity: Identity) -> str | None:
        if identity.chain[0].is_ca:
            return (
                "An X509 certificate with Basic Constraint: Certificate Authority equals true "
                "cannot be used as an identity"
            )
        if self._authorities.is_inner(identity.chain[1]):
            return (
                "invalid validation chain. Parent certificate should be a leaf of the "
                f"certification tree [{identity.chain[0].name}]"
            )
        return None

    # Principals

    def _find_refusal(self, identity: Identity, kind: int, content: bytes) -> str | None:
        try:
            for each_kind, each_content in self._parts(kind, content):
                self._check_principal(identity, each_kind, each_content)
        except _NotSatisfied as exc:
            return str(exc)
        except RecursionError:
            return "a CombinedPrincipal is nested too deep"
        return None

    def _parts(self, kind: int, content: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield what a principal combines, to any depth."""
        if kind != Classification.COMBINED:
            yield kind, content
            return
        if self.version < MspVersion.V1_3:
            raise _NotSatisfied(f"invalid principal type {kind}")
        combined = _decode(CombinedPrincipal, content).principals
        if not combined:
            raise _NotSatisfied("No principals in CombinedPrincipal")
        for part in combined:
            yield from self._parts(part.principal_classification, part.principal)

    def _check_principal(self, identity: Identity, kind: int, content: bytes) -> None:
        if kind == Classification.ROLE:
            role = _decode(MspRole, content)
            self._check_same_msp(identity, role.msp_identifier)
            self._check_role(identity, role.role)
        elif kind == Classification.ORGANIZATION_UNIT:
            self._check_unit(identity, _decode(OrganizationUnit, content))
        elif kind == Classification.IDENTITY:
            self._check_identity(identity, content)
        elif kind == Classification.ANONYMITY and self.version >= MspVersion.V1_3:
            if _decode(MspIdentityAnonymity, content).anonymity_type != Anonymity.NOMINAL:
                raise _NotSatisfied("X.509 MSP does not support anonymous identities")
        else:
            raise _NotSatisfied(f"invalid principal type {int(kind)}")

    def _check_same_msp(self, identity: Identity, msp_id: str) -> None:
        if msp_id != self.name:
            raise _NotSatisfied(
                f"the identity is a member of a different MSP "
                f"(expected {msp_id}, got {identity.msp_id})"
            )

    def _check_role(self, identity: Identity, role: Role) -> None:
        has_units = self._units.enforced and self.version >= MspVersion.V1_4_3
        if role == Role.MEMBER:
            self._check_valid(identity)
        elif role == Role.ADMIN:
            if identity.chain[0].der in self._administrator_ders:
                return
            if not has_units:
                raise _NotSatisfied("This identity is not an admin")
            self._check_has_role(identity, role, "an admin")
        elif role in (_ROLES_OF_UNITS if has_units else _ROLES_OF_UNITS[:2]):
            self._check_has_role(identity, role, f"a [{role.name}]")
        else:
            raise _NotSatisfied(f"invalid MSP role type {int(role)}")

    def _check_has_role(self, identity: Identity, role: Role, article: str) -> None:
        self._check_valid(identity, f"The identity is not valid under this MSP [{self.name}]: ")
        if (problem := self._units.role_problem(identity, role)) is not None:
            raise _NotSatisfied(
                f"The identity is not {article} under this MSP [{self.name}]: {problem}"
            )

    def _check_unit(self, identity: Identity, unit: OrganizationUnit) -> None:
        self._check_same_msp(identity, unit.msp_identifier)
        self._check_valid(identity)
        wanted = (unit.organizational_unit_identifier, unit.certifiers_identifier)
        if wanted not in identity.units:
            raise _NotSatisfied("The identities do not match")

    def _check_identity(self, identity: Identity, serialized: bytes) -> None:
        try:
            wanted = self.deserialize(serialized)
        except IdentityRefused as exc:
            raise _NotSatisfied(f"invalid identity principal, not a certificate: {exc}") from exc
        if wanted.identifier != identity.identifier:
            raise _NotSatisfied("The identities do not match")
        self._check_valid(wanted)

    def _check_valid(self, identity: Identity, prefix: str = "") -> None:
        if (problem := self._invalidity(identity)) is not None:
            raise _NotSatisfied(prefix + problem)


def _decode(cls: type[M], content: bytes) -> M:
    try:
        return decode(cls, content)
    except DecodeError as exc:
        raise _NotSatisfied(f"could not unmarshal {cls.__name__} from principal: {exc}") from exc
