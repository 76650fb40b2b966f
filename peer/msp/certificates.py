"""X.509 certificates, read once into what the rules of an MSP look at.

Room:      peer.msp
Loop:      none
Fabric:    msp/cert.go, msp/mspimpl.go `getCertFromPem` (release-2.5); Go's encoding/pem and
           crypto/x509
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from peer.msp.signatures import ORDERS, der_element, with_low_s

_NEWLINE = 0x0A
UNREADABLE = (
    TypeError,
    UnsupportedAlgorithm,
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNDERSTOOD = {
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
}
_SERVER_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


class CertificateProblem(Exception):
    """Why a certificate cannot be used; whoever asked makes it an error of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """A certificate.

    Attributes:
        received: it, as `cryptography` has it.
        key: its public key, of a kind that Go knows.
        der: it with a low S in its signature, so that a certificate has one form only.
        units: organisational units of its subject.
        may_sign: its key usage does not forbid to sign certificates.
        serves: its extended key usage allows a server; Go asks that of every chain.
        unknown_extension: object identifier of a critical extension nobody here understands.
        constrains_names: it holds name constraints.
    """

    received: x509.Certificate
    der: bytes
    subject: x509.Name
    issuer: x509.Name
    key: object
    units: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    is_ca: bool
    path_length: int | None
    subject_key_id: bytes | None
    may_sign: bool
    serves: bool
    unknown_extension: str
    constrains_names: bool

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return f"{self.subject.rfc4514_string()} (SN: {self.received.serial_number:x})"

    def is_issued_by(self, issuer: Certificate) -> bool:
        """Tell whether *issuer* is named as the issuer, may sign, and did."""
        if not (issuer.is_ca and issuer.may_sign) or self.issuer != issuer.subject:
            return False
        try:
            self.received.verify_directly_issued_by(issuer.received)
        except (InvalidSignature, TypeError, ValueError, UnsupportedAlgorithm):
            return False
        return True

    def with_low_s(self, issuer: Certificate) -> Certificate:
        """Return the certificate in its one form; *issuer* signed it."""
        if not isinstance(issuer.key, ec.EllipticCurvePublicKey):
            return self
        signature = with_low_s(self.received.signature, issuer.key.curve)
        if signature == self.received.signature:
            return self
        return replace(self, der=_with_signature(self.received, signature))


def decode_pem(data: bytes) -> bytes:
    """Return the content of the first PEM block that Go would read, whatever its label.

    Raises:
        CertificateProblem: there is none.
    """
    begin = end = -1
    while (begin := data.find(b"-----BEGIN ", begin + 1)) >= 0:
        if begin and data[begin - 1] != _NEWLINE:
            continue
        label, body = _line(data, begin + 11)
        if not label.endswith(b"-----"):
            continue
        sought = body - 1  # the end may follow at once, unless there are headers
        line, below = _line(data, body)
        while b":" in line:
            sought = body = below
            line, below = _line(data, body)
        if end < sought:
            end = data.find(b"\n-----END ", sought)
        if end < 0:
            break
        if _line(data, end + 10)[0] == label:
            try:
                return base64.b64decode(b"".join(data[body:end].split()), validate=True)
            except binascii.Error:
                continue
    raise CertificateProblem("could not decode the PEM structure")


def _line(data: bytes, start: int) -> tuple[bytes, int]:
    """Return the line at *start* without white space at its end, and where the next begins."""
    end = data.find(b"\n", start)
    end = len(data) if end < 0 else end
    return data[start:end].rstrip(b" \t\r"), end + 1


def read_certificate(pem: bytes) -> Certificate:
    """Read the certificate in the first PEM block.

    Raises:
        CertificateProblem: there is no block, or no certificate in it that Go would read.
    """
    try:
        certificate = x509.load_der_x509_certificate(decode_pem(pem))
        return _digest(certificate)
    except UNREADABLE as exc:
        raise CertificateProblem(f"failed to parse the certificate: {exc}") from exc


def _digest(certificate: x509.Certificate) -> Certificate:
    """Take out all that is needed, as parts are parsed, and may be malformed, when asked for."""
    _check_algorithms(certificate)
    der = certificate.public_bytes(serialization.Encoding.DER)
    if der[_parts(der).unused_bits]:  # for Go that is another signature; here, two forms of one
        raise ValueError("the signature has unused bits")
    if certificate.serial_number < 0:
        raise CertificateProblem("negative serial number")
    extensions = certificate.extensions
    constraints: x509.BasicConstraints | None = None
    key_usage: x509.KeyUsage | None = None
    usages: x509.ExtendedKeyUsage | None = None
    key_id: x509.SubjectKeyIdentifier | None = None
    unknown = ""
    constrains_names = False
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            constraints = value
        elif isinstance(value, x509.KeyUsage):
            key_usage = value
        elif isinstance(value, x509.ExtendedKeyUsage):
            usages = value
        elif isinstance(value, x509.SubjectKeyIdentifier):
            key_id = value
        elif isinstance(value, x509.NameConstraints):
            constrains_names = True
        elif extension.critical and extension.oid not in _UNDERSTOOD:
            unknown = extension.oid.dotted_string
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return Certificate(
        received=certificate,
        der=der,
        subject=certificate.subject,
        issuer=certificate.issuer,
        key=certificate.public_key(),
        units=tuple(str(unit.value) for unit in units),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=constraints is not None and constraints.ca,
        path_length=constraints.path_length if constraints is not None else None,
        subject_key_id=key_id.digest if key_id is not None else None,
        may_sign=key_usage is None or key_usage.key_cert_sign,
        serves=usages is None or not _SERVER_USAGES.isdisjoint(usages),
        unknown_extension=unknown,
        constrains_names=constrains_names,
    )


def _check_algorithms(certificate: x509.Certificate) -> None:
    """Refuse keys and signatures that Go's x509 does not know or trust."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in ORDERS:
            raise ValueError(f"unsupported elliptic curve {key.curve.name}")
    elif not isinstance(key, rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise ValueError("a key of an unsupported kind")
    algorithm = certificate.signature_hash_algorithm
    if algorithm is not None and not isinstance(algorithm, _HASHES):
        raise ValueError(f"signed with {algorithm.name}")


def _with_signature(certificate: x509.Certificate, signature: bytes) -> bytes:
    """Return the DER of *certificate* with another signature."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    parts = _parts(der)
    bits = b"\0" + signature
    content = der[parts.start : parts.signature] + b"\x03" + _der_length(len(bits)) + bits
    return b"\x30" + _der_length(len(content)) + content


class _Parts(NamedTuple):
    """Where the content of a certificate begins, its signature, and what tells of unused bits."""

    start: int
    signature: int
    unused_bits: int


def _parts(der: bytes) -> _Parts:
    _, start, end = der_element(der, 0, len(der))
    _, _, body_end = der_element(der, start, end)
    _, _, algorithm_end = der_element(der, body_end, end)
    _, bits, _ = der_element(der, algorithm_end, end)
    return _Parts(start, algorithm_end, bits)


def _der_length(length: int) -> bytes:
    if length < 0x80:
        return bytes([length])
    raw = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([0x80 | len(raw)]) + raw
