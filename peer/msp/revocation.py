"""Certificate revocation lists of an MSP.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one MSP
Fabric:    msp/mspimplvalidate.go `validateCertAgainstChain` (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from peer.msp.certificates import UNREADABLE, Certificate, CertificateProblem, decode_pem


class _List(NamedTuple):
    crl: x509.CertificateRevocationList
    serials: frozenset[int]
    authority_key_id: bytes | None
    has_authority: bool


class Revocations:
    """What the lists revoke, from the moment they are configured: their dates are not looked at.

    Raises:
        CertificateProblem: one of them is no revocation list.
    """

    def __init__(self, lists: Sequence[bytes]) -> None:
        self._lists = [_read(each) for each in lists]

    def problem(self, certificate: Certificate, issuer: Certificate) -> str | None:
        """Tell why *certificate* is not valid, if it is not."""
        for each in self._lists:
            if not each.has_authority:
                return "could not obtain Authority Key Identifier for crl: it has none"
            if (
                each.authority_key_id == issuer.subject_key_id
                and certificate.received.serial_number in each.serials
                and _is_signed_by(each.crl, issuer)
            ):
                return "The certificate has been revoked"
        return None


def _read(data: bytes) -> _List:
    try:
        der = decode_pem(data) if data.startswith(b"-----BEGIN ") else data
        crl = x509.load_der_x509_crl(der)
        authority = None
        for extension in crl.extensions:
            if isinstance(extension.value, x509.AuthorityKeyIdentifier):
                authority = extension.value
        serials = frozenset(revoked.serial_number for revoked in crl)
    except UNREADABLE as exc:
        raise CertificateProblem(f"could not parse RevocationList: {exc}") from exc
    return _List(
        crl, serials, authority.key_identifier if authority else None, authority is not None
    )


def _is_signed_by(crl: x509.CertificateRevocationList, issuer: Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.key)  # type: ignore[arg-type]  # of any kind
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False
