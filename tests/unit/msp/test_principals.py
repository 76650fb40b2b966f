"""Whether an identity is what a principal describes, for each kind and version."""

from __future__ import annotations

import hashlib

import betterproto2
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from fabric_protos.codec import encode
from fabric_protos.common import (
    CombinedPrincipal,
    MspIdentityAnonymity,
    MspPrincipal,
    MspRole,
    OrganizationUnit,
)
from fabric_protos.common import MspIdentityAnonymityMspIdentityAnonymityType as Anonymity
from fabric_protos.common import MspPrincipalClassification as Classification
from fabric_protos.common import MspRoleMspRoleType as Role
from peer.errors import PrincipalNotSatisfied
from peer.msp.identity import SigningIdentity
from peer.msp.msp import Msp, MspVersion
from peer.msp.standard import role_principal
from tests.unit.msp.organisations import (
    UNITS,
    Authority,
    Organisation,
    managed,
    node_units,
    pem,
    read,
    serialized,
)

ORG = Organisation()
PEOPLE = {unit: ORG.issue(unit) for unit in (*UNITS.values(), "dept")}
LISTED = ORG.issue("client", common_name="listed")
ROOT_DIGEST = hashlib.sha256(ORG.root.certificate.public_bytes(serialization.Encoding.DER)).digest()


def make(version: MspVersion, *, node: bool = True) -> Msp:
    organisation = Organisation(root=ORG.root)
    organisation.config.admins = [pem(LISTED.certificate)]
    if not node:
        organisation.config.fabric_node_ous = None
    return organisation.msp(version)


MSP = make(MspVersion.V1_4_3)


def principal(kind: Classification, message: betterproto2.Message) -> MspPrincipal:
    return MspPrincipal(principal_classification=kind, principal=encode(message))


def role(role: Role, msp_id: str = "Org1MSP") -> MspPrincipal:
    return role_principal(msp_id, role)


def unit(name: str, certifiers: bytes = ROOT_DIGEST, msp_id: str = "Org1MSP") -> MspPrincipal:
    return principal(
        Classification.ORGANIZATION_UNIT,
        OrganizationUnit(
            msp_identifier=msp_id,
            organizational_unit_identifier=name,
            certifiers_identifier=certifiers,
        ),
    )


def identity(serialized: bytes) -> MspPrincipal:
    return MspPrincipal(principal_classification=Classification.IDENTITY, principal=serialized)


def combined(*parts: MspPrincipal) -> MspPrincipal:
    return principal(Classification.COMBINED, CombinedPrincipal(principals=list(parts)))


def anonymity(kind: Anonymity) -> MspPrincipal:
    return principal(Classification.ANONYMITY, MspIdentityAnonymity(anonymity_type=kind))


def refusal(msp: Msp, signer: SigningIdentity, wanted: MspPrincipal) -> str:
    """Return why not, or an empty text; by both ways to ask, twice, as answers are kept."""
    person = read(msp, signer)
    for _ in range(2):
        reason = msp.refusal(person, wanted)
        if reason is None:
            msp.satisfies(person, wanted)
        else:
            with pytest.raises(PrincipalNotSatisfied) as caught:
                msp.satisfies(person, wanted)
            assert str(caught.value) == reason
    return reason or ""


# Roles


@pytest.mark.parametrize("version", MspVersion)
@pytest.mark.parametrize("node", [True, False], ids=["node units", "none"])
@pytest.mark.parametrize("who", [*PEOPLE, "listed"])
@pytest.mark.parametrize("wanted", Role)
def test_roles(version: MspVersion, node: bool, who: str, wanted: Role) -> None:
    msp = make(version, node=node)
    signer = LISTED if who == "listed" else PEOPLE[who]
    has_units = node and version >= MspVersion.V1_1
    newer = node and version >= MspVersion.V1_4_3
    mine = "client" if who == "listed" else who
    known = set(UNITS.values()) if newer else {"client", "peer"}
    valid = not has_units or mine in known
    match wanted:
        case Role.MEMBER:
            expected = valid
        case Role.ADMIN:
            expected = who == "listed" or (newer and who == "admin")
        case Role.ORDERER:
            expected = newer and who == "orderer"
        case _:
            expected = has_units and valid and mine == UNITS[wanted]
    assert (refusal(msp, signer, role(wanted)) == "") == expected


@pytest.mark.parametrize("wanted", Role)
def test_a_role_of_another_organisation(wanted: Role) -> None:
    reason = refusal(MSP, PEOPLE["admin"], role(wanted, "Org2MSP"))
    assert reason == "the identity is a member of a different MSP (expected Org2MSP, got Org1MSP)"


def test_the_words_of_fabric() -> None:
    plain = make(MspVersion.V1_4_3, node=False)
    assert refusal(plain, PEOPLE["client"], role(Role.ADMIN)) == "This identity is not an admin"
    assert refusal(plain, PEOPLE["client"], role(Role.PEER)) == (
        "The identity is not a [PEER] under this MSP [Org1MSP]: "
        "NodeOUs not activated. Cannot tell apart identities."
    )
    assert refusal(plain, PEOPLE["client"], role(Role.ORDERER)) == "invalid MSP role type 4"
    assert refusal(MSP, PEOPLE["client"], role(Role.PEER)) == (
        "The identity is not a [PEER] under this MSP [Org1MSP]: "
        "The identity does not contain OU [PEER], MSP: [Org1MSP]"
    )
    assert refusal(MSP, PEOPLE["client"], role(Role.ADMIN)) == (
        "The identity is not an admin under this MSP [Org1MSP]: "
        "The identity does not contain OU [ADMIN], MSP: [Org1MSP]"
    )
    assert refusal(MSP, PEOPLE["dept"], role(Role.ADMIN)).startswith(
        "The identity is not valid under this MSP [Org1MSP]: could not validate identity's OUs: "
    )
    assert refusal(MSP, PEOPLE["dept"], role(Role.MEMBER)).startswith(
        "could not validate identity's OUs: the identity must be a client, a peer,"
    )


def test_a_role_that_no_unit_marks() -> None:
    organisation = Organisation(root=ORG.root)
    organisation.config.fabric_node_ous = node_units(Role.CLIENT)
    organisation.config.admins = [pem(LISTED.certificate)]
    reason = refusal(organisation.msp(), PEOPLE["client"], role(Role.PEER))
    assert "node ou for type [PEER], not defined" in reason


def test_a_listed_administrator_needs_no_more() -> None:
    """It was checked when the MSP was set up, and Fabric does not ask whether it was revoked."""
    organisation = Organisation(root=ORG.root)
    organisation.config.admins = [pem(LISTED.certificate)]
    organisation.config.revocation_list = [pem(ORG.root.revoke(LISTED.certificate.serial_number))]
    msp = organisation.msp()
    assert refusal(msp, LISTED, role(Role.ADMIN)) == ""
    assert "revoked" in refusal(msp, LISTED, role(Role.MEMBER))


def test_a_role_that_does_not_exist() -> None:
    number = MspPrincipal(principal=encode(MspRole(msp_identifier="Org1MSP", role=Role(9))))
    assert refusal(MSP, PEOPLE["client"], number) == "invalid MSP role type 9"


# Units


def test_organisation_units() -> None:
    assert refusal(MSP, PEOPLE["client"], unit("client")) == ""
    assert "do not match" in refusal(MSP, PEOPLE["client"], unit("peer"))
    assert "do not match" in refusal(MSP, PEOPLE["client"], unit("client", b""))
    assert "do not match" in refusal(MSP, PEOPLE["client"], unit("client", bytes(32)))
    assert "different MSP" in refusal(MSP, PEOPLE["client"], unit("client", msp_id="Org2MSP"))
    assert "OUs" in refusal(MSP, PEOPLE["dept"], unit("dept"))
    plain = make(MspVersion.V1_4_3, node=False)
    assert refusal(plain, PEOPLE["dept"], unit("dept")) == ""


# Identities


def test_one_identity() -> None:
    one, other = PEOPLE["client"], PEOPLE["peer"]
    assert refusal(MSP, one, identity(one.creator)) == ""
    assert refusal(MSP, one, identity(other.creator)) == "The identities do not match"
    assert "not a certificate" in refusal(MSP, one, identity(b"x"))
    stranger = Authority("other").issue(["client"])
    assert "not a certificate" in refusal(MSP, one, identity(stranger.creator))
    assert "OUs" in refusal(MSP, PEOPLE["dept"], identity(PEOPLE["dept"].creator))


def test_another_encoding_of_the_certificate_is_the_same_identity() -> None:
    one = PEOPLE["client"]
    other = serialized("Org1MSP", b"a remark\n" + pem(one.certificate))
    assert other != one.creator
    assert refusal(MSP, one, identity(other)) == ""


# Anonymous and combined


def test_nobody_is_anonymous() -> None:
    assert refusal(MSP, PEOPLE["dept"], anonymity(Anonymity.NOMINAL)) == ""
    assert "does not support anonymous" in refusal(
        MSP, PEOPLE["client"], anonymity(Anonymity.ANONYMOUS)
    )
    assert "does not support anonymous" in refusal(MSP, PEOPLE["client"], anonymity(Anonymity(5)))


def test_combined_principals_need_all() -> None:
    client, peer = role(Role.CLIENT), role(Role.PEER)
    who = PEOPLE["client"]
    assert refusal(MSP, who, combined(client, role(Role.MEMBER))) == ""
    assert refusal(MSP, who, combined(combined(client), combined(client, unit("client")))) == ""
    assert "[PEER]" in refusal(MSP, who, combined(client, peer))
    assert "[PEER]" in refusal(MSP, who, combined(client, combined(combined(peer))))
    assert refusal(MSP, who, combined()) == "No principals in CombinedPrincipal"
    assert "No principals" in refusal(MSP, who, combined(client, combined()))


def test_deep_combinations_end() -> None:
    wanted = role(Role.CLIENT)
    for _ in range(1500):
        wanted = combined(wanted)
    assert "too deep" in refusal(MSP, PEOPLE["client"], wanted)


@pytest.mark.parametrize("version", MspVersion)
def test_the_newer_kinds_came_with_1_3(version: MspVersion) -> None:
    msp = make(version)
    for wanted in (combined(role(Role.CLIENT)), anonymity(Anonymity.NOMINAL)):
        reason = refusal(msp, PEOPLE["client"], wanted)
        assert (reason == "") == (version >= MspVersion.V1_3)
        assert not reason or reason.startswith("invalid principal type")


# Malformed


def test_a_kind_that_does_not_exist() -> None:
    wanted = MspPrincipal(principal_classification=Classification(9))
    assert refusal(MSP, PEOPLE["client"], wanted) == "invalid principal type 9"


@given(st.sampled_from(Classification), st.binary(min_size=1, max_size=40))
def test_random_principals_are_refused_by_reason(kind: Classification, content: bytes) -> None:
    wanted = MspPrincipal(principal_classification=kind, principal=b"\x0f" + content)
    assert refusal(MSP, PEOPLE["client"], wanted)


def test_a_long_principal_is_looked_at_and_not_kept() -> None:
    wanted = combined(*[role(Role.CLIENT)] * 1200)
    assert len(wanted.principal) > 16_384
    assert refusal(MSP, PEOPLE["client"], wanted) == ""


def test_a_manager_asks_the_identitys_msp() -> None:
    other = Organisation("Org2MSP")
    manager = managed(ORG, other)
    peer = read(manager, other.issue("peer"))
    manager.satisfies(peer, role(Role.PEER, "Org2MSP"))
    with pytest.raises(PrincipalNotSatisfied, match="different MSP"):
        manager.satisfies(peer, role(Role.PEER))
