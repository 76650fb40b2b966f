"""What is known of other machines before any is dialled."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from peer.channel.material import Authority
from peer.remote import ClientTls, certificate_hash

AUTHORITY = Authority("ca", "org")
LEAF = AUTHORITY.issue_tls("client", ())


def test_a_certificate_is_named_by_the_hash_of_the_first_of_its_chain() -> None:
    der = x509.load_pem_x509_certificate(LEAF.certificate).public_bytes(Encoding.DER)
    expected = hashlib.sha256(der).digest()
    chain = b"subject: client\n" + LEAF.certificate + b"\n" + AUTHORITY.certificate
    assert certificate_hash(LEAF.certificate) == certificate_hash(chain) == expected
    assert ClientTls(b"root", chain, LEAF.key).certificate_hash == expected


def test_without_a_certificate_there_is_nothing_to_name() -> None:
    assert ClientTls(b"root").certificate_hash == b""


@pytest.mark.parametrize("text", [b"", b"\xff", LEAF.key, LEAF.certificate[:100]])
def test_what_is_no_certificate_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="substring not found"):
        certificate_hash(text)
