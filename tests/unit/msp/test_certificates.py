"""PEM and certificates, read as Go reads them."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from hypothesis import given
from hypothesis import strategies as st

from peer.msp.certificates import CertificateProblem, decode_pem, read_certificate
from tests.unit.msp.organisations import DAY, NOW, Authority, name, pem, with_s

CONTENT = b"some bytes, and so many that base64 takes more than one line of text"
BODY = base64.encodebytes(CONTENT)
CA = Authority()


def block(label: bytes = b"X", body: bytes = BODY) -> bytes:
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, body, label)


@pytest.mark.parametrize(
    "data",
    [
        block(),
        block()[:-1],
        block(b""),
        b"garbage\n" + block() + b"garbage",
        block().replace(b"\n", b"\r\n"),
        block().replace(b"\n", b" \t\n"),
        block(body=b"Proc-Type: 4,ENCRYPTED\nOther: x\n\n" + BODY),
        block(body=BODY.replace(b"\n", b"\n\n")),
        block(body=b"!!!\n") + block(),
        block() + block(b"Y", base64.encodebytes(b"the second")),
        b"-----BEGIN A-----\n" + block(),
        b"-----BEGIN A---\n" + block(),
        b" -----BEGIN X-----\n" + block(),
        b"-----BEGIN A-----\nAAAA\n-----END B-----\n" + block(),
    ],
)
def test_the_first_good_block_is_read(data: bytes) -> None:
    assert decode_pem(data) == CONTENT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no PEM",
        BODY,
        block()[:-2],
        block().replace(b"END X", b"END Y"),
        block().replace(b"\n-----END", b"-----END"),
        block(body=b"a"),
        block(body=b"key: value\n"),
        b"x" + block(),
        block().replace(b"-----END X-----", b"-----END X-----x"),
    ],
)
def test_what_is_no_block(data: bytes) -> None:
    with pytest.raises(CertificateProblem, match="could not decode the PEM structure"):
        decode_pem(data)


def test_an_empty_block_is_one() -> None:
    assert decode_pem(block(body=b"")) == b""


def test_megabytes_of_beginnings_take_no_time() -> None:
    """Looking for each one's end would take an hour."""
    beginnings = b"-----BEGIN X-----\n" * 200_000
    with pytest.raises(CertificateProblem):
        decode_pem(beginnings)
    with pytest.raises(CertificateProblem):
        decode_pem(beginnings + b"\n-----END Y-----")


def test_the_label_does_not_matter() -> None:
    relabelled = CA.pem.replace(b"CERTIFICATE", b"ANYTHING")
    assert read_certificate(relabelled).der == read_certificate(CA.pem).der


def test_trailing_bytes_are_refused() -> None:
    der = CA.certificate.public_bytes(serialization.Encoding.DER) + b"\0"
    with pytest.raises(CertificateProblem, match="failed to parse the certificate"):
        read_certificate(block(b"CERTIFICATE", base64.encodebytes(der)))


def unknown_to_go(
    key: ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey,
    algorithm: hashes.HashAlgorithm | None,
) -> bytes:
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name("x"))
        .issuer_name(name("x"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(key, algorithm)  # type: ignore[arg-type]  # which goes with which
    )
    return pem(certificate)


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (
            unknown_to_go(ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
            "unsupported elliptic curve secp256k1",
        ),
        (
            unknown_to_go(ec.generate_private_key(ec.SECP256R1()), hashes.SHA3_256()),
            "signed with sha3-256",
        ),
        (
            unknown_to_go(ec.generate_private_key(ec.SECP256R1()), hashes.SHA224()),
            "signed with sha224",
        ),
        (
            unknown_to_go(ed448.Ed448PrivateKey.generate(), None),
            "a key of an unsupported kind",
        ),
    ],
    ids=["curve", "SHA-3", "SHA-224", "Ed448"],
)
def test_algorithms_that_go_does_not_know(certificate: bytes, reason: str) -> None:
    with pytest.raises(CertificateProblem, match=reason):
        read_certificate(certificate)


def test_the_one_form_of_a_certificate_has_the_low_s() -> None:
    authority = read_certificate(CA.pem)
    low = CA.issue(["client"]).certificate
    high = with_s(low, CA.key, high=True)
    assert low.signature != high.signature
    forms = {read_certificate(pem(each)).with_low_s(authority).der for each in (low, high)}
    assert forms == {low.public_bytes(serialization.Encoding.DER)}


@given(st.binary(max_size=200))
def test_random_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises(CertificateProblem):
        read_certificate(data)
    with pytest.raises(CertificateProblem):
        read_certificate(block(b"CERTIFICATE", base64.encodebytes(data)))


@given(st.data())
def test_a_damaged_certificate_is_refused_or_read(data: st.DataObject) -> None:
    """Not every bit is checked by reading; none may raise something else."""
    der = bytearray(CA.certificate.public_bytes(serialization.Encoding.DER))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    del der[data.draw(st.integers(1, len(der))) :]
    with suppress(CertificateProblem):
        read_certificate(block(b"CERTIFICATE", base64.encodebytes(bytes(der))))


def test_bits_of_a_signature_that_are_called_unused() -> None:
    """Go shifts them out; cryptography takes them where they are zero, and one identity for two."""
    while (certificate := CA.sign(name("user"), CA.key)).signature[-1] & 1:
        pass
    der = bytearray(certificate.public_bytes(serialization.Encoding.DER))
    der[-len(certificate.signature) - 1] = 1
    assert x509.load_der_x509_certificate(bytes(der)).signature == certificate.signature
    with pytest.raises(CertificateProblem, match="the signature has unused bits"):
        read_certificate(block(b"CERTIFICATE", base64.encodebytes(bytes(der))))
