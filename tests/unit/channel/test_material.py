"""Keys and certificates, as openssl sees them and in the places where Fabric's tools look."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from peer.channel.material import Files, organisation_files

DOMAIN = "org1.example.com"
PEER = f"peers/peer0.{DOMAIN}"
ADMIN = f"users/Admin@{DOMAIN}"
USER = f"users/User1@{DOMAIN}"


@pytest.fixture(scope="module")
def files() -> Files:
    return organisation_files(DOMAIN, "peer", {"peer0": "localhost"}, ["Admin", "User1"])


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def signing_certificate(files: Files, place: str) -> x509.Certificate:
    return certificate(files[f"{place}/msp/signcerts/{place.rpartition('/')[2]}-cert.pem"])


def test_the_files_are_where_cryptogen_puts_them(files: Files) -> None:
    def member(place: str, end: str) -> set[str]:
        return {f"{place}/tls/{name}" for name in ("ca.crt", f"{end}.crt", f"{end}.key")} | {
            f"{place}/msp/{name}"
            for name in (
                f"cacerts/ca.{DOMAIN}-cert.pem",
                f"tlscacerts/tlsca.{DOMAIN}-cert.pem",
                f"signcerts/{place.rpartition('/')[2]}-cert.pem",
                "keystore/priv_sk",
                "config.yaml",
            )
        }

    assert files.keys() == {
        f"ca/ca.{DOMAIN}-cert.pem",
        "ca/priv_sk",
        f"tlsca/tlsca.{DOMAIN}-cert.pem",
        "tlsca/priv_sk",
        f"msp/cacerts/ca.{DOMAIN}-cert.pem",
        f"msp/tlscacerts/tlsca.{DOMAIN}-cert.pem",
        "msp/config.yaml",
        *member(PEER, "server"),
        *member(ADMIN, "client"),
        *member(USER, "client"),
    }


@pytest.mark.parametrize(("place", "role"), [(PEER, "peer"), (ADMIN, "admin"), (USER, "client")])
def test_the_organisational_unit_says_who_someone_is(files: Files, place: str, role: str) -> None:
    subject = signing_certificate(files, place).subject
    (unit,) = subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    (name,) = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert (unit.value, name.value) == (role, place.rpartition("/")[2])


def test_the_node_ous_name_the_units_and_the_authority(files: Files) -> None:
    node_ous = yaml.safe_load(files["msp/config.yaml"])["NodeOUs"]
    assert node_ous.pop("Enable") is True
    assert node_ous == {
        f"{role.capitalize()}OUIdentifier": {
            "Certificate": f"cacerts/ca.{DOMAIN}-cert.pem",
            "OrganizationalUnitIdentifier": role,
        }
        for role in ("client", "peer", "admin", "orderer")
    }
    assert files[f"{PEER}/msp/config.yaml"] == files["msp/config.yaml"]


def test_orderers_have_a_role_and_a_place_of_their_own() -> None:
    files = organisation_files("example.com", "orderer", {"orderer": "localhost"}, [])
    subject = signing_certificate(files, "orderers/orderer.example.com").subject
    (unit,) = subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    assert unit.value == "orderer"


def test_every_key_is_pkcs8_on_p256_and_fits_its_certificate(files: Files) -> None:
    pairs = {
        "ca/priv_sk": f"ca/ca.{DOMAIN}-cert.pem",
        "tlsca/priv_sk": f"tlsca/tlsca.{DOMAIN}-cert.pem",
        f"{PEER}/tls/server.key": f"{PEER}/tls/server.crt",
    }
    for place in (PEER, ADMIN, USER):
        name = place.rpartition("/")[2]
        pairs[f"{place}/msp/keystore/priv_sk"] = f"{place}/msp/signcerts/{name}-cert.pem"
    for place in (ADMIN, USER):
        pairs[f"{place}/tls/client.key"] = f"{place}/tls/client.crt"
    keys = {path for path, content in files.items() if b"PRIVATE KEY" in content}
    assert keys == pairs.keys()
    for path, certified in pairs.items():
        assert files[path].startswith(b"-----BEGIN PRIVATE KEY-----\n")
        key = serialization.load_pem_private_key(files[path], None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == certificate(files[certified]).public_key()
    assert len({files[path] for path in keys}) == len(keys)


def test_authorities_carry_fabrics_key_identifier(files: Files) -> None:
    authority = certificate(files[f"ca/ca.{DOMAIN}-cert.pem"])
    point = authority.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert identifier.digest == hashlib.sha256(point).digest()
    issued = signing_certificate(files, PEER)
    issuer = issued.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == identifier.digest


def test_a_server_can_be_reached_by_name_and_locally(files: Files) -> None:
    extensions = certificate(files[f"{PEER}/tls/server.crt"]).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"peer0.{DOMAIN}", "peer0", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


@pytest.fixture
def openssl() -> str:
    path = shutil.which("openssl")
    if path is None:
        pytest.skip("openssl is not installed")
    return path


def verify(openssl: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [openssl, "verify", "-x509_strict", "-check_ss_sig", *args],
        capture_output=True,
        text=True,
        check=False,
    )


def test_openssl_finds_every_chain_and_no_other(files: Files, openssl: str, tmp_path: Path) -> None:
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    authority = tmp_path / "ca" / f"ca.{DOMAIN}-cert.pem"
    tls_authority = tmp_path / "tlsca" / f"tlsca.{DOMAIN}-cert.pem"
    signing = sorted(tmp_path.glob("*/*/msp/signcerts/*.pem"))
    servers = sorted(tmp_path.glob("*/*/tls/server.crt"))
    clients = sorted(tmp_path.glob("*/*/tls/client.crt"))
    assert (len(signing), len(servers), len(clients)) == (3, 1, 2)
    for done in (
        verify(openssl, "-CAfile", authority, *signing),
        verify(openssl, "-CAfile", tls_authority, "-purpose", "sslserver", *servers),
        verify(openssl, "-CAfile", tls_authority, "-purpose", "sslclient", *servers, *clients),
        verify(openssl, "-CAfile", tls_authority, "-verify_hostname", f"peer0.{DOMAIN}", *servers),
    ):
        assert done.returncode == 0, done.stdout + done.stderr
    assert verify(openssl, "-CAfile", tls_authority, signing[0]).returncode
    assert verify(
        openssl, "-CAfile", tls_authority, "-verify_hostname", "peer1.example.com", *servers
    ).returncode
