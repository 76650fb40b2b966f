"""Signature policies: whose signatures count, in which order, and what is said when they do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fabric_protos.codec import encode
from fabric_protos.common import (
    MspPrincipal,
    SignaturePolicy,
    SignaturePolicyEnvelope,
    SignaturePolicyNOutOf,
)
from peer.errors import PolicyInvalid, PolicyNotSatisfied
from peer.msp.dsl import format_principal, parse_policy
from peer.msp.policies import Policy, SignedData, from_bytes, from_envelope
from peer.msp.standard import accept_all, reject_all
from tests.unit.msp.organisations import (
    Authority,
    Organisation,
    managed,
    pem,
    read,
    serialized,
    signed,
    with_s,
)

ORGS = {name: Organisation(name) for name in "ABC"}
MSPS = managed(*ORGS.values())
PEERS = {name: org.issue("peer", common_name=f"peer of {name}") for name, org in ORGS.items()}
ADMIN = ORGS["A"].issue("admin", common_name="admin of A")


def policy(text: str) -> Policy:
    return from_envelope(parse_policy(text), MSPS)


def is_satisfied(wanted: Policy, signatures: Sequence[SignedData]) -> bool:
    try:
        wanted.evaluate(signatures)
    except PolicyNotSatisfied:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "signers", "expected"),
    [
        ("AND('A.peer', 'B.peer')", "AB", True),
        ("AND('A.peer', 'B.peer')", "BA", True),
        ("AND('A.peer', 'B.peer')", "A", False),
        ("AND('A.peer', 'B.peer')", "ACC", False),
        ("AND('A.peer', 'A.peer')", "A", False),
        ("AND('A.peer', 'A.peer')", "AA", False),
        ("OR('A.peer', 'B.peer')", "B", True),
        ("OR('A.peer', 'B.peer')", "C", False),
        ("OR('A.peer', 'B.peer')", "", False),
        ("OutOf(2, 'A.peer', 'B.peer', 'C.peer')", "CA", True),
        ("OutOf(2, 'A.peer', 'B.peer', 'C.peer')", "CC", False),
        ("OutOf(0, 'A.peer')", "", True),
        ("OutOf(2, 'A.peer')", "A", False),
        ("AND('A.member', OR('B.peer', 'C.peer'))", "AC", True),
        ("AND('A.member', OR('B.peer', 'C.peer'))", "BC", False),
        ("AND('A.client')", "A", False),
    ],
)
def test_gates(text: str, signers: str, expected: bool) -> None:
    assert is_satisfied(policy(text), [signed(PEERS[each]) for each in signers]) == expected


def test_a_signature_is_used_once_and_never_given_back() -> None:
    """The first signature that fits is taken: with another order the same ones may suffice."""
    wanted = policy("AND('A.member', 'A.admin')")
    peer, admin = signed(PEERS["A"]), signed(ADMIN)
    assert is_satisfied(wanted, [peer, admin])
    assert not is_satisfied(wanted, [admin, peer])
    assert is_satisfied(policy("AND('A.admin', 'A.member')"), [admin, peer])


def test_a_gate_that_fails_gives_back_what_it_took() -> None:
    wanted = policy("OR(AND('A.peer', 'B.peer'), 'A.peer')")
    assert is_satisfied(wanted, [signed(PEERS["A"])])


def test_all_rules_are_tried_even_when_enough_succeeded() -> None:
    """The third rule takes the signature that the rule behind the gate would have needed."""
    a_gate = "OutOf(1, 'B.peer', 'C.peer', 'A.peer')"
    # Inner gates are numbered, not evaluated, before what stands beside them.
    wanted = policy(f"AND({a_gate}, 'A.peer')")
    assert not is_satisfied(wanted, [signed(PEERS["B"]), signed(PEERS["A"])])
    other = policy(f"AND('A.peer', {a_gate})")
    assert is_satisfied(other, [signed(PEERS["B"]), signed(PEERS["A"])])


def test_everything_and_nothing() -> None:
    signatures = [signed(PEERS["A"])]
    for some in ([], signatures):
        assert is_satisfied(from_envelope(accept_all(), MSPS), some)
        assert not is_satisfied(from_envelope(reject_all(), MSPS), some)


# What counts


BOTH = policy("AND('A.peer', 'B.peer')")
GOOD = [signed(PEERS["A"]), signed(PEERS["B"])]


def discounted(*bad: SignedData) -> str:
    """Return why *bad* does not stand for A, having seen that it does no harm beside A's own."""
    BOTH.evaluate([*bad, *GOOD])
    BOTH.evaluate([*GOOD, *bad])
    with pytest.raises(PolicyNotSatisfied) as caught:
        BOTH.evaluate([*bad, GOOD[1]])
    (reason,) = caught.value.discounted
    assert reason in str(caught.value)
    assert caught.value.signers == (str(read(MSPS, PEERS["B"])),)
    return reason


def test_signatures_that_do_not_count() -> None:
    good = GOOD[0]
    assert "The signature is invalid" in discounted(good._replace(data=b"other"))
    assert "The signature is invalid" in discounted(good._replace(identity=ADMIN.creator))
    assert "failed to unmarshal signature" in discounted(good._replace(signature=b""))
    assert "unreadable identity: could not deserialize" in discounted(
        good._replace(identity=b"\xff")
    )
    unknown = serialized("Org9", ORGS["A"].root.pem)
    assert "MSP Org9 is unknown" in discounted(good._replace(identity=unknown))
    stranger = Authority("other").issue(["peer"], msp_id="A")
    assert "unknown authority" in discounted(signed(stranger))


def test_a_certificate_counts_once_however_it_is_written() -> None:
    other = serialized("A", pem(with_s(PEERS["A"].certificate, ORGS["A"].root.key, high=True)))
    wanted = policy("AND('A.peer', 'A.peer')")
    again = GOOD[0]._replace(identity=other)
    with pytest.raises(PolicyNotSatisfied, match="signed more than once"):
        wanted.evaluate([GOOD[0], again])
    assert is_satisfied(wanted, [GOOD[0], signed(ORGS["A"].issue("peer"))])


def test_a_wrong_signature_does_not_use_the_certificate_up() -> None:
    assert is_satisfied(BOTH, [GOOD[0]._replace(signature=b"x"), *GOOD])


def test_thousands_of_copies_are_verified_once() -> None:
    msps = managed(*ORGS.values())
    identity = read(msps, PEERS["A"])
    verify, calls = identity.verify, []

    def counted(data: bytes, signature: bytes) -> None:
        calls.append(data)
        verify(data, signature)

    identity.verify = counted
    from_envelope(parse_policy("OR('A.peer')"), msps).evaluate([GOOD[0]] * 1000)
    assert len(calls) == 1


def test_an_invalid_identity_signs_and_satisfies_no_role() -> None:
    """Validity is part of each principal, not of the signature."""
    signer = ORGS["A"].issue("peer", "client")
    with pytest.raises(PolicyNotSatisfied) as caught:
        policy("OR('A.member')").evaluate([signed(signer)])
    assert caught.value.signers
    assert not caught.value.discounted


def test_identities_without_signatures() -> None:
    identities = [read(MSPS, PEERS[name]) for name in "AB"]
    BOTH.evaluate_identities(identities)
    with pytest.raises(PolicyNotSatisfied, match=r"missing 1 of \['B.peer'\]"):
        BOTH.evaluate_identities(identities[:1])


def test_what_is_missing_is_said() -> None:
    wanted = policy("AND('A.peer', OutOf(2, 'B.peer', 'C.peer', 'C.admin'))")
    with pytest.raises(PolicyNotSatisfied) as caught:
        wanted.evaluate([signed(PEERS["B"])])
    assert caught.value.reason == (
        "signature set did not satisfy policy "
        "AND('A.peer', OutOf(2, 'B.peer', 'C.peer', 'C.admin')): "
        "missing 2 of ['A.peer', 1 of ['C.peer', 'C.admin']]"
    )
    assert str(caught.value).endswith(f"; signed by {read(MSPS, PEERS['B'])}")
    with pytest.raises(PolicyNotSatisfied, match="; signed by nobody"):
        wanted.evaluate([])


# What cannot be built


def out_of(n: int, *rules: SignaturePolicy) -> SignaturePolicy:
    return SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=n, rules=list(rules)))


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (None, "Empty policy element"),
        (SignaturePolicy(), "neither signed_by nor n_out_of"),
        (SignaturePolicy(signed_by=1), "identity index out of range, requested 1"),
        (SignaturePolicy(signed_by=-1), "identity index out of range, requested -1"),
        (out_of(1, SignaturePolicy(signed_by=0), SignaturePolicy(signed_by=5)), "requested 5"),
        (out_of(1, out_of(1, SignaturePolicy())), "neither signed_by nor n_out_of"),
    ],
)
def test_rules_that_are_none(rule: SignaturePolicy | None, reason: str) -> None:
    envelope = SignaturePolicyEnvelope(rule=rule, identities=[MspPrincipal()])
    with pytest.raises(PolicyInvalid, match=reason):
        from_envelope(envelope, MSPS)
    with pytest.raises(PolicyInvalid, match=reason):
        from_bytes(encode(envelope), MSPS)


def test_one_rule_without_a_gate() -> None:
    envelope = parse_policy("OR('A.peer')")
    envelope.rule = SignaturePolicy(signed_by=0)
    assert is_satisfied(from_envelope(envelope, MSPS), [GOOD[0]])
    with pytest.raises(PolicyNotSatisfied, match=r"policy 'A.peer': missing 'A.peer'"):
        from_envelope(envelope, MSPS).evaluate([GOOD[1]])


def test_a_negative_number_is_always_reached() -> None:
    assert is_satisfied(from_envelope(SignaturePolicyEnvelope(rule=out_of(-1)), MSPS), [])


def test_the_version_matters_for_bytes_only() -> None:
    envelope = parse_policy("OR('A.peer')")
    envelope.version = 1
    assert is_satisfied(from_envelope(envelope, MSPS), GOOD)
    with pytest.raises(PolicyInvalid, match="version 0, but version was 1"):
        from_bytes(encode(envelope), MSPS)
    with pytest.raises(PolicyInvalid, match="Error unmarshalling"):
        from_bytes(b"\xff", MSPS)


def test_a_policy_nested_too_deep() -> None:
    rule = out_of(0)
    for _ in range(3000):
        rule = out_of(1, rule)
    with pytest.raises(PolicyInvalid, match="nested too deep"):
        from_envelope(SignaturePolicyEnvelope(rule=rule), MSPS)


def ways(wanted: Policy, without: str = "") -> list[str]:
    """Return the ways to satisfy a policy, as text."""
    found = wanted.principal_sets(lambda principal: format_principal(principal) != without)
    return [" ".join(map(format_principal, way)) for way in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OR('A.peer', 'B.admin')", ["'A.peer'", "'B.admin'"]),
        ("AND('A.peer', 'A.peer')", ["'A.peer' 'A.peer'"]),
        (
            "OutOf(2, 'A.peer', 'B.peer', 'C.peer')",
            ["'A.peer' 'B.peer'", "'A.peer' 'C.peer'", "'B.peer' 'C.peer'"],
        ),
        ("AND('A.peer', OR('B.peer', 'C.peer'))", ["'A.peer' 'B.peer'", "'A.peer' 'C.peer'"]),
        ("OutOf(3, 'A.peer', 'B.peer')", []),
    ],
)
def test_the_ways_to_satisfy_a_policy(text: str, expected: list[str]) -> None:
    assert ways(policy(text)) == expected


def test_ways_without_a_principal_that_nobody_is() -> None:
    any_two = policy("OutOf(2, 'A.peer', 'B.peer', AND('A.peer', 'C.peer'))")
    assert ways(any_two, without="'B.peer'") == ["'A.peer' 'A.peer' 'C.peer'"]
    assert ways(any_two, without="'A.peer'") == []


def test_there_are_ways_to_satisfy_what_everybody_and_nobody_does() -> None:
    assert ways(from_envelope(accept_all(), MSPS)) == [""]
    assert ways(from_envelope(reject_all(), MSPS)) == []


def test_of_too_many_ways_the_first_are_returned() -> None:
    """There are 155 million; what cannot be satisfied is not even tried."""
    any_15_of_30 = SignaturePolicyNOutOf(
        n=15,
        rules=[SignaturePolicy(signed_by=0) for _ in range(30)]
        + [SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=1)) for _ in range(30)],
    )
    envelope = SignaturePolicyEnvelope(
        rule=SignaturePolicy(n_out_of=any_15_of_30), identities=[MspPrincipal()]
    )
    found = from_envelope(envelope, MSPS).principal_sets(lambda principal: True)
    assert (len(found), len(found[0])) == (10_000, 15)


def test_of_ways_that_take_very_many_there_are_fewer() -> None:
    half = SignaturePolicyNOutOf(n=4000, rules=[SignaturePolicy(signed_by=0)] * 8000)
    envelope = SignaturePolicyEnvelope(
        rule=SignaturePolicy(n_out_of=half), identities=[MspPrincipal()]
    )
    found = from_envelope(envelope, MSPS).principal_sets(lambda principal: True)
    assert (len(found), {len(way) for way in found}) == (250, {4000})
