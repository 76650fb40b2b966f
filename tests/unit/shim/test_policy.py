"""Key endorsement policies: the bytes of Go, whatever the order."""

from __future__ import annotations

import itertools

import pytest

from fabric_protos.stream import MspPrincipal, SignaturePolicyEnvelope
from shim import KeyEndorsementPolicy

VECTOR = "120c120a080212020800120208011a0b12090a074f7267314d53501a0d120b0a074f7267324d53501003"


@pytest.mark.parametrize(
    "order", list(itertools.permutations([("MEMBER", "Org1MSP"), ("PEER", "Org2MSP")]))
)
def test_bytes_do_not_depend_on_the_order(order: tuple[tuple[str, str], ...]) -> None:
    policy = KeyEndorsementPolicy()
    for role, org in order:
        policy.add_orgs(role, org)
    assert policy.policy().hex() == VECTOR


def test_no_organisations() -> None:
    assert KeyEndorsementPolicy().policy().hex() == "12021200"


def test_edit_an_existing_policy() -> None:
    policy = KeyEndorsementPolicy(bytes.fromhex(VECTOR))
    assert policy.list_orgs() == ["Org1MSP", "Org2MSP"]
    assert policy.policy().hex() == VECTOR
    policy.del_orgs("Org1MSP", "unknown")
    policy.add_orgs("MEMBER", "Org2MSP")
    assert policy.list_orgs() == ["Org2MSP"]


def test_only_roles_are_taken_over() -> None:
    envelope = SignaturePolicyEnvelope(
        identities=[MspPrincipal(principal_classification=2, principal=b"certificate")]
    )
    assert KeyEndorsementPolicy(envelope.encode()).list_orgs() == []


def test_refusals() -> None:
    with pytest.raises(ValueError, match="role type ADMIN does not exist"):
        KeyEndorsementPolicy().add_orgs("ADMIN", "Org1MSP")
    with pytest.raises(ValueError, match="SignaturePolicyEnvelope"):
        KeyEndorsementPolicy(b"\xff")
