"""Signatures as Fabric makes and accepts them: low S, and Go's reading of DER.

Room:      peer.msp
Loop:      none; safe to use from several threads
Fabric:    bccsp/sw/ecdsa.go, bccsp/utils/ecdsa.go (release-2.5)

Whether a signature counts decides validation codes, so it must be decided as Go decides it: its
``encoding/asn1`` insists on minimal lengths and integers but ignores what follows the second
integer and what follows the sequence.

A peer meets most signatures more than once: a client's when the transaction is ordered and when its
block comes, its own endorsement when it is back in a block. What was found right, or made by this
process, is remembered; see `RightSignatures`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from peer.errors import SignatureRefused

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Verify = Callable[[bytes, bytes], None]
_Check = Callable[[bytes, bytes, bytes], None]
"""Of data, their digest and a signature: ECDSA signs the one, Ed25519 the other."""
_Sign = Callable[[bytes, bytes], bytes]

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


class RightSignatures:
    """Signatures that are known to be right, at least the last `limit` and at most twice as many.

    A signature is kept as a digest of key, hash algorithm, data and signature, so that with another
    byte in any of them it is another one. Nothing is kept of who may sign: whether a certificate is
    valid and a policy satisfied is asked each time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def __contains__(self, signature: bytes) -> bool:
        return signature in self._new or signature in self._old

    def add(self, signature: bytes) -> None:
        """Keep one, by what `identified` returns for it."""
        if len(self._new) >= self._limit:
            self._old, self._new = self._new, set()
        self._new.add(signature)


_right = RightSignatures(1 << 13)


def verifier(
    key: PublicKey, hash_algorithm: hashes.HashAlgorithm, right: RightSignatures = _right
) -> Verify:
    """Return what checks a signature of *key* over data, and raises `SignatureRefused`.

    The hash is not used for Ed25519, which signs the data itself. The curve must be of `ORDERS`.

    Args:
        right: where signatures are not checked again, and kept once they are.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        check = _ed25519_check(key)
    else:
        check = _ecdsa_check(key, hash_algorithm)
    hash_data, identify = _hasher(hash_algorithm), _identifier(key, hash_algorithm)

    def verify(data: bytes, signature: bytes) -> None:
        digest = hash_data(data).digest()
        identified = identify(digest, signature)
        if identified not in right:
            check(data, digest, signature)
            right.add(identified)

    return verify


def _ecdsa_check(key: ec.EllipticCurvePublicKey, hash_algorithm: hashes.HashAlgorithm) -> _Check:
    algorithm = ec.ECDSA(utils.Prehashed(hash_algorithm))
    largest = ORDERS[key.curve.name] // 2
    verify_ecdsa = key.verify
    decode = utils.decode_dss_signature

    def check(_: bytes, digest: bytes, signature: bytes) -> None:
        try:
            r, s = decode(signature)
        except ValueError:
            r, s = _decode_as_go(signature)
            signature = utils.encode_dss_signature(r, s)
        if s > largest:
            raise SignatureRefused("invalid S: must be smaller than half the order of the curve")
        try:
            verify_ecdsa(signature, digest, algorithm)
        except InvalidSignature:
            raise SignatureRefused("The signature is invalid") from None

    return check


def _ed25519_check(key: ed25519.Ed25519PublicKey) -> _Check:
    def check(data: bytes, _: bytes, signature: bytes) -> None:
        try:
            key.verify(signature, data)
        except InvalidSignature:
            raise SignatureRefused("The signature is invalid") from None

    return check


def _hasher(hash_algorithm: hashes.HashAlgorithm) -> Callable[[bytes], hashlib._Hash]:
    """Return hashlib's constructor of a hash, whose name differs in a dash at most."""
    name = hash_algorithm.name.replace("-", "_")
    found: Callable[[bytes], hashlib._Hash] = getattr(hashlib, name)
    return found


def _identifier(
    key: PublicKey, hash_algorithm: hashes.HashAlgorithm
) -> Callable[[bytes, bytes], bytes]:
    """Return what names a signature of *key* over the data of a digest by 32 bytes."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    of_key = key.public_bytes(serialization.Encoding.DER, form)
    start = sha256(hash_algorithm.name.encode() + b"\0" + of_key).digest()

    def identify(digest: bytes, signature: bytes) -> bytes:
        return sha256(start + digest + signature).digest()

    return identify


def signer(key: PrivateKey, right: RightSignatures = _right) -> Callable[[bytes], bytes]:
    """Return what signs with the low S that Fabric demands: ECDSA over SHA-256 in DER, or Ed25519.

    It keeps that the signatures are right.
    """
    sign = _ed25519_sign(key) if isinstance(key, ed25519.Ed25519PrivateKey) else _ecdsa_sign(key)
    identify = _identifier(key.public_key(), hashes.SHA256())

    def sign_and_keep(data: bytes) -> bytes:
        digest = sha256(data).digest()
        signature = sign(data, digest)
        right.add(identify(digest, signature))
        return signature

    return sign_and_keep


def _ecdsa_sign(key: ec.EllipticCurvePrivateKey) -> _Sign:
    algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    curve = key.curve
    return lambda _, digest: with_low_s(key.sign(digest, algorithm), curve)


def _ed25519_sign(key: ed25519.Ed25519PrivateKey) -> _Sign:
    return lambda data, _: key.sign(data)


def with_low_s(signature: bytes, curve: ec.EllipticCurve) -> bytes:
    """Return the one of a DER signature's two forms that has the lower S.

    Raises:
        ValueError: not DER.
    """
    r, s = utils.decode_dss_signature(signature)
    order = ORDERS[curve.name]
    return utils.encode_dss_signature(r, order - s) if s > order >> 1 else signature


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
