"""Certificate authorities and organisations for tests, right or wrong in one way each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.x509.oid import NameOID

from fabric_protos.common import MspRoleMspRoleType as Role
from fabric_protos.msp import FabricMspConfig, FabricNodeOUs, FabricOuIdentifier
from fabric_protos.stream import SerializedIdentity
from peer.msp.identity import Identity, SigningIdentity
from peer.msp.manager import MspManager
from peer.msp.msp import Msp, MspVersion
from peer.msp.policies import SignedData
from peer.msp.signatures import ORDERS, PrivateKey, der_element

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
UNITS = {
    Role.CLIENT: "client",
    Role.PEER: "peer",
    Role.ADMIN: "admin",
    Role.ORDERER: "orderer",
}

AuthorityKey = PrivateKey | rsa.RSAPrivateKey


def name(common_name: str, units: Sequence[str] = ()) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def pem(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def digest_of(key: AuthorityKey) -> hashes.HashAlgorithm | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


class Authority:
    """A certificate authority: a root, or below another one."""

    def __init__(
        self,
        common_name: str = "ca",
        *,
        below: Authority | None = None,
        key: AuthorityKey | None = None,
        is_ca: bool = True,
        with_key_id: bool = True,
        path_length: int | None = None,
        begins: datetime = NOW - 100 * DAY,
        lasts: timedelta = 3650 * DAY,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = name(common_name)
        self.key_id = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        own: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=is_ca, path_length=path_length), True)
        ]
        if with_key_id:
            own.append((self.key_id, False))
        issuer = below or self
        self.certificate = issuer.sign(
            self.name, self.key, [*own, *extensions], begins=begins, lasts=lasts
        )

    @property
    def pem(self) -> bytes:
        return pem(self.certificate)

    def sign(
        self,
        subject: x509.Name,
        key: AuthorityKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        *,
        begins: datetime = NOW - DAY,
        lasts: timedelta = 30 * DAY,
        serial: int | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + lasts)
        )
        for value, is_critical in extensions:
            builder = builder.add_extension(value, critical=is_critical)
        # Half of ECDSA's signatures have the high S, which gives a certificate a second form.
        return with_s(builder.sign(self.key, digest_of(self.key)), self.key, high=False)

    def issue(
        self,
        units: Sequence[str] = (),
        *,
        msp_id: str = "Org1MSP",
        common_name: str = "someone",
        key: PrivateKey | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        begins: datetime = NOW - DAY,
        lasts: timedelta = 30 * DAY,
        serial: int | None = None,
    ) -> SigningIdentity:
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = name(common_name, units)
        certificate = self.sign(subject, key, extensions, begins=begins, lasts=lasts, serial=serial)
        return SigningIdentity(msp_id, certificate, key)

    def revoke(
        self,
        *serials: int,
        when: datetime = NOW,
        signer: AuthorityKey | None = None,
        with_authority: bool = True,
    ) -> x509.CertificateRevocationList:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(NOW - DAY)
            .next_update(NOW + DAY)
        )
        if with_authority:
            authority = x509.AuthorityKeyIdentifier(self.key_id.digest, None, None)
            builder = builder.add_extension(authority, critical=False)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
            builder = builder.add_revoked_certificate(revoked.build())
        key = signer or self.key
        return builder.sign(key, digest_of(key))


def with_s(certificate: x509.Certificate, key: AuthorityKey, *, high: bool) -> x509.Certificate:
    """Return the certificate with the higher or the lower S in its signature; *key* signed it."""
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return certificate
    order = ORDERS[key.curve.name]
    r, s = utils.decode_dss_signature(certificate.signature)
    if (s > order // 2) == high:
        return certificate
    signature = b"\0" + utils.encode_dss_signature(r, order - s)
    der = certificate.public_bytes(serialization.Encoding.DER)
    _, start, end = der_element(der, 0, len(der))
    _, _, body_end = der_element(der, start, end)
    _, _, algorithm_end = der_element(der, body_end, end)
    content = der[start:algorithm_end] + _element(3, signature)
    return x509.load_der_x509_certificate(_element(0x30, content))


def _element(tag: int, content: bytes) -> bytes:
    length = len(content).to_bytes(2).lstrip(b"\0")
    if len(content) >= 0x80:
        length = bytes([0x80 | len(length)]) + length
    return bytes([tag]) + length + content


def node_units(*roles: Role, certificate: bytes = b"") -> FabricNodeOUs:
    def unit(role: Role) -> FabricOuIdentifier | None:
        if role not in (roles or UNITS):
            return None
        return FabricOuIdentifier(
            organizational_unit_identifier=UNITS[role], certificate=certificate
        )

    return FabricNodeOUs(
        enable=True,
        client_ou_identifier=unit(Role.CLIENT),
        peer_ou_identifier=unit(Role.PEER),
        admin_ou_identifier=unit(Role.ADMIN),
        orderer_ou_identifier=unit(Role.ORDERER),
    )


class Organisation:
    """An organisation with one root authority and, unless told otherwise, node OUs."""

    def __init__(self, msp_id: str = "Org1MSP", root: Authority | None = None) -> None:
        self.msp_id = msp_id
        self.root = root or Authority(f"ca of {msp_id}")
        self.config = FabricMspConfig(
            name=msp_id, root_certs=[self.root.pem], fabric_node_ous=node_units()
        )

    def msp(self, version: MspVersion = MspVersion.V1_4_3) -> Msp:
        return Msp(self.config, version=version)

    def issue(self, *units: str, common_name: str = "someone") -> SigningIdentity:
        return self.root.issue(units, msp_id=self.msp_id, common_name=common_name)


def managed(*organisations: Organisation) -> MspManager:
    return MspManager(organisation.msp() for organisation in organisations)


def read(msp: Msp | MspManager, signer: SigningIdentity) -> Identity:
    return msp.deserialize(signer.creator)


def signed(signer: SigningIdentity, data: bytes = b"data") -> SignedData:
    return SignedData(data, signer.creator, signer.sign(data))


def serialized(msp_id: str, content: bytes) -> bytes:
    return SerializedIdentity(mspid=msp_id, id_bytes=content).encode()
