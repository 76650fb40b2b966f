"""The private authority: what it issues, read back by `cryptography` and by OpenSSL."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from peer.chaincode.certificates import CertificateAuthority, KeyPair
from peer.chaincode.environment import ChaincodeEnvironment, tls_files

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


def parsed(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def lifetime(certificate: x509.Certificate) -> tuple[timedelta, timedelta]:
    """Return how long it has been valid and how long it will be, to the minute."""
    now = datetime.now(UTC)
    return (
        now - certificate.not_valid_before_utc,
        certificate.not_valid_after_utc - now,
    )


def test_the_authority(authority: CertificateAuthority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    certificate.verify_directly_issued_by(certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_encipherment
    assert usage.key_cert_sign
    assert usage.crl_sign
    extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    [attribute] = certificate.subject
    assert attribute.oid == NameOID.SERIAL_NUMBER
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    past, future = lifetime(certificate)
    assert abs(past - 24 * HOUR) < HOUR
    assert abs(future - timedelta(days=3650)) < HOUR


def test_two_authorities_do_not_know_each_other(authority: CertificateAuthority) -> None:
    other = CertificateAuthority()
    certificate = x509.load_pem_x509_certificate(other.certificate)
    with pytest.raises(ValueError, match="does not match"):
        parsed(authority.issue_client()).verify_directly_issued_by(certificate)


def test_a_client_certificate(authority: CertificateAuthority) -> None:
    pair = authority.issue_client()
    certificate = parsed(pair)
    extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert not usage.key_cert_sign
    past, future = lifetime(certificate)
    assert abs(past - 24 * HOUR) < HOUR
    assert abs(future - 24 * HOUR) < HOUR
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert pair.sha256 == hashlib.sha256(der).digest()
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_every_certificate_is_another_one(authority: CertificateAuthority) -> None:
    pairs = [authority.issue_client() for _ in range(3)]
    assert len({pair.sha256 for pair in pairs}) == 3
    assert len({parsed(pair).serial_number for pair in pairs}) == 3
    assert len({pair.key for pair in pairs}) == 3


def test_a_server_certificate_verifies_for_its_names_only(
    authority: CertificateAuthority,
) -> None:
    certificate = parsed(authority.issue_server("127.0.0.1", "localhost", "::1"))
    store = Store([x509.load_pem_x509_certificate(authority.certificate)])
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    for name in names:
        assert isinstance(name, x509.DNSName | x509.IPAddress)
        PolicyBuilder().store(store).build_server_verifier(name).verify(certificate, [])
    stranger = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("elsewhere"))
    with pytest.raises(VerificationError):
        stranger.verify(certificate, [])


def test_the_key_is_pkcs8_under_its_true_label(authority: CertificateAuthority) -> None:
    pair = authority.issue_client()
    assert pair.key.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    key = serialization.load_pem_private_key(pair.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == parsed(pair).public_key()
    assert pair.key.decode() not in repr(pair)
    assert "PRIVATE" not in repr(pair)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """Shake hands in memory and return the server's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    pending = [near, far]
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert pending == []
    return far


def load(context: ssl.SSLContext, pair: KeyPair, directory: Path) -> None:
    path = directory / f"{pair.sha256.hex()}.pem"
    path.write_bytes(pair.certificate + pair.key)
    context.load_cert_chain(path)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_openssl_accepts_both_ends(
    authority: CertificateAuthority, tmp_path: Path, name: str
) -> None:
    root = authority.certificate.decode()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=root)
    load(server, authority.issue_server("127.0.0.1", "localhost"), tmp_path)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_verify_locations(cadata=root)
    pair = authority.issue_client()
    load(client, pair, tmp_path)
    der = handshake(client, server, name).getpeercert(binary_form=True)
    assert der is not None
    assert hashlib.sha256(der).digest() == pair.sha256


DIRECTORY = "/etc/hyperledger/fabric"
ENVIRONMENT = ChaincodeEnvironment(msp_id="Org1MSP", logging_format="%{message}")
PLAIN = {
    "CORE_CHAINCODE_ID_NAME": "mycc:1.0",
    "CORE_PEER_TLS_ENABLED": "false",
    "CORE_CHAINCODE_LOGGING_LEVEL": "info",
    "CORE_CHAINCODE_LOGGING_SHIM": "warning",
    "CORE_CHAINCODE_LOGGING_FORMAT": "%{message}",
    "CORE_PEER_LOCALMSPID": "Org1MSP",
}


class TestEnvironment:
    """The table of variables and files a launched chaincode finds."""

    def test_without_tls(self) -> None:
        assert ENVIRONMENT.variables("mycc:1.0", tls=False) == PLAIN

    def test_with_tls(self) -> None:
        assert ENVIRONMENT.variables("mycc:1.0", tls=True) == PLAIN | {
            "CORE_PEER_TLS_ENABLED": "true",
            "CORE_TLS_CLIENT_KEY_PATH": f"{DIRECTORY}/client.key",
            "CORE_TLS_CLIENT_CERT_PATH": f"{DIRECTORY}/client.crt",
            "CORE_TLS_CLIENT_KEY_FILE": f"{DIRECTORY}/client_pem.key",
            "CORE_TLS_CLIENT_CERT_FILE": f"{DIRECTORY}/client_pem.crt",
            "CORE_PEER_TLS_ROOTCERT_FILE": f"{DIRECTORY}/peer.crt",
        }

    def test_files(self, authority: CertificateAuthority) -> None:
        pair = authority.issue_client()
        files = tls_files(pair, authority.certificate)
        assert {path.removeprefix(f"{DIRECTORY}/") for path in files} == {
            "client.key",
            "client.crt",
            "client_pem.key",
            "client_pem.crt",
            "peer.crt",
        }
        variables = ENVIRONMENT.variables("mycc:1.0", tls=True)
        assert {value for value in variables.values() if value.startswith("/")} == set(files)
        assert files[f"{DIRECTORY}/client_pem.key"] == pair.key
        assert files[f"{DIRECTORY}/client_pem.crt"] == pair.certificate
        assert base64.b64decode(files[f"{DIRECTORY}/client.key"]) == pair.key
        assert base64.b64decode(files[f"{DIRECTORY}/client.crt"]) == pair.certificate
        assert files[f"{DIRECTORY}/peer.crt"] == authority.certificate
