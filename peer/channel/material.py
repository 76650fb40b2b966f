"""Keys and certificates of an organisation, in the files and places that cryptogen gives them.

Room:      peer.channel   (imports cryptography; used by network)
Loop:      none; about 0.5 ms a certificate
Lifetime:  none: everything is made in memory and returned
Fabric:    internal/cryptogen/{ca,csp,msp}, cmd/cryptogen/main.go (release-2.5)
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ADMIN = "Admin"
PRIVATE = frozenset({"priv_sk", "server.key", "client.key"})
"""Names of the files that nobody but their owner may read."""

_BACKDATED = timedelta(minutes=5)
_VALIDITY = timedelta(days=3650)
_BOTH_ENDS = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
)

Files = dict[str, bytes]
"""Content by path, relative to the organisation's directory."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its key, PEM; the key is PKCS#8."""

    certificate: bytes
    key: bytes = field(repr=False)


class Authority:
    """An ECDSA P-256 certificate authority of one organisation."""

    def __init__(self, name: str, organisation: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        public = self._key.public_key()
        identifier = x509.SubjectKeyIdentifier(_key_identifier(public))
        self._issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        certificate = (
            self._builder(self._name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(enciphers=True, certifies=True), critical=True)
            .add_extension(_BOTH_ENDS, critical=False)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.credentials = _credentials(certificate, self._key)

    @property
    def certificate(self) -> bytes:
        """Its own certificate, PEM."""
        return self.credentials.certificate

    def issue_identity(self, name: str, role: str) -> Credentials:
        """Issue what someone signs with; *role* is the organisational unit that says who he is."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        return self._issue(subject, [(_usage(enciphers=False, certifies=False), True)])

    def issue_tls(self, name: str, hosts: Sequence[str]) -> Credentials:
        """Issue a certificate for both ends of TLS, reachable under *hosts*, names or addresses."""
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (_usage(enciphers=True, certifies=False), True),
            (_BOTH_ENDS, False),
        ]
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            extensions.append((names, False))
        return self._issue(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), extensions)

    def _issue(
        self, subject: x509.Name, extensions: Iterable[tuple[x509.ExtensionType, bool]]
    ) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(subject, key.public_key()).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        builder = builder.add_extension(self._issuer, critical=False)
        return _credentials(builder.sign(self._key, hashes.SHA256()), key)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + _VALIDITY)
        )


def organisation_files(
    domain: str, role: str, nodes: Mapping[str, str], users: Sequence[str]
) -> Files:
    """Make an organisation: two authorities, its MSP, its nodes and users with all they need.

    Args:
        role: ``peer`` or ``orderer``, the organisational unit of its nodes.
        nodes: host names without the domain, each with the name or address of its machine.
        users: names before the ``@``; `ADMIN` is an administrator, others are clients.
    """
    authority = Authority(f"ca.{domain}", domain)
    tls_authority = Authority(f"tlsca.{domain}", domain)
    authorities = {
        f"cacerts/ca.{domain}-cert.pem": authority.certificate,
        f"tlscacerts/tlsca.{domain}-cert.pem": tls_authority.certificate,
    }
    msp = {**authorities, "config.yaml": _node_ous(f"cacerts/ca.{domain}-cert.pem")}
    files = {
        f"ca/ca.{domain}-cert.pem": authority.certificate,
        "ca/priv_sk": authority.credentials.key,
        f"tlsca/tlsca.{domain}-cert.pem": tls_authority.certificate,
        "tlsca/priv_sk": tls_authority.credentials.key,
        **_under("msp", msp),
    }

    def add(place: str, name: str, unit: str, end: str, hosts: Sequence[str]) -> None:
        signing = authority.issue_identity(name, unit)
        tls = tls_authority.issue_tls(name, hosts)
        keys = {f"signcerts/{name}-cert.pem": signing.certificate, "keystore/priv_sk": signing.key}
        files.update(_under(f"{place}/{name}/msp", {**msp, **keys}))
        files.update(
            {
                f"{place}/{name}/tls/ca.crt": tls_authority.certificate,
                f"{place}/{name}/tls/{end}.crt": tls.certificate,
                f"{place}/{name}/tls/{end}.key": tls.key,
            }
        )

    for node, machine in nodes.items():
        name = f"{node}.{domain}"
        hosts = dict.fromkeys((name, node, machine, "localhost", "127.0.0.1", "::1"))
        add(f"{role}s", name, role, "server", tuple(hosts))
    for user in users:
        add("users", f"{user}@{domain}", "admin" if user == ADMIN else "client", "client", ())
    return files


def _under(place: str, files: Mapping[str, bytes]) -> Files:
    return {f"{place}/{path}": content for path, content in files.items()}


def _node_ous(certificate: str) -> bytes:
    lines = ["NodeOUs:", "  Enable: true"]
    for role in ("client", "peer", "admin", "orderer"):
        lines += [
            f"  {role.capitalize()}OUIdentifier:",
            f"    Certificate: {certificate}",
            f"    OrganizationalUnitIdentifier: {role}",
        ]
    return "\n".join([*lines, ""]).encode()


def _credentials(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Credentials:
    return Credentials(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _key_identifier(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return Fabric's identifier of a key, which is not the usual SHA-1."""
    point = key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return hashlib.sha256(point).digest()


def _usage(*, enciphers: bool, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=enciphers,
        key_cert_sign=certifies,
        crl_sign=certifies,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
