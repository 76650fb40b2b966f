"""Certificates for tests, made with `cryptography`."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
OIDS = {
    "C": "2.5.4.6",
    "ST": "2.5.4.8",
    "L": "2.5.4.7",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "CN": "2.5.4.3",
    "SERIALNUMBER": "2.5.4.5",
    "STREET": "2.5.4.9",
    "POSTALCODE": "2.5.4.17",
    "DC": "0.9.2342.19200300.100.1.25",
}


def name(*attributes: tuple[str, str]) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(x509.ObjectIdentifier(OIDS[kind]), value) for kind, value in attributes]
    )


class Authority:
    """A certificate authority."""

    def __init__(self, subject: x509.Name | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = subject or name(("CN", "ca"))
        self.certificate = self._sign(self.name, self.key, [_CA])

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        subject: x509.Name | None = None,
        *,
        host: str = "",
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> tuple[bytes, bytes]:
        """Return key (PKCS#8) and certificate, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        added = list(extensions)
        if host:
            try:
                san: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                san = x509.DNSName(host)
            added.append(x509.SubjectAlternativeName([san]))
        certificate = self._sign(subject or name(("CN", "leaf")), key, added)
        return (
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            certificate.public_bytes(serialization.Encoding.PEM),
        )

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Sequence[x509.ExtensionType],
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())


_CA = x509.BasicConstraints(ca=True, path_length=None)


def mislabelled(key: bytes) -> bytes:
    """Label a PKCS#8 key as Fabric does since 1.2: ``EC PRIVATE KEY``."""
    return key.replace(b"PRIVATE KEY", b"EC PRIVATE KEY")
