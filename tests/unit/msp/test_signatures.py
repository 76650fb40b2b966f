"""Which signatures count: the low S, Go's DER, the curves and hashes of Fabric."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import SignatureRefused
from peer.msp.signatures import (
    ORDERS,
    PrivateKey,
    RightSignatures,
    Verify,
    signer,
    verifier,
)

CURVES = [ec.SECP224R1(), ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]
KEY = ec.generate_private_key(ec.SECP256R1())
VERIFY = verifier(KEY.public_key(), hashes.SHA256())
ORDER = ORDERS["secp256r1"]
DATA = b"data"


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Sign, and let nobody know that the signature is right."""
    return signer(key, RightSignatures(1))(data)


SIGNATURE = sign(KEY, DATA)


def der(tag: int, content: bytes) -> bytes:
    assert len(content) < 0x80
    return bytes([tag, len(content)]) + content


def integer(value: int) -> bytes:
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: str(curve.name))
def test_every_signature_has_the_low_s_and_is_accepted(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    verify = verifier(key.public_key(), hashes.SHA256())
    for number in range(20):
        data = str(number).encode()
        signature = sign(key, data)
        r, s = utils.decode_dss_signature(signature)
        assert s <= ORDERS[curve.name] // 2
        verify(data, signature)
        with pytest.raises(SignatureRefused, match="smaller than half the order"):
            verify(data, utils.encode_dss_signature(r, ORDERS[curve.name] - s))


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: str(curve.name))
def test_the_orders_are_those_of_the_curves(curve: ec.EllipticCurve) -> None:
    """A private key may be anything below the order, and nothing from there on."""
    order = ORDERS[curve.name]
    assert ec.derive_private_key(order - 1, curve).private_numbers().private_value == order - 1
    with pytest.raises(ValueError, match=r".*"):
        ec.derive_private_key(order, curve)


def test_another_message_or_key_is_refused() -> None:
    signature = sign(KEY, DATA)
    with pytest.raises(SignatureRefused, match="The signature is invalid"):
        VERIFY(b"other", signature)
    with pytest.raises(SignatureRefused, match="The signature is invalid"):
        VERIFY(DATA, sign(ec.generate_private_key(ec.SECP256R1()), DATA))


def test_sha3() -> None:
    verify = verifier(KEY.public_key(), hashes.SHA3_256())
    r, s = utils.decode_dss_signature(KEY.sign(DATA, ec.ECDSA(hashes.SHA3_256())))
    verify(DATA, utils.encode_dss_signature(r, min(s, ORDER - s)))
    with pytest.raises(SignatureRefused, match="invalid"):
        verify(DATA, sign(KEY, DATA))


def test_ed25519_signs_the_message_itself() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    verify = verifier(key.public_key(), hashes.SHA256())
    signature = sign(key, DATA)
    assert signature == key.sign(DATA)
    verify(DATA, signature)
    for wrong in (signature[:-1], signature + b"\0", bytes(64), b""):
        with pytest.raises(SignatureRefused, match="The signature is invalid"):
            verify(DATA, wrong)


def test_what_follows_is_ignored_as_go_ignores_it() -> None:
    signature = sign(KEY, DATA)
    VERIFY(DATA, signature + b"anything")
    content = signature[2:] + integer(1) + b"\0"
    VERIFY(DATA, der(0x30, content))
    VERIFY(DATA, der(0x30, content) + b"\0")


def test_what_follows_does_not_hide_a_wrong_signature() -> None:
    r, s = utils.decode_dss_signature(sign(KEY, DATA))
    high = utils.encode_dss_signature(r, ORDER - s)
    with pytest.raises(SignatureRefused, match="half the order"):
        VERIFY(DATA, high + b"\0")
    with pytest.raises(SignatureRefused, match="The signature is invalid"):
        VERIFY(b"other", sign(KEY, DATA) + b"\0")


R, S = integer(1), integer(2)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"\x30",
        b"\x30\x00",
        der(0x30, R),
        der(0x31, R + S),
        der(0x30, der(4, b"\1") + S),
        der(0x30, integer(0) + S),
        der(0x30, R + integer(0)),
        der(0x30, integer(-1) + S),
        der(0x30, R + integer(-1)),
        der(0x30, der(2, b"") + S),
        der(0x30, der(2, b"\0\1") + S),
        der(0x30, der(2, b"\xff\xff") + S),
        b"\x30\x81\x06" + R + S,
        b"\x30\x80" + R + S + b"\0\0",
        b"\x30\x82\x00\x06" + R + S,
        b"\x30\x84\x01\x00\x00\x00" + R + S,
        b"\x30\xff" + R + S,
        der(0x30, R + S)[:-1],
    ],
    ids=bytes.hex,
)
@pytest.mark.parametrize("end", [b"", b"\0"], ids=["", "and more"])
def test_malformed_signatures(signature: bytes, end: bytes) -> None:
    with pytest.raises(SignatureRefused):
        VERIFY(DATA, signature + end)


@pytest.mark.parametrize("end", [b"", b"\0"], ids=["", "and more"])
def test_a_right_signature_in_the_wrong_clothes(end: bytes) -> None:
    """Not even with a right signature inside may a length or an integer be too long."""
    r, s = (integer(each) for each in utils.decode_dss_signature(SIGNATURE))
    VERIFY(DATA, der(0x30, r + s) + end)
    for content in (der(2, b"\0\0" + r[2:]) + s, r + der(2, b"\0\0" + s[2:])):
        with pytest.raises(SignatureRefused, match="failed to unmarshal"):
            VERIFY(DATA, der(0x30, content) + end)
    size = bytes([len(r + s)])
    for length in (b"\x81" + size, b"\x82\0" + size):
        with pytest.raises(SignatureRefused, match="failed to unmarshal"):
            VERIFY(DATA, b"\x30" + length + r + s + end)


def test_a_length_with_leading_zeros() -> None:
    r, s = (integer(each) for each in utils.decode_dss_signature(SIGNATURE))
    content = r + s + bytes(100)
    size = bytes([len(content)])
    VERIFY(DATA, b"\x30\x81" + size + content)
    with pytest.raises(SignatureRefused, match="failed to unmarshal"):
        VERIFY(DATA, b"\x30\x82\0" + size + content)


@pytest.mark.parametrize("r", [1, ORDER - 1, ORDER, ORDER + 1, 1 << 300, 1 << 600])
def test_any_numbers_are_no_signature(r: int) -> None:
    with pytest.raises(SignatureRefused):
        VERIFY(DATA, utils.encode_dss_signature(r, 1))


@given(st.binary(max_size=100))
def test_random_bytes_are_no_signature(data: bytes) -> None:
    with pytest.raises(SignatureRefused):
        VERIFY(DATA, data)


@given(st.data())
def test_a_damaged_signature_is_refused(data: st.DataObject) -> None:
    signature = bytearray(SIGNATURE)
    if data.draw(st.booleans()):
        del signature[data.draw(st.integers(0, len(signature) - 1)) :]
    else:
        signature[data.draw(st.integers(0, len(signature) - 1))] ^= 1 << data.draw(
            st.integers(0, 7)
        )
    with pytest.raises(SignatureRefused):
        VERIFY(DATA, bytes(signature))


class CountingKey:
    """A public key that counts how often it checks a signature."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self.curve = key.curve
        self.public_bytes = key.public_bytes
        self.checked = 0
        self._key = key

    def verify(self, signature: bytes, data: bytes, algorithm: ec.ECDSA) -> None:
        self.checked += 1
        self._key.verify(signature, data, algorithm)


def counting_key() -> CountingKey:
    return CountingKey(KEY.public_key())


def remembering(
    key: CountingKey, right: RightSignatures, algorithm: hashes.HashAlgorithm | None = None
) -> Verify:
    counted: ec.EllipticCurvePublicKey = key  # type: ignore[assignment]  # only what is called
    return verifier(counted, algorithm or hashes.SHA256(), right)


def test_a_right_signature_is_checked_once_whoever_asks() -> None:
    key, right = counting_key(), RightSignatures(8)
    remembering(key, right)(DATA, SIGNATURE)
    remembering(key, right)(DATA, SIGNATURE)
    assert key.checked == 1


def test_what_differs_in_any_byte_is_checked_anew() -> None:
    key, right = counting_key(), RightSignatures(1000)
    verify = remembering(key, right)
    data = bytes(range(32))
    signature = sign(KEY, data)
    verify(data, signature)
    changed = [
        *((data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], signature) for at in range(32)),
        (data[:-1], signature),
        (data + b"\0", signature),
    ]
    for other, same in changed:
        with pytest.raises(SignatureRefused, match="The signature is invalid"):
            verify(other, same)
    assert key.checked == 1 + len(changed)
    for at in range(len(signature)):
        with pytest.raises(SignatureRefused):
            verify(data, signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :])
    verify(data, signature)
    verify(data, signature + b"\0")  # Go reads it, but it is another one
    assert key.checked > 2 + len(changed)


def test_a_signature_is_right_for_one_key_and_one_hash_only() -> None:
    right = RightSignatures(8)
    remembering(counting_key(), right)(DATA, SIGNATURE)
    with pytest.raises(SignatureRefused, match="The signature is invalid"):
        remembering(counting_key(), right, hashes.SHA3_256())(DATA, SIGNATURE)
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(SignatureRefused, match="The signature is invalid"):
        verifier(stranger, hashes.SHA256(), right)(DATA, SIGNATURE)


def test_a_wrong_signature_is_wrong_again() -> None:
    key = counting_key()
    verify = remembering(key, RightSignatures(8))
    for _ in range(2):
        with pytest.raises(SignatureRefused, match="The signature is invalid"):
            verify(b"other", SIGNATURE)
    assert key.checked == 2


def test_the_last_signatures_are_kept_and_no_more_than_twice_the_limit() -> None:
    right = RightSignatures(4)
    names = [bytes([number]) for number in range(100)]
    for count, name in enumerate(names, start=1):
        right.add(name)
        assert all(recent in right for recent in names[max(0, count - 4) : count])
        assert sum(each in right for each in names) <= 8


def test_what_this_process_signed_is_not_checked() -> None:
    key, right = counting_key(), RightSignatures(8)
    signature = signer(KEY, right)(DATA)
    verify = remembering(key, right)
    verify(DATA, signature)
    assert key.checked == 0
    with pytest.raises(SignatureRefused, match="The signature is invalid"):
        verify(b"other", signature)
    assert key.checked == 1


def test_a_signer_of_ed25519() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    verify = verifier(key.public_key(), hashes.SHA256())
    signature = signer(key)(DATA)
    verify(DATA, signature)
    with pytest.raises(SignatureRefused, match="The signature is invalid"):
        verify(b"other", signature)
