"""MSP directories as tools write them, and broken in one way each."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from peer.errors import MspDirectoryError, MspRefused
from peer.msp.directory import load_config, load_local, load_signing_identity, subject_key_id
from peer.msp.identity import SigningIdentity
from peer.msp.msp import MspVersion
from peer.msp.signatures import PrivateKey
from tests.unit.msp.organisations import DAY, NOW, Authority, pem

CONFIG = """\
NodeOUs:
  Enable: true
  ClientOUIdentifier: {Certificate: cacerts/ca.pem, OrganizationalUnitIdentifier: client}
  PeerOUIdentifier: {Certificate: cacerts/ca.pem, OrganizationalUnitIdentifier: peer}
  AdminOUIdentifier: {Certificate: cacerts/ca.pem, OrganizationalUnitIdentifier: admin}
  OrdererOUIdentifier: {OrganizationalUnitIdentifier: orderer}
"""
ROOT = Authority("root")
KEY = ec.generate_private_key(ec.SECP256R1())


def write(directory: Path, name: str, content: bytes | str) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def key_pem(
    key: PrivateKey,
    layout: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, layout, serialization.NoEncryption())


def ski_name(key: PrivateKey) -> str:
    return f"keystore/{subject_key_id(key.public_key()).hex()}_sk"


def signing_certificate(key: PrivateKey = KEY, root: Authority = ROOT, **dates: object) -> bytes:
    return pem(root.issue(["peer"], key=key, **dates).certificate)  # type: ignore[arg-type]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path, "cacerts/ca.pem", ROOT.pem)
    write(tmp_path, "config.yaml", CONFIG)
    write(tmp_path, "signcerts/cert.pem", signing_certificate())
    write(tmp_path, ski_name(KEY), key_pem(KEY))
    return tmp_path


def refusal(load: Callable[[Path, str], object], directory: Path, path: str) -> str:
    """Return the reason, having checked that the error names *path*."""
    with pytest.raises(MspDirectoryError) as caught:
        load(directory, "Org1MSP")
    assert caught.value.path == str(directory / path)
    assert str(caught.value).startswith(str(directory / path))
    return caught.value.reason


def test_a_whole_directory(directory: Path) -> None:
    middle, tls = Authority("middle", below=ROOT), Authority("tls")
    crl = pem(ROOT.revoke(7))
    admin = pem(middle.issue(["admin"]).certificate)
    tls_middle = Authority("tls middle", below=tls)
    write(directory, "intermediatecerts/middle.pem", middle.pem)
    write(directory, "tlscacerts/tls.pem", tls.pem)
    write(directory, "tlsintermediatecerts/middle.pem", tls_middle.pem)
    write(directory, "admincerts/admin.pem", admin)
    write(directory, "crls/crl.pem", crl)
    config = load_config(directory, "Org1MSP")
    assert config.name == "Org1MSP"
    assert config.root_certs == [ROOT.pem]
    assert config.intermediate_certs == [middle.pem]
    assert config.tls_root_certs == [tls.pem]
    assert config.tls_intermediate_certs == [tls_middle.pem]
    assert config.admins == [admin]
    assert config.revocation_list == [crl]
    assert config.crypto_config is not None
    assert config.crypto_config.signature_hash_family == "SHA2"
    assert config.crypto_config.identity_identifier_hash_function == "SHA256"
    units = config.fabric_node_ous
    assert units is not None
    assert units.enable
    assert units.client_ou_identifier is not None
    assert units.client_ou_identifier.certificate == ROOT.pem
    assert units.orderer_ou_identifier is not None
    assert units.orderer_ou_identifier.certificate == b""
    assert units.orderer_ou_identifier.organizational_unit_identifier == "orderer"


def test_the_local_msp_and_its_identity(directory: Path) -> None:
    msp, identity = load_local(directory, "Org1MSP")
    assert msp.version == MspVersion.V1_4_3
    mine = msp.deserialize(identity.creator)
    msp.validate(mine)
    mine.verify(b"data", identity.sign(b"data"))


def test_files_come_in_the_order_of_their_names(directory: Path) -> None:
    others = {name: Authority(name).pem for name in ("b", "a", "z")}
    for name, content in others.items():
        write(directory, f"cacerts/{name}.pem", content)
    found = load_config(directory, "Org1MSP").root_certs
    assert found == [others["a"], others["b"], ROOT.pem, others["z"]]


def test_what_is_no_pem_is_left_out_with_a_warning(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(directory, "cacerts/.DS_Store", b"\0\1")
    (directory / "cacerts" / "below").mkdir()
    with caplog.at_level(logging.WARNING, "peer.msp"):
        assert load_config(directory, "Org1MSP").root_certs == [ROOT.pem]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "DS_Store" in caplog.text


def test_tls_intermediates_need_tls_roots(directory: Path) -> None:
    write(directory, "tlsintermediatecerts/x.pem", ROOT.pem)
    assert load_config(directory, "Org1MSP").tls_intermediate_certs == []


@pytest.mark.parametrize("content", [None, b"no PEM"])
def test_no_authority(directory: Path, content: bytes | None) -> None:
    (directory / "cacerts" / "ca.pem").unlink()
    if content is not None:
        write(directory, "cacerts/ca.pem", content)
    assert "no CA certificate" in refusal(load_config, directory, "cacerts")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert "no CA certificate" in refusal(load_config, tmp_path / "none", "cacerts")
    assert "no certificate" in refusal(load_signing_identity, tmp_path / "none", "signcerts")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(directory: Path) -> None:
    (directory / "cacerts" / "ca.pem").chmod(0)
    assert refusal(load_config, directory, "cacerts/ca.pem") == "Permission denied"


def test_a_link_to_nowhere(directory: Path) -> None:
    (directory / "cacerts" / "gone.pem").symlink_to("nowhere")
    assert refusal(load_config, directory, "cacerts/gone.pem") == "No such file or directory"


# config.yaml


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "expected"),
        ("- a", "the file must have keys and values"),
        ("text", "the file must have keys and values"),
        ("NodeOUs: [1]", "NodeOUs must have keys and values"),
        ("NodeOUs: {Enable: perhaps}", "NodeOUs.Enable must be true or false, not 'perhaps'"),
        ("NodeOUs: {Enable: true, PeerOUIdentifier: peer}", "NodeOUs.PeerOUIdentifier must have"),
        (
            "NodeOUs: {Enable: true, PeerOUIdentifier: {OrganizationalUnitIdentifier: 5}}",
            "NodeOUs.PeerOUIdentifier: both values must be text",
        ),
        ("OrganizationalUnitIdentifiers: {}", ""),
        ("OrganizationalUnitIdentifiers: {a: b}", "must be a list"),
        ("OrganizationalUnitIdentifiers: [x]", "OrganizationalUnitIdentifiers[0] must have"),
        (
            "OrganizationalUnitIdentifiers: [{Certificate: cacerts/x.pem}]",
            "OrganizationalUnitIdentifiers[0].Certificate cacerts/x.pem: No such file",
        ),
    ],
)
def test_what_config_yaml_may_not_say(directory: Path, text: str, reason: str) -> None:
    write(directory, "config.yaml", text)
    if reason:
        assert reason in refusal(load_config, directory, "config.yaml")
    else:
        load_config(directory, "Org1MSP")


@pytest.mark.parametrize(
    "text", ["", "# nothing", "Other: 1", "NodeOUs:", "NodeOUs: {}", CONFIG.replace("true", "no")]
)
def test_config_yaml_without_node_units(directory: Path, text: str) -> None:
    write(directory, "config.yaml", text)
    assert load_config(directory, "Org1MSP").fabric_node_ous is None
    with pytest.raises(MspRefused, match="administrators must be declared"):
        load_local(directory, "Org1MSP")


def test_units_that_are_demanded(directory: Path) -> None:
    text = "OrganizationalUnitIdentifiers:\n- {Certificate: %s, OrganizationalUnitIdentifier: a}"
    write(directory, "config.yaml", text % "cacerts/ca.pem")
    (unit,) = load_config(directory, "Org1MSP").organizational_unit_identifiers
    assert (unit.organizational_unit_identifier, unit.certificate) == ("a", ROOT.pem)


def test_a_node_unit_without_its_certificate_takes_any(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(directory, "config.yaml", CONFIG.replace("cacerts/ca.pem", "gone.pem"))
    with caplog.at_level(logging.WARNING, "peer.msp"):
        units = load_config(directory, "Org1MSP").fabric_node_ous
    assert units is not None
    assert units.peer_ou_identifier is not None
    assert units.peer_ou_identifier.certificate == b""
    assert "NodeOUs.PeerOUIdentifier.Certificate is left out" in caplog.text


def test_roles_that_are_left_out(directory: Path) -> None:
    write(
        directory,
        "config.yaml",
        "NodeOUs: {Enable: true, AdminOUIdentifier: {OrganizationalUnitIdentifier: boss}}",
    )
    units = load_config(directory, "Org1MSP").fabric_node_ous
    assert units is not None
    assert units.client_ou_identifier is None
    assert units.admin_ou_identifier is not None


# The identity


def loads(directory: Path, key: PrivateKey = KEY) -> SigningIdentity:
    identity = load_signing_identity(directory, "Org1MSP")
    assert identity.certificate.public_key() == key.public_key()
    return identity


@pytest.mark.parametrize("name", ["priv_sk", "0000", "zzz.pem", "a.key"])
def test_a_key_of_any_name_is_found(directory: Path, name: str) -> None:
    (directory / ski_name(KEY)).unlink()
    write(directory, f"keystore/{name}", key_pem(KEY))
    write(directory, "keystore/another", key_pem(ec.generate_private_key(ec.SECP256R1())))
    write(directory, "keystore/no_key", "x")
    write(directory, "keystore/large", b"x" * 70_000)
    (directory / "keystore" / "below").mkdir()
    loads(directory)


def test_a_wrong_key_under_the_right_name_is_passed_over(directory: Path) -> None:
    write(directory, ski_name(KEY), key_pem(ec.generate_private_key(ec.SECP256R1())))
    write(directory, "keystore/right", key_pem(KEY))
    loads(directory)


def test_sec1_keys(directory: Path) -> None:
    layout = serialization.PrivateFormat.TraditionalOpenSSL
    write(directory, ski_name(KEY), key_pem(KEY, layout))
    assert b"EC PRIVATE KEY" in (directory / ski_name(KEY)).read_bytes()
    loads(directory)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]
)
def test_other_kinds_of_keys(directory: Path, key: PrivateKey) -> None:
    write(directory, "signcerts/cert.pem", signing_certificate(key))
    write(directory, ski_name(key), key_pem(key))
    loads(directory, key)
    msp, identity = load_local(directory, "Org1MSP", version=MspVersion.V3_0)
    msp.deserialize(identity.creator).verify(b"data", identity.sign(b"data"))


def test_the_first_certificate_counts(directory: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    write(directory, "signcerts/another.pem", signing_certificate(other))
    write(directory, ski_name(other), key_pem(other))
    loads(directory, other)


def test_no_key(directory: Path) -> None:
    (directory / ski_name(KEY)).unlink()
    reason = refusal(load_signing_identity, directory, "keystore")
    assert "no file holds the private key of CN=someone,OU=peer" in reason
    (directory / "keystore").rmdir()
    assert "No such file" in refusal(load_signing_identity, directory, "keystore")


def test_a_key_with_a_password_is_none(directory: Path) -> None:
    content = KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    write(directory, ski_name(KEY), content)
    assert "no file holds" in refusal(load_signing_identity, directory, "keystore")


@pytest.mark.parametrize("content", [None, b"no PEM"])
def test_no_certificate(directory: Path, content: bytes | None) -> None:
    (directory / "signcerts" / "cert.pem").unlink()
    if content is not None:
        write(directory, "signcerts/cert.pem", content)
    assert "no certificate" in refusal(load_signing_identity, directory, "signcerts")


def test_a_certificate_that_is_none(directory: Path) -> None:
    write(directory, "signcerts/cert.pem", key_pem(KEY))
    reason = refusal(load_signing_identity, directory, "signcerts/cert.pem")
    assert "failed to parse the certificate" in reason


def test_rsa_keys_have_no_use(directory: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write(directory, "keystore/0", content)
    loads(directory)
    write(directory, "signcerts/cert.pem", pem(ROOT.sign(ROOT.name, key)))
    assert "must be ECDSA" in refusal(load_signing_identity, directory, "keystore")


def test_an_expired_certificate_does_not_start(directory: Path) -> None:
    expired = signing_certificate(begins=NOW - 2 * DAY, lasts=DAY)
    write(directory, "signcerts/cert.pem", expired)
    reason = refusal(load_signing_identity, directory, "signcerts/cert.pem")
    assert reason.startswith("the certificate expired at ")


def test_a_certificate_of_another_authority(directory: Path) -> None:
    write(directory, "signcerts/cert.pem", signing_certificate(root=Authority("other")))
    loads(directory)
    assert "signed by unknown authority" in refusal(load_local, directory, "signcerts")
