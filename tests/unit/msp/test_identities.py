"""Which identities are read, which are valid, and that one is looked into only once."""

from __future__ import annotations

import hashlib
import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from fabric_protos.common import MspRoleMspRoleType as Role
from fabric_protos.msp import FabricOuIdentifier
from peer.errors import IdentityRefused, MspRefused, SignatureRefused
from peer.msp.identity import SigningIdentity
from peer.msp.manager import MspManager
from peer.msp.msp import Msp, MspVersion
from tests.unit.msp.organisations import (
    DAY,
    NOW,
    Authority,
    Organisation,
    managed,
    node_units,
    pem,
    read,
    serialized,
    with_s,
)

ORG = Organisation()
MSP = ORG.msp()
CLIENT = ORG.issue("client")


def unreadable(msp: Msp | MspManager, data: bytes) -> str:
    with pytest.raises(IdentityRefused) as caught:
        msp.deserialize(data)
    return caught.value.reason


def invalid(msp: Msp, signer: SigningIdentity) -> str:
    identity = read(msp, signer)
    with pytest.raises(IdentityRefused) as caught:
        msp.validate(identity)
    assert caught.value.msp_id == msp.name
    return caught.value.reason


# Reading


def test_what_an_identity_says() -> None:
    identity = read(MSP, CLIENT)
    der = CLIENT.certificate.public_bytes(serialization.Encoding.DER)
    assert identity.msp_id == "Org1MSP"
    assert identity.serialized == CLIENT.creator
    assert identity.certificate == CLIENT.certificate
    assert identity.identifier == ("Org1MSP", hashlib.sha256(der).hexdigest())
    root = ORG.root.certificate.public_bytes(serialization.Encoding.DER)
    assert identity.units == (("client", hashlib.sha256(root).digest()),)
    assert identity.expires_at == CLIENT.certificate.not_valid_after_utc
    assert "Org1MSP CN=someone,OU=client" in str(identity)
    assert str(identity) in repr(identity)


def test_the_certifiers_are_the_chain_from_the_issuer_up() -> None:
    middle = Authority("middle", below=ORG.root)
    organisation = Organisation(root=ORG.root)
    organisation.config.intermediate_certs = [middle.pem]
    identity = read(organisation.msp(), middle.issue(["client"]))
    chain = [
        each.certificate.public_bytes(serialization.Encoding.DER) for each in (middle, ORG.root)
    ]
    assert identity.units == (("client", hashlib.sha256(b"".join(chain)).digest()),)


def test_an_identity_verifies_its_signatures() -> None:
    identity = read(MSP, CLIENT)
    identity.verify(b"data", CLIENT.sign(b"data"))
    with pytest.raises(SignatureRefused):
        identity.verify(b"data", ORG.issue("client").sign(b"data"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff", "could not deserialize a SerializedIdentity"),
        (b"", "expected MSP ID Org1MSP, received "),
        (serialized("Org2MSP", ORG.root.pem), "expected MSP ID Org1MSP, received Org2MSP"),
        (serialized("Org1MSP", b"x"), "could not decode the PEM structure"),
        (serialized("Org1MSP", CLIENT.creator[:300]), "could not decode the PEM structure"),
        (CLIENT.creator[:-30], "could not deserialize a SerializedIdentity"),
        (
            Authority("ca of Org1MSP").issue(["client"]).creator,
            "signed by unknown authority",
        ),
        (Authority("other").issue(["client"]).creator, "signed by unknown authority"),
        (SigningIdentity.self_signed("Org1MSP").creator, "signed by unknown authority"),
        (
            ORG.root.issue(key=ed25519.Ed25519PrivateKey.generate()).creator,
            "need the channel capability V3_0",
        ),
        (
            serialized(
                "Org1MSP", pem(ORG.root.sign(ORG.root.name, rsa.generate_private_key(65537, 2048)))
            ),
            "the key of an identity must be ECDSA",
        ),
        (
            ORG.root.issue(
                extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2"), b""), True)]
            ).creator,
            "unhandled critical extension 1.2",
        ),
        (
            ORG.root.issue(
                extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]
            ).creator,
            "incompatible key usage",
        ),
        (ORG.root.issue(begins=NOW - 500 * DAY).creator, "not yet valid"),
        (ORG.root.issue(begins=NOW + 9000 * DAY).creator, "has expired"),
    ],
)
def test_what_is_no_identity(data: bytes, reason: str) -> None:
    assert reason in unreadable(MSP, data)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_identity(data: bytes) -> None:
    assert unreadable(MSP, data)
    assert unreadable(managed(ORG), data)
    assert unreadable(MSP, serialized("Org1MSP", data))


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.data())
def test_a_damaged_identity_is_refused_or_verifies_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(CLIENT.creator)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        identity = MSP.deserialize(bytes(damaged))
    except IdentityRefused:
        return
    assert identity.identifier == read(MSP, CLIENT).identifier


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_negative_serial_number_is_refused() -> None:
    serial = 0x11223344
    issued = ORG.root.issue(["client"], serial=serial).certificate
    der = issued.public_bytes(serialization.Encoding.DER)
    der = der.replace(serial.to_bytes(4), (serial | 1 << 31).to_bytes(4), 1)
    negative = pem(x509.load_der_x509_certificate(der))
    assert "negative serial number" in unreadable(MSP, serialized("Org1MSP", negative))


def test_extended_key_usages_that_allow_a_server_do_no_harm() -> None:
    """Go asks every chain whether it may serve, as nobody told it otherwise."""
    for usage in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE):
        signer = ORG.root.issue(["client"], extensions=[(x509.ExtendedKeyUsage([usage]), False)])
        MSP.validate(read(MSP, signer))


def test_the_two_forms_of_a_certificate_are_one_identity() -> None:
    high = with_s(CLIENT.certificate, ORG.root.key, high=True)
    other = MSP.deserialize(serialized("Org1MSP", pem(high)))
    assert high != CLIENT.certificate
    assert other.serialized != CLIENT.creator
    assert other.identifier == read(MSP, CLIENT).identifier
    MSP.validate(other)


@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_the_other_curves(curve: ec.EllipticCurve) -> None:
    root = Authority(key=ec.generate_private_key(curve))
    msp = Organisation(root=root).msp()
    signer = root.issue(["peer"], key=ec.generate_private_key(curve))
    identity = read(msp, signer)
    msp.validate(identity)
    identity.verify(b"data", signer.sign(b"data"))
    high = with_s(signer.certificate, root.key, high=True)
    assert msp.deserialize(serialized("Org1MSP", pem(high))).identifier == identity.identifier


# Validity


def test_expiry_does_not_matter() -> None:
    expired = ORG.root.issue(["client"], begins=NOW - 50 * DAY, lasts=DAY)
    MSP.validate(read(MSP, expired))
    future = ORG.root.issue(["client"], begins=NOW + 50 * DAY)
    MSP.validate(read(MSP, future))
    moment = ORG.root.issue(["client"], lasts=timedelta(0))
    assert "has expired" in unreadable(MSP, moment.creator)
    second = ORG.root.issue(["client"], lasts=timedelta(seconds=1))
    MSP.validate(read(MSP, second))


def test_an_authority_is_no_identity() -> None:
    root = serialized("Org1MSP", ORG.root.pem)
    with pytest.raises(IdentityRefused, match="cannot be used as an identity"):
        MSP.validate(MSP.deserialize(root))
    below = ORG.root.issue(
        ["client"], extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)]
    )
    assert "cannot be used as an identity" in invalid(MSP, below)


def test_only_the_leaves_of_the_tree_of_authorities_issue_identities() -> None:
    middle = Authority("middle", below=ORG.root)
    lower = Authority("lower", below=middle)
    organisation = Organisation(root=ORG.root)
    organisation.config.intermediate_certs = [middle.pem, lower.pem]
    msp = organisation.msp()
    msp.validate(read(msp, lower.issue(["client"])))
    for inner in (ORG.root, middle):
        assert "leaf of the certification tree" in invalid(msp, inner.issue(["client"]))


def test_an_intermediate_that_is_not_configured_issues_nothing() -> None:
    middle = Authority("middle", below=ORG.root)
    assert "unknown authority" in unreadable(MSP, middle.issue(["client"]).creator)


@pytest.mark.parametrize("day", [-20, 20])
def test_revocation_counts_at_once_whatever_its_date(day: int) -> None:
    organisation = Organisation(root=ORG.root)
    revoked, other = ORG.issue("client"), ORG.issue("client")
    crl = ORG.root.revoke(7, revoked.certificate.serial_number, when=NOW + day * DAY)
    organisation.config.revocation_list = [pem(crl)]
    msp = organisation.msp()
    assert "The certificate has been revoked" in invalid(msp, revoked)
    msp.validate(read(msp, other))


def test_lists_of_others_revoke_nothing() -> None:
    signer = ORG.issue("client")
    serial = signer.certificate.serial_number
    organisation = Organisation(root=ORG.root)
    stranger = ec.generate_private_key(ec.SECP256R1())
    organisation.config.revocation_list = [
        pem(Authority("other").revoke(serial)),
        pem(ORG.root.revoke(serial, signer=stranger)),
        pem(Authority("other").revoke(serial, signer=ORG.root.key)),
        pem(ORG.root.revoke(serial, signer=rsa.generate_private_key(65537, 2048))),
    ]
    msp = organisation.msp()
    msp.validate(read(msp, signer))


def test_the_direct_issuer_revokes_and_not_the_root() -> None:
    middle = Authority("middle", below=ORG.root)
    signer = middle.issue(["client"])
    serial = signer.certificate.serial_number
    organisation = Organisation(root=ORG.root)
    organisation.config.intermediate_certs = [middle.pem]
    organisation.config.revocation_list = [pem(ORG.root.revoke(serial))]
    msp = organisation.msp()
    msp.validate(read(msp, signer))
    organisation.config.revocation_list.append(pem(middle.revoke(serial)))
    assert "The certificate has been revoked" in invalid(organisation.msp(), signer)


def test_a_list_without_authority_makes_everybody_invalid() -> None:
    organisation = Organisation(root=ORG.root)
    organisation.config.revocation_list = [pem(ORG.root.revoke(with_authority=False))]
    msp = organisation.msp()
    assert "could not obtain Authority Key Identifier" in invalid(msp, CLIENT)


# Organisational units


def with_units(*names: str, authority: Authority = ORG.root) -> Organisation:
    organisation = Organisation(root=ORG.root)
    organisation.config.fabric_node_ous = None
    organisation.config.admins = [pem(ORG.issue(*names[:1]).certificate)]
    organisation.config.organizational_unit_identifiers = [
        FabricOuIdentifier(certificate=authority.pem, organizational_unit_identifier=name)
        for name in names
    ]
    return organisation


@pytest.mark.parametrize(
    ("units", "problem"),
    [
        (["a"], ""),
        (["x", "b"], ""),
        ([], "does not contain an Organizational Unit"),
        (["A"], "none of the identity's organizational units"),
        (["x", "y"], "none of the identity's organizational units"),
    ],
)
def test_one_of_the_units_is_demanded(units: list[str], problem: str) -> None:
    msp = with_units("a", "b").msp()
    if problem:
        assert problem in invalid(msp, ORG.issue(*units))
    else:
        msp.validate(read(msp, ORG.issue(*units)))


def test_a_unit_counts_below_its_authority_only() -> None:
    middle, other = Authority("middle", below=ORG.root), Authority("other", below=ORG.root)
    organisation = with_units("a", authority=middle)
    organisation.config.intermediate_certs = [middle.pem, other.pem]
    organisation.config.admins = [pem(middle.issue(["a"]).certificate)]
    msp = organisation.msp()
    msp.validate(read(msp, middle.issue(["a"])))
    assert "none of the identity's" in invalid(msp, other.issue(["a"]))


@pytest.mark.parametrize(
    ("units", "problem"),
    [
        (["client"], ""),
        (["peer"], ""),
        (["admin"], ""),
        (["orderer"], ""),
        (["x", "peer", "y"], ""),
        ([], "must be a client, a peer, an orderer or an admin"),
        (["x"], "must be a client, a peer, an orderer or an admin"),
        (["client", "peer"], "not a combination of them"),
        (["client", "client"], "not a combination of them"),
    ],
)
def test_node_units_give_each_identity_one_role(units: list[str], problem: str) -> None:
    signer = ORG.issue(*units)
    if problem:
        assert problem in invalid(MSP, signer)
    else:
        MSP.validate(read(MSP, signer))


def test_node_units_of_before_1_4_3() -> None:
    msp = ORG.msp(MspVersion.V1_3)
    for unit in ("client", "peer"):
        msp.validate(read(msp, ORG.issue(unit)))
    for unit in ("admin", "orderer"):
        assert "a client or a peer identity to be valid" in invalid(msp, ORG.issue(unit))
    oldest = ORG.msp(MspVersion.V1_0)
    for unit in ("client", "admin", "x"):
        oldest.validate(read(oldest, ORG.issue(unit)))


def test_node_units_replace_the_others() -> None:
    organisation = with_units("dept")
    organisation.config.fabric_node_ous = node_units()
    organisation.config.admins = []
    msp = organisation.msp()
    msp.validate(read(msp, ORG.issue("client")))
    assert "client" in invalid(msp, ORG.issue("dept"))
    organisation.config.fabric_node_ous.enable = False
    with pytest.raises(MspRefused, match="administrators must be declared"):
        organisation.msp()


def test_the_certifiers_of_a_node_unit() -> None:
    middle, other = Authority("middle", below=ORG.root), Authority("other", below=ORG.root)
    organisation = Organisation(root=ORG.root)
    organisation.config.intermediate_certs = [middle.pem, other.pem]
    organisation.config.fabric_node_ous = node_units(certificate=middle.pem)
    msp = organisation.msp()
    msp.validate(read(msp, middle.issue(["client"])))
    assert "certifiersIdentifier does not match" in invalid(msp, other.issue(["client"]))


def test_node_units_without_a_role_enforce_nothing() -> None:
    organisation = Organisation(root=ORG.root)
    organisation.config.fabric_node_ous = node_units(Role.MEMBER)
    organisation.config.admins = [pem(ORG.issue().certificate)]
    msp = organisation.msp()
    msp.validate(read(msp, ORG.issue()))


# What is kept


def test_the_same_bytes_give_the_same_identity() -> None:
    manager = managed(ORG)
    first = manager.deserialize(bytes(bytearray(CLIENT.creator)))
    assert manager.deserialize(bytes(bytearray(CLIENT.creator))) is first
    assert ORG.msp().deserialize(CLIENT.creator) is not first


def test_long_identities_are_read_and_not_kept() -> None:
    long = serialized("Org1MSP", b"x" * 20_000 + b"\n" + pem(CLIENT.certificate))
    assert MSP.deserialize(long) is not MSP.deserialize(long)
    assert MSP.deserialize(long).identifier == read(MSP, CLIENT).identifier


def test_what_is_kept_is_bounded() -> None:
    msp = ORG.msp()
    first = read(msp, CLIENT)
    for number in range(2000):
        with pytest.raises(IdentityRefused):
            msp.deserialize(serialized("Org1MSP", str(number).encode()))
    assert read(msp, CLIENT) is not first


def test_threads_may_ask_at_once() -> None:
    msp = ORG.msp()
    signers = [ORG.issue("client") for _ in range(20)]
    problems: list[BaseException] = []

    def ask() -> None:
        try:
            for signer in signers * 5:
                identity = read(msp, signer)
                msp.validate(identity)
                identity.verify(b"data", signer.sign(b"data"))
        except BaseException as exc:
            problems.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


# Several MSPs


def test_a_manager_asks_the_msp_that_the_bytes_name() -> None:
    other = Organisation("Org2MSP")
    manager = managed(ORG, other)
    for signer in (CLIENT, other.issue("peer")):
        manager.validate(identity := read(manager, signer))
        assert identity.msp_id == signer.msp_id
    invalid = read(manager, other.issue("x"))
    with pytest.raises(IdentityRefused):
        manager.validate(invalid)
    assert unreadable(manager, serialized("Org3MSP", ORG.root.pem)) == "MSP Org3MSP is unknown"
    assert "unknown authority" in unreadable(
        manager, serialized("Org2MSP", pem(CLIENT.certificate))
    )


def test_an_msp_is_defined_once() -> None:
    with pytest.raises(MspRefused, match="defined twice"):
        managed(ORG, Organisation())
    MspManager([MSP, MSP])
