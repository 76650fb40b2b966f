"""Signatures as Fabric makes and accepts them: low S, and Go's reading of DER.

Room:      peer.msp
Loop:      none; safe to use from several threads
Fabric:    bccsp/sw/ecdsa.go, bccsp/utils/ecdsa.go (release-2.5)

Whether a signature counts decides validation codes, so it must be decided as Go decides it: its
``encoding/asn1`` insists on minimal lengths and integers but ignores what follows the second
integer and what follows the sequence.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from peer.errors import SignatureRefused

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Verify = Callable[[bytes, bytes], None]

ORDERS = {
    "secp224r1": 2**224 - 0xE95D1F470FC1EC22D6BAA3A3D5C3,
    "secp256r1": 2**256 - 2**224 + 2**192 - 0x4319055258E8617B0C46353D039CDAAF,
    "secp384r1": 2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D,
    "secp521r1": 2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
}
"""Order of the group, for the curves that an identity's key may lie on."""

_SEQUENCE = 0x30
_INTEGER = 0x02
_MAX_LENGTH = 1 << 23


def verifier(key: PublicKey, hash_algorithm: hashes.HashAlgorithm) -> Verify:
    """Return what checks a signature of *key* over data, and raises `SignatureRefused`.

    The hash is not used for Ed25519, which signs the data itself. The curve must be of `ORDERS`.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _ed25519_verifier(key)
    algorithm = ec.ECDSA(hash_algorithm)
    largest = ORDERS[key.curve.name] // 2
    verify_ecdsa = key.verify
    decode = utils.decode_dss_signature

    def verify(data: bytes, signature: bytes) -> None:
        try:
            r, s = decode(signature)
        except ValueError:
            r, s = _decode_as_go(signature)
            signature = utils.encode_dss_signature(r, s)
        if s > largest:
            raise SignatureRefused("invalid S: must be smaller than half the order of the curve")
        try:
            verify_ecdsa(signature, data, algorithm)
        except InvalidSignature:
            raise SignatureRefused("The signature is invalid") from None

    return verify


def _ed25519_verifier(key: ed25519.Ed25519PublicKey) -> Verify:
    def verify(data: bytes, signature: bytes) -> None:
        try:
            key.verify(signature, data)
        except InvalidSignature:
            raise SignatureRefused("The signature is invalid") from None

    return verify


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Sign with the low S that Fabric demands; ECDSA over SHA-256 in DER, or Ed25519."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    return with_low_s(key.sign(data, ec.ECDSA(hashes.SHA256())), key.curve)


def with_low_s(signature: bytes, curve: ec.EllipticCurve) -> bytes:
    """Return the one of a DER signature's two forms that has the lower S.

    Raises:
        ValueError: not DER.
    """
    r, s = utils.decode_dss_signature(signature)
    order = ORDERS[curve.name]
    return utils.encode_dss_signature(r, order - s) if s > order // 2 else signature


def _decode_as_go(signature: bytes) -> tuple[int, int]:
    """Read what a stricter decoder refuses because something follows."""
    try:
        tag, start, end = der_element(signature, 0, len(signature))
        r_tag, r_start, r_end = der_element(signature, start, end)
        s_tag, s_start, s_end = der_element(signature, r_end, end)
    except ValueError as exc:
        raise SignatureRefused(f"failed to unmarshal signature: {exc}") from None
    if (tag, r_tag, s_tag) != (_SEQUENCE, _INTEGER, _INTEGER):
        raise SignatureRefused("failed to unmarshal signature: not a sequence of two integers")
    return _positive(signature[r_start:r_end]), _positive(signature[s_start:s_end])


def _positive(data: bytes) -> int:
    value = int.from_bytes(data, signed=True)
    if value <= 0 or (data[0] == 0 and len(data) > 1 and data[1] < 0x80):
        raise SignatureRefused("failed to unmarshal signature: an integer is not positive, or long")
    return value


def der_element(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return tag, first byte and end of the content of the element that begins at *at*.

    Raises:
        ValueError: it does not end before *end*, or its length is not the shortest form.
    """
    if end - at < 2:
        raise ValueError("cut short")
    tag, length = data[at], data[at + 1]
    at += 2
    if length >= 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[at : at + count])
        if not 0 < count <= end - at or length < 0x80 or data[at] == 0 or length > _MAX_LENGTH:
            raise ValueError("a length is not minimal")
        at += count
    if length > end - at:
        raise ValueError("cut short")
    return tag, at, at + length
