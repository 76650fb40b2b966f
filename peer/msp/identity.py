"""Identities: a certificate of an organisation, and the key that signs for one.

Room:      peer.msp   (imports cryptography, fabric_protos, errors)
Loop:      none; safe to use from several threads
Lifetime:  an `Identity` lives with its MSP, so one channel configuration
Fabric:    msp/identities.go (release-2.5)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fabric_protos.errors import DecodeError
from fabric_protos.stream import SerializedIdentity
from peer.msp import signatures
from peer.msp.authorities import Chain
from peer.msp.certificates import UNREADABLE, Certificate, CertificateProblem, decode_pem

HASHES = {"SHA256": "sha256", "SHA384": "sha384", "SHA3_256": "sha3_256", "SHA3_384": "sha3_384"}
"""Fabric's names of the hashes that may identify a certificate, and hashlib's."""
LONGEST_REMEMBERED = 1 << 13
"""Anybody may send identities; the longest whose expiry is kept for the next time, bytes."""


class Identity:
    """Someone's certificate, read by the MSP that its bytes name; made by `Msp.deserialize`.

    That an identity exists says that its certificate chains to the MSP, and no more.

    Attributes:
        msp_id: the MSP.
        serialized: ``msp.SerializedIdentity`` as received.
        certificate: the certificate as received.
        chain: the certificate, its issuer, and so on up to a root.
        identifier: MSP id and hex digest of the certificate in its one form; equal for every
            encoding of one certificate.
        units: organisational units of its subject, and with each the digest of the chain above it.
        verify: checks a signature over data, ``verify(data, signature)``; raises
            `SignatureRefused` where it is malformed, of the higher S, or not of this identity.
    """

    __slots__ = (
        "certificate",
        "chain",
        "identifier",
        "msp_id",
        "serialized",
        "units",
        "verify",
    )

    def __init__(
        self,
        msp_id: str,
        serialized: bytes,
        chain: Chain,
        *,
        verify: signatures.Verify,
        hash_name: str,
    ) -> None:
        certificate, *issuers = chain
        digest = hashlib.new(hash_name, certificate.der).hexdigest()
        certifiers = chain_digest(issuers, hash_name)
        self.msp_id = msp_id
        self.serialized = serialized
        self.certificate = certificate.received
        self.identifier = (msp_id, digest)
        self.units = tuple((unit, certifiers) for unit in certificate.units)
        self.verify = verify
        self.chain = chain

    def __repr__(self) -> str:
        return f"<Identity {self}>"

    def __str__(self) -> str:
        return f"{self.msp_id} {self.chain[0].name}"

    @property
    def expires_at(self) -> datetime:
        """When the certificate ends; nothing in this room looks at it."""
        return self.chain[0].not_after


def chain_digest(chain: Sequence[Certificate], hash_name: str) -> bytes:
    """Return Fabric's certifiers identifier of the authorities *chain*, lowest first."""
    digest = hashlib.new(hash_name)
    for certificate in chain:
        digest.update(certificate.der)
    return digest.digest()


def expiry_of(serialized: bytes) -> datetime | None:
    """Return when the certificate of an ``msp.SerializedIdentity`` ends, whoever issued it.

    None where there is no certificate; what that means is for an MSP to say.

    Source: `ExpiresAt`, common/crypto/expiration.go (release-2.5).
    """
    return (_expiry if len(serialized) > LONGEST_REMEMBERED else _remembered_expiry)(serialized)


def _expiry(serialized: bytes) -> datetime | None:
    try:
        pem = SerializedIdentity.decode(serialized).id_bytes
        return x509.load_der_x509_certificate(decode_pem(pem)).not_valid_after_utc
    except (DecodeError, CertificateProblem, *UNREADABLE):
        return None


_remembered_expiry = lru_cache(maxsize=256)(_expiry)


class SigningIdentity:
    """A key and the certificate others know it by.

    Attributes:
        msp_id: the MSP.
        certificate: the certificate.
        creator: marshalled ``msp.SerializedIdentity``.
    """

    def __init__(
        self, msp_id: str, certificate: x509.Certificate, key: signatures.PrivateKey
    ) -> None:
        self._sign = signatures.signer(key)
        self.msp_id = msp_id
        self.certificate = certificate
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
        """Return a signature over *data*: ECDSA over SHA-256 in DER with low S, or Ed25519."""
        return self._sign(data)
