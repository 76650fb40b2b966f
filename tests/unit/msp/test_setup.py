"""Which MSP configurations are refused, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fabric_protos.common import MspRoleMspRoleType as Role
from fabric_protos.msp import FabricCryptoConfig, FabricMspConfig, FabricOuIdentifier
from peer.errors import MspRefused
from peer.msp.msp import Msp, MspVersion
from tests.unit.msp.organisations import (
    DAY,
    NOW,
    Authority,
    Organisation,
    node_units,
    pem,
    read,
    with_s,
)

NO_USAGE = dict.fromkeys(
    [
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ],
    False,
)
ROOT = Authority("root")
LONG_AGO = NOW - 200 * DAY


def config(*roots: Authority, intermediates: tuple[Authority, ...] = ()) -> FabricMspConfig:
    return FabricMspConfig(
        name="Org1MSP",
        root_certs=[each.pem for each in roots],
        intermediate_certs=[each.pem for each in intermediates],
        fabric_node_ous=node_units(),
    )


def refusal(config: FabricMspConfig, version: MspVersion = MspVersion.V1_4_3) -> str:
    with pytest.raises(MspRefused) as caught:
        Msp(config, version=version)
    assert caught.value.msp_id == "Org1MSP"
    return caught.value.reason


def test_roots_and_intermediates_are_enough() -> None:
    middle = Authority("middle", below=ROOT)
    msp = Msp(config(ROOT, intermediates=(middle,)), version=MspVersion.V1_4_3)
    msp.validate(read(msp, middle.issue(["client"])))


def test_no_root() -> None:
    assert refusal(config()) == "expected at least one CA certificate"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: config(Authority(is_ca=False)), "did not have the CA attribute"),
        (lambda: config(Authority(with_key_id=False)), "Subject Key Identifier"),
        (
            lambda: config(ROOT, intermediates=(Authority("m", below=ROOT, is_ca=False),)),
            "did not have the CA attribute",
        ),
        (
            lambda: config(ROOT, intermediates=(Authority("m", below=ROOT, with_key_id=False),)),
            "Subject Key Identifier",
        ),
        (
            lambda: config(ROOT, intermediates=(Authority("m", below=Authority("other")),)),
            "signed by unknown authority",
        ),
        (
            lambda: config(ROOT, intermediates=(Authority("m", below=Authority("root")),)),
            "signed by unknown authority",
        ),
        (
            lambda: config(
                ROOT, intermediates=(Authority("m", below=ROOT, begins=NOW - 200 * DAY),)
            ),
            "expired or is not yet valid",
        ),
        (
            lambda: config(
                Authority(
                    extensions=[(x509.NameConstraints([x509.DNSName("example.com")], None), True)]
                )
            ),
            "name constraints are not supported",
        ),
        (
            lambda: config(
                Authority(
                    extensions=[
                        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True)
                    ]
                )
            ),
            "unhandled critical extension 1.2.3",
        ),
        (
            lambda: config(
                Authority(
                    extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]
                )
            ),
            "incompatible key usage",
        ),
        (lambda: config(Authority(key=ed25519.Ed25519PrivateKey.generate())), "V3_0"),
    ],
)
def test_authorities_that_are_none(make: Callable[[], FabricMspConfig], reason: str) -> None:
    assert reason in refusal(make())


def test_an_authority_that_may_not_sign_issues_nothing() -> None:
    usage = x509.KeyUsage(**NO_USAGE | {"digital_signature": True})
    root = Authority(extensions=[(usage, True)])
    middle = Authority("middle", below=root)
    assert "unknown authority" in refusal(config(root, intermediates=(middle,)))
    usage = x509.KeyUsage(**NO_USAGE | {"key_cert_sign": True})
    root = Authority(extensions=[(usage, True)])
    middle = Authority("middle", below=root)
    Msp(config(root, intermediates=(middle,)), version=MspVersion.V1_4_3)


def test_the_path_length() -> None:
    root = Authority(path_length=0)
    middle = Authority("middle", below=root)
    Msp(config(root, intermediates=(middle,)), version=MspVersion.V1_4_3)
    lower = Authority("lower", below=middle)
    assert "path length" in refusal(config(root, intermediates=(middle, lower)))


def test_an_intermediate_below_two_roots_of_one_key() -> None:
    """The same authority certified by itself twice makes two chains, so nobody knows which."""
    again = Authority("root", key=ROOT.key)
    middle = Authority("middle", below=ROOT)
    assert "single validation chain, got 2" in refusal(config(ROOT, again, intermediates=(middle,)))


def test_a_certificate_twice_is_there_once() -> None:
    middle = Authority("middle", below=ROOT)
    msp = Msp(config(ROOT, ROOT, intermediates=(middle, middle)), version=MspVersion.V1_4_3)
    msp.validate(read(msp, middle.issue(["client"])))


def test_rsa_authorities_issue_ecdsa_identities() -> None:
    root = Authority(key=rsa.generate_private_key(65537, 2048))
    msp = Msp(config(root), version=MspVersion.V1_4_3)
    msp.validate(read(msp, root.issue(["client"])))


def test_ed25519_is_there_from_version_3() -> None:
    root = Authority(key=ed25519.Ed25519PrivateKey.generate())
    msp = Msp(config(root), version=MspVersion.V3_0)
    signer = root.issue(["client"], key=ed25519.Ed25519PrivateKey.generate())
    msp.validate(identity := read(msp, signer))
    identity.verify(b"data", signer.sign(b"data"))


@pytest.mark.parametrize("field", ["root_certs", "intermediate_certs", "admins", "tls_root_certs"])
@pytest.mark.parametrize("content", [b"", b"no PEM", ROOT.pem[:200]])
def test_unreadable_certificates(field: str, content: bytes) -> None:
    broken = config(ROOT)
    getattr(broken, field).append(content)
    assert "PEM" in refusal(broken)


@pytest.mark.parametrize("content", [b"", b"no PEM", ROOT.pem, pem(ROOT.revoke())[:100]])
def test_unreadable_revocation_lists(content: bytes) -> None:
    broken = config(ROOT)
    broken.revocation_list = [content]
    assert refusal(broken)


def test_a_revoked_intermediate() -> None:
    middle = Authority("middle", below=ROOT)
    broken = config(ROOT, intermediates=(middle,))
    broken.revocation_list = [pem(ROOT.revoke(middle.certificate.serial_number))]
    assert "The certificate has been revoked" in refusal(broken)


def test_the_tls_authorities_are_checked_too() -> None:
    good = config(ROOT)
    tls = Authority("tls")
    middle = Authority("tls middle", below=tls)
    good.tls_root_certs, good.tls_intermediate_certs = [tls.pem], [middle.pem]
    Msp(good, version=MspVersion.V1_4_3)
    good.tls_root_certs = [Authority("tls", is_ca=False).pem]
    assert "CA attribute" in refusal(good)
    good.tls_root_certs = [Authority("tls").pem]
    assert "unknown authority" in refusal(good)


@pytest.mark.parametrize("signed", ["", "SHA2", "SHA3"])
@pytest.mark.parametrize("named", ["", "SHA256", "SHA384", "SHA3_256", "SHA3_384"])
def test_the_hashes_that_there_are(signed: str, named: str) -> None:
    good = config(ROOT)
    good.crypto_config = FabricCryptoConfig(
        signature_hash_family=signed, identity_identifier_hash_function=named
    )
    msp = Msp(good, version=MspVersion.V1_4_3)
    identity = read(msp, ROOT.issue(["client"]))
    assert len(identity.identifier[1]) == (96 if named.endswith("384") else 64)


@pytest.mark.parametrize(("signed", "named"), [("SHA1", ""), ("", "MD5")])
def test_other_hashes(signed: str, named: str) -> None:
    broken = config(ROOT)
    broken.crypto_config = FabricCryptoConfig(
        signature_hash_family=signed, identity_identifier_hash_function=named
    )
    assert "not recognized" in refusal(broken)


def test_both_forms_of_an_authority_give_the_same_units() -> None:
    """An authority's signature with the high S must not change what depends on its bytes."""
    middle = Authority("middle", below=ROOT)
    low = config(ROOT, intermediates=(middle,))
    high = config(ROOT, intermediates=(middle,))
    high.root_certs = [pem(with_s(ROOT.certificate, ROOT.key, high=True))]
    high.intermediate_certs = [pem(with_s(middle.certificate, ROOT.key, high=True))]
    assert high.root_certs != low.root_certs
    signer = middle.issue(["client"])
    found = [read(Msp(each, version=MspVersion.V1_4_3), signer).units for each in (low, high)]
    assert found[0] == found[1]


# Administrators


def without_units(*admins: x509.Certificate) -> FabricMspConfig:
    made = config(ROOT)
    made.fabric_node_ous = None
    made.admins = [pem(each) for each in admins]
    return made


ADMIN = ROOT.issue(["dept"]).certificate


@pytest.mark.parametrize("version", MspVersion)
def test_who_administers_must_be_told_from_1_4_3_on(version: MspVersion) -> None:
    Msp(without_units(ADMIN), version=version)
    if version < MspVersion.V1_4_3:
        Msp(without_units(), version=version)
    else:
        assert "administrators must be declared" in refusal(without_units(), version)
        units = without_units()
        units.fabric_node_ous = node_units(Role.CLIENT, Role.PEER)
        assert "administrators must be declared" in refusal(units, version)


@pytest.mark.parametrize("version", MspVersion)
def test_an_administrator_must_be_a_member(version: MspVersion) -> None:
    stranger = Authority("root").issue().certificate
    assert "unknown authority" in refusal(without_units(stranger), version)
    assert "admin 1 is invalid" in refusal(without_units(ADMIN, ROOT.certificate), version)
    revoked = without_units(ADMIN)
    revoked.revocation_list = [pem(ROOT.revoke(ADMIN.serial_number))]
    assert "admin 0 is invalid: could not validate" in refusal(revoked, version)


@pytest.mark.parametrize("version", [MspVersion.V1_1, MspVersion.V1_3, MspVersion.V1_4_3])
@pytest.mark.parametrize("unit", ["client", "peer", "admin", "dept", ""])
def test_an_administrator_among_node_units(version: MspVersion, unit: str) -> None:
    made = config(ROOT)
    made.admins = [pem(ROOT.issue([unit] if unit else []).certificate)]
    allowed = ("client", "admin") if version == MspVersion.V1_4_3 else ("client",)
    if unit in allowed:
        Msp(made, version=version)
    else:
        assert "admin 0 is invalid" in refusal(made, version)


def test_an_administrator_of_an_inner_authority() -> None:
    middle = Authority("middle", below=ROOT)
    made = config(ROOT, intermediates=(middle,))
    made.admins = [pem(ROOT.issue(["admin"]).certificate)]
    assert "leaf of the certification tree" in refusal(made)


def test_a_revoked_administrator_with_node_units() -> None:
    """Fabric 1.4.3 asks for the unit only; older rules ask for a valid client."""
    made = config(ROOT)
    signer = ROOT.issue(["client"])
    made.admins = [pem(signer.certificate)]
    made.revocation_list = [pem(ROOT.revoke(signer.certificate.serial_number))]
    Msp(made, version=MspVersion.V1_4_3)
    assert "admin 0 is invalid" in refusal(made, MspVersion.V1_3)


# Organisational units


def test_a_unit_names_an_authority_that_issues_identities() -> None:
    middle = Authority("middle", below=ROOT)
    for authority, problem in (
        (ROOT, ""),
        (middle, ""),
        (Authority("other"), "not in root or intermediate certs"),
    ):
        made = config(ROOT, intermediates=(middle,))
        unit = FabricOuIdentifier(certificate=authority.pem, organizational_unit_identifier="dept")
        made.organizational_unit_identifiers = [unit, unit]
        if problem:
            assert problem in refusal(made)
        else:
            Msp(made, version=MspVersion.V1_4_3)
        made.organizational_unit_identifiers = []
        made.fabric_node_ous = node_units(certificate=authority.pem)
        if problem:
            assert problem in refusal(made)
        else:
            Msp(made, version=MspVersion.V1_4_3)


def test_a_unit_of_an_inner_intermediate() -> None:
    middle = Authority("middle", below=ROOT)
    lower = Authority("lower", below=middle)
    made = config(ROOT, intermediates=(middle, lower))
    made.fabric_node_ous = node_units(certificate=middle.pem)
    assert "issues identities, unlike" in refusal(made)


@pytest.mark.parametrize("version", [MspVersion.V1_1, MspVersion.V1_3])
@pytest.mark.parametrize("missing", [Role.CLIENT, Role.PEER])
def test_older_node_units_have_two_roles(version: MspVersion, missing: Role) -> None:
    made = config(ROOT)
    made.fabric_node_ous = node_units(*{Role.CLIENT, Role.PEER} - {missing})
    assert missing.name in refusal(made, version)
    made.fabric_node_ous.enable = False
    assert missing.name in refusal(made, version)
    Msp(made, version=MspVersion.V1_0)


def test_the_order_of_files_does_not_matter_for_an_organisation() -> None:
    organisation = Organisation()
    other = Authority("second root")
    organisation.config.root_certs.insert(0, other.pem)
    msp = organisation.msp()
    msp.validate(read(msp, organisation.issue("client")))
    msp.validate(read(msp, other.issue(["peer"])))


def test_der_instead_of_pem_is_taken_for_revocation_lists_only() -> None:
    made = config(ROOT)
    made.revocation_list = [ROOT.revoke(5).public_bytes(serialization.Encoding.DER)]
    Msp(made, version=MspVersion.V1_4_3)
    made.root_certs = [ROOT.certificate.public_bytes(serialization.Encoding.DER)]
    assert "PEM" in refusal(made)


def test_an_identity_with_an_rsa_key_has_no_use() -> None:
    made = config(ROOT)
    key = rsa.generate_private_key(65537, 2048)
    made.admins = [pem(ROOT.sign(ROOT.name, key))]
    assert "must be ECDSA" in refusal(made)
