"""The private authority behind TLS between peer and chaincodes.

Room:      peer.chaincode   (imports cryptography; used by launcher, environment, parts, assembly)
Loop:      none
Lifetime:  peer: the authority exists in memory only, and a restart makes a new one
Fabric:    common/crypto/tlsgen (release-2.5)
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATED = timedelta(hours=24)
_LONG = timedelta(days=3650)
CLIENT_VALIDITY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, PEM. The key is PKCS#8 under its true label."""

    certificate: bytes
    key: bytes = field(repr=False)
    sha256: bytes = b""


class CertificateAuthority:
    """An ECDSA P-256 authority that issues for one peer's chaincode listener and its chaincodes."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(x509.random_serial_number())
        public = self._key.public_key()
        builder = (
            _builder(self._name, self._name, public, _LONG)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
                ),
                critical=False,
            )
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM)
        self._identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)

    def issue_server(self, *hosts: str) -> KeyPair:
        """Issue a certificate for a listener that is reached under these names or IP addresses."""
        return self._issue(ExtendedKeyUsageOID.SERVER_AUTH, _LONG, hosts)

    def issue_client(self, validity: timedelta = CLIENT_VALIDITY) -> KeyPair:
        """Issue the certificate of one launch."""
        return self._issue(ExtendedKeyUsageOID.CLIENT_AUTH, validity, ())

    def _issue(
        self, usage: x509.ObjectIdentifier, validity: timedelta, hosts: tuple[str, ...]
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(x509.random_serial_number())
        builder = (
            _builder(subject, self._name, key.public_key(), validity)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(self._identifier, critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return KeyPair(
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            sha256=hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest(),
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + validity)
    )


def _subject(serial: int) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, str(serial))])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
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
