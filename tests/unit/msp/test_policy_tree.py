"""A channel's policies by path: implicit ones, missing ones, and those that definitions name."""

from __future__ import annotations

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    ConfigGroup,
    ConfigPolicy,
    ImplicitMetaPolicy,
    ImplicitMetaPolicyRule,
    MspRole,
    SignaturePolicyEnvelope,
)
from fabric_protos.common import Policy as PolicyMessage
from fabric_protos.protos import ApplicationPolicy
from peer.errors import PolicyInvalid, PolicyNotSatisfied
from peer.msp.dsl import parse_implicit_meta, parse_policy
from peer.msp.policies import Policy, PolicyManager
from tests.unit.msp.organisations import Organisation, managed, signed

SIGNATURE, IMPLICIT_META = 1, 3
ORGS = {name: Organisation(name) for name in "ABCDE"}
MSPS = managed(*ORGS.values())
SIGNED = {name: signed(org.issue("peer")) for name, org in ORGS.items()}


def configured(kind: int, content: bytes) -> ConfigPolicy:
    return ConfigPolicy(policy=PolicyMessage(type=kind, value=content))


def signature(text: str) -> ConfigPolicy:
    return configured(SIGNATURE, encode(parse_policy(text)))


def implicit(text: str) -> ConfigPolicy:
    return configured(IMPLICIT_META, encode(parse_implicit_meta(text)))


def organisations(names: str, policy: str = "Endorsement") -> dict[str, ConfigGroup]:
    """Make the groups; their names are not those of the MSPs."""
    return {
        f"org{name}": ConfigGroup(policies={policy: signature(f"OR('{name}.peer')")})
        for name in names
    }


def is_satisfied(policy: Policy, signers: str) -> bool:
    try:
        policy.evaluate([SIGNED[name] for name in signers])
    except PolicyNotSatisfied:
        return False
    return True


CHANNEL = ConfigGroup(
    policies={"Readers": implicit("ANY Readers"), "Admins": implicit("ANY Admins")},
    groups={
        "Application": ConfigGroup(
            policies={
                "Readers": signature("OR('A.peer')"),
                "Endorsement": implicit("MAJORITY Endorsement"),
            },
            groups=organisations("AB"),
        ),
        "Orderer": ConfigGroup(policies={"Readers": signature("OR('B.peer')")}),
    },
)
MANAGER = PolicyManager(CHANNEL, MSPS)


@pytest.mark.parametrize("rule", ImplicitMetaPolicyRule)
@pytest.mark.parametrize("count", range(6))
def test_implicit_rules(rule: ImplicitMetaPolicyRule, count: int) -> None:
    names = "ABCDE"[:count]
    group = ConfigGroup(
        policies={"Endorsement": implicit(f"{rule.name} Endorsement")},
        groups=organisations(names),
    )
    policy = PolicyManager(group, MSPS).policy("Endorsement")
    needed = {"ANY": 1, "ALL": count, "MAJORITY": count // 2 + 1}[rule.name] if count else 0
    for signers in range(count + 1):
        assert is_satisfied(policy, names[:signers]) == (signers >= needed)


def test_a_group_that_lacks_the_policy_rejects_and_counts() -> None:
    groups = organisations("A") | organisations("BC", "Other")
    for text, expected in (("ANY", True), ("MAJORITY", False), ("ALL", False)):
        group = ConfigGroup(policies={"P": implicit(f"{text} Endorsement")}, groups=groups)
        assert is_satisfied(PolicyManager(group, MSPS).policy("P"), "ABC") == expected


def test_implicit_policies_of_implicit_policies() -> None:
    assert is_satisfied(MANAGER.policy("/Channel/Readers"), "A")
    assert is_satisfied(MANAGER.policy("/Channel/Readers"), "B")
    assert not is_satisfied(MANAGER.policy("/Channel/Readers"), "C")
    assert not is_satisfied(MANAGER.policy("/Channel/Admins"), "ABC")


def test_each_policy_below_sees_all_signatures() -> None:
    """A signature that satisfies one group's policy is not used up for the next."""
    groups = {name: ConfigGroup(policies={"P": signature("OR('A.peer')")}) for name in "xyz"}
    group = ConfigGroup(policies={"P": implicit("ALL P")}, groups=groups)
    assert is_satisfied(PolicyManager(group, MSPS).policy("P"), "A")


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/Channel/Readers",
        "/Channel/Application/Endorsement",
        "/Channel/Application/orgA/Endorsement",
        "/Channel/Orderer/Readers",
        "Readers",
        "Application/Readers",
        "Application/orgB/Endorsement",
    ],
)
def test_paths(path: str) -> None:
    assert MANAGER.has_policy(path)
    absolute = "/Channel/" + path.removeprefix("/Channel/")
    assert MANAGER.policy(path).path == absolute


def test_relative_paths_begin_at_the_group() -> None:
    application = MANAGER.groups["Application"]
    assert application.path == "Channel/Application"
    readers = application.policy("Readers")
    assert readers is MANAGER.policy("/Channel/Application/Readers")
    assert readers is application.policy("/Channel/Application/Readers")
    assert readers is not MANAGER.policy("Readers")
    assert application.groups["orgA"].policy("Endorsement").path.endswith("orgA/Endorsement")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/Channel",
        "/Channel/",
        "/Channel/Nothing",
        "/Channel/Nothing/Readers",
        "/Channel/Application/orgA/x/Endorsement",
        "/Channel/Application",
        "/Other/Readers",
        "/ChannelReaders",
        "/Readers",
        "Channel/Readers",
        "Application//Readers",
        "readers",
    ],
)
def test_a_missing_policy_rejects_all(path: str) -> None:
    assert not MANAGER.has_policy(path)
    policy = MANAGER.policy(path)
    assert not is_satisfied(policy, "ABCDE")
    with pytest.raises(PolicyNotSatisfied, match="No such policy"):
        policy.evaluate([])


def test_an_absolute_path_of_another_group() -> None:
    assert not MANAGER.groups["Application"].has_policy("/Channel/Readers")


# What is said


def test_a_refusal_names_the_policies() -> None:
    with pytest.raises(PolicyNotSatisfied) as caught:
        MANAGER.policy("/Channel/Application/Endorsement").evaluate([SIGNED["A"]])
    assert caught.value.reason == (
        "/Channel/Application/Endorsement: implicit policy evaluation failed - "
        "1 sub-policies were satisfied, but this policy requires 2 of the 'Endorsement' "
        "sub-policies to be satisfied: /Channel/Application/orgB/Endorsement: signature set did "
        "not satisfy policy AND('B.peer'): missing 1 of ['B.peer']"
    )
    with pytest.raises(PolicyNotSatisfied, match=r"^/Channel/Application/Readers: signature set"):
        MANAGER.policy("/Channel/Application/Readers").evaluate([])


# Trees that cannot be built


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (ConfigPolicy(), "is empty"),
        (configured(0, b""), "unknown policy type: 0"),
        (configured(2, b""), "unknown policy type: 2"),
        (configured(SIGNATURE, b""), "Empty policy element"),
        (configured(SIGNATURE, b"\xff"), "Error unmarshalling"),
        (configured(IMPLICIT_META, b"\xff"), "cut short"),
        (
            configured(IMPLICIT_META, encode(ImplicitMetaPolicy(rule=ImplicitMetaPolicyRule(7)))),
            "no rule of an implicit meta policy: 7",
        ),
    ],
)
def test_policies_that_cannot_be_built(policy: ConfigPolicy, reason: str) -> None:
    group = ConfigGroup(groups={"Application": ConfigGroup(policies={"Bad": policy})})
    with pytest.raises(PolicyInvalid, match=reason) as caught:
        PolicyManager(group, MSPS)
    assert "/Channel/Application/Bad" in str(caught.value)


# What definitions name


def application(
    envelope: SignaturePolicyEnvelope | None = None, reference: str | None = None
) -> bytes:
    return encode(
        ApplicationPolicy(signature_policy=envelope, channel_config_policy_reference=reference)
    )


def test_application_policies() -> None:
    by_signature = MANAGER.application_policy(application(parse_policy("OR('B.peer')")))
    assert [is_satisfied(by_signature, name) for name in "AB"] == [False, True]
    by_path = MANAGER.application_policy(application(reference="/Channel/Application/Endorsement"))
    assert [is_satisfied(by_path, names) for names in ("A", "AB")] == [False, True]


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        (b"", "unsupported policy type"),
        (b"\xff", "failed to unmarshal ApplicationPolicy bytes"),
        (application(reference="/Channel/None"), "failed to retrieve policy for reference"),
        (application(reference=""), "failed to retrieve policy for reference"),
        (application(SignaturePolicyEnvelope()), "Empty policy element"),
    ],
)
def test_application_policies_that_are_none(parameter: bytes, reason: str) -> None:
    for _ in range(2):
        with pytest.raises(PolicyInvalid, match=reason):
            MANAGER.application_policy(parameter)


def test_bytes_that_are_both_messages_are_read_as_told() -> None:
    """A legacy policy's bytes may be an application policy too: the caller knows which it is."""
    envelope = encode(parse_policy("OR('A.peer')"))
    assert is_satisfied(MANAGER.signature_policy(envelope), "A")
    with pytest.raises(PolicyInvalid):
        MANAGER.application_policy(envelope)


def test_signature_policies_of_any_version() -> None:
    envelope = parse_policy("OR('A.peer')")
    envelope.version = 3
    assert is_satisfied(MANAGER.signature_policy(encode(envelope)), "A")
    for broken in (b"", b"\xff"):
        with pytest.raises(PolicyInvalid):
            MANAGER.signature_policy(broken)


def test_a_policy_is_built_once_for_the_same_bytes() -> None:
    data = application(parse_policy("OR('B.peer')"))
    assert MANAGER.application_policy(data) is MANAGER.application_policy(bytes(bytearray(data)))
    envelope = encode(parse_policy("OR('B.peer')"))
    assert MANAGER.signature_policy(envelope) is MANAGER.signature_policy(envelope)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("ANY", ["A", "B", "C"]),
        ("MAJORITY", ["AB", "AC", "BC"]),
        ("ALL", ["ABC"]),
    ],
)
def test_the_ways_to_satisfy_an_implicit_policy(rule: str, expected: list[str]) -> None:
    group = ConfigGroup(
        groups=organisations("ABC"), policies={"Endorsement": implicit(f"{rule} Endorsement")}
    )
    manager = PolicyManager(group, MSPS)
    found = manager.policy("Endorsement").principal_sets(lambda principal: True)
    assert [
        "".join(decode(MspRole, each.principal).msp_identifier for each in way) for way in found
    ] == expected
    assert manager.policy("Missing").principal_sets(lambda principal: True) == []
