"""Identities: a certificate of an organisation, and the key that signs for one.

Room:      peer.msp   (imports cryptography, fabric_protos, errors)
Loop:      none; safe to use from several threads
Fabric:    msp/identities.go, bccsp/sw/ecdsa.go (release-2.5)
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from fabric_protos.stream import SerializedIdentity

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Identity:
    """Someone's certificate, read by the MSP that its bytes name.

    Attributes:
        msp_id: the MSP.
        serialized: ``msp.SerializedIdentity`` as received.
        certificate: the certificate.
        identifier: MSP id and hex digest of the certificate; equal for every encoding of one.
    """

    msp_id: str
    serialized: bytes
    certificate: x509.Certificate
    identifier: tuple[str, str]

    def verify(self, data: bytes, signature: bytes) -> None:
        """
        Raises:
            SignatureRefused: malformed, of the high half of S, or not of this identity over *data*.
        """
        raise NotImplementedError


class SigningIdentity:
    """A key and the certificate others know it by.

    Attributes:
        creator: marshalled ``msp.SerializedIdentity``.
    """

    def __init__(
        self, msp_id: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        self._key = key
        self.creator = SerializedIdentity(
            mspid=msp_id, id_bytes=certificate.public_bytes(serialization.Encoding.PEM)
        ).encode()

    @classmethod
    def self_signed(cls, msp_id: str) -> SigningIdentity:
        """Make an identity for calls that come from this process and not over the network."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "client"),
                x509.NameAttribute(NameOID.COMMON_NAME, "embedded"),
            ]
        )
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=3650))
            .sign(key, hashes.SHA256())
        )
        return cls(msp_id, certificate, key)

    def sign(self, data: bytes) -> bytes:
        """Return an ECDSA signature over SHA-256, DER, with the low S that Fabric demands."""
        signature = self._key.sign(data, ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(signature)
        if s > _P256_ORDER // 2:
            signature = utils.encode_dss_signature(r, _P256_ORDER - s)
        return signature
