"""The text of policies: bytes as Fabric makes them, and errors that point at the place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_protos.codec import encode
from fabric_protos.common import (
    ImplicitMetaPolicy,
    ImplicitMetaPolicyRule,
    MspPrincipal,
    MspPrincipalClassification,
    MspRole,
    OrganizationUnit,
    SignaturePolicy,
    SignaturePolicyEnvelope,
    SignaturePolicyNOutOf,
)
from fabric_protos.common import MspRoleMspRoleType as Role
from peer.errors import PolicyInvalid, PolicySyntaxError
from peer.msp.dsl import format_policy, format_principal, parse_implicit_meta, parse_policy
from peer.msp.standard import (
    accept_all,
    majority_of,
    reject_all,
    role_principal,
    signed_by_any,
)


def by(number: int) -> SignaturePolicy:
    return SignaturePolicy(signed_by=number)


def out_of(n: int, *rules: SignaturePolicy) -> SignaturePolicy:
    return SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=n, rules=list(rules)))


def principals(*texts: str) -> list[MspPrincipal]:
    split = (text.rsplit(".", 1) for text in texts)
    return [role_principal(msp_id, Role[role.upper()]) for msp_id, role in split]


def bytes_of(rule: SignaturePolicy, *identities: str) -> bytes:
    return encode(SignaturePolicyEnvelope(rule=rule, identities=principals(*identities)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "AND('Org1MSP.member','Org2MSP.member')",
            bytes_of(out_of(2, by(0), by(1)), "Org1MSP.member", "Org2MSP.member"),
        ),
        (
            "OR('A.member', AND('B.member','C.member'))",
            bytes_of(out_of(1, by(2), out_of(2, by(0), by(1))), "B.member", "C.member", "A.member"),
        ),
        (
            "AND('A.peer', OR('B.client', 'C.admin'), 'D.orderer', OutOf(2, 'E.peer', 'F.peer'))",
            bytes_of(
                out_of(4, by(4), out_of(1, by(0), by(1)), by(5), out_of(2, by(2), by(3))),
                *("B.client", "C.admin", "E.peer", "F.peer", "A.peer", "D.orderer"),
            ),
        ),
        (
            "OR(AND('A.peer', OR('B.peer', 'C.peer')), 'D.peer')",
            bytes_of(
                out_of(1, out_of(2, by(2), out_of(1, by(0), by(1))), by(3)),
                *("B.peer", "C.peer", "A.peer", "D.peer"),
            ),
        ),
        ("OR('A.member','A.member')", bytes_of(out_of(1, by(0), by(1)), "A.member", "A.member")),
        ("AND('A.member')", bytes_of(out_of(1, by(0)), "A.member")),
        ("OutOf(0, 'A.member')", bytes_of(out_of(0, by(0)), "A.member")),
        ("OutOf(2, 'A.member')", bytes_of(out_of(2, by(0)), "A.member")),
        ("OutOf('1', 'A.member')", bytes_of(out_of(1, by(0)), "A.member")),
        ('OutOf("1", "A.member")', bytes_of(out_of(1, by(0)), "A.member")),
        ("OR('my.org-1.MSP.peer')", bytes_of(out_of(1, by(0)), "my.org-1.MSP.peer")),
        ("OR('peer.peer')", bytes_of(out_of(1, by(0)), "peer.peer")),
        ("OR('1.client')", bytes_of(out_of(1, by(0)), "1.client")),
        (
            " \tAnd\n(  'A.member'\r\n,'B.member' )  ",
            bytes_of(out_of(2, by(0), by(1)), "A.member", "B.member"),
        ),
    ],
)
def test_the_bytes_of_a_policy(text: str, expected: bytes) -> None:
    assert encode(parse_policy(text)) == expected


def test_a_policy_byte_by_byte() -> None:
    """As a real network wrote it into its ledger."""
    assert encode(parse_policy("AND('Org1MSP.member','Org2MSP.member')")) == bytes.fromhex(
        "120c" "120a" "0802" "1202" "0800" "1202" "0801"
        "1a0b" "1209" "0a07" "4f7267314d5350"
        "1a0b" "1209" "0a07" "4f7267324d5350"
    )  # fmt: skip


@pytest.mark.parametrize("gate", ["And", "and", "AND", "Or", "or", "OR"])
def test_the_spellings_of_gates(gate: str) -> None:
    expected = 2 if gate.upper() == "AND" else 1
    rule = parse_policy(f"{gate}('A.peer', 'B.peer')").rule
    assert rule == out_of(expected, by(0), by(1))


@pytest.mark.parametrize("gate", ["OutOf", "outof", "OUTOF"])
def test_the_spellings_of_out_of(gate: str) -> None:
    assert parse_policy(f"{gate}(1, 'A.peer', 'B.peer')").rule == out_of(1, by(0), by(1))


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 0, "expected a gate"),
        ("   ", 3, "expected a gate"),
        ("'A.member'", 0, "expected a gate (AND, OR, OutOf), not A.member"),
        ("aNd('A.member')", 0, "expected a gate (AND, OR, OutOf), not aNd"),
        ("XOR('A.member')", 0, "expected a gate"),
        ("'AND'('A.member')", 0, "expected a gate"),
        ("AND", 3, "expected (, not the end"),
        ("AND 'A.member'", 4, "expected (, not A.member"),
        ("AND(", 4, "expected a gate or a principal, not the end"),
        ("AND()", 4, "expected a gate or a principal, not )"),
        ("AND('A.member'", 14, "expected , or ), not the end"),
        ("AND('A.member',)", 15, "expected a gate or a principal, not )"),
        ("AND('A.member' 'B.member')", 15, "expected , or ), not B.member"),
        ("AND('A.member'))", 15, "expected the end, not )"),
        ("AND('A.member') OR", 16, "expected the end, not OR"),
        ("AND(A.member)", 4, "expected a gate (AND, OR, OutOf), not A.member"),
        ("AND(5)", 4, "expected a gate or a principal, not 5"),
        ("AND('A.member', 'B')", 16, "error parsing principal B"),
        ("AND('A.boss')", 4, "error parsing principal A.boss"),
        ("AND('A.MEMBER')", 4, "error parsing principal A.MEMBER"),
        ("AND('.member')", 4, "error parsing principal"),
        ("AND('A.member ')", 4, "error parsing principal"),
        ("AND('Ä.member')", 4, "error parsing principal"),
        ("AND('A_1.member')", 4, "error parsing principal"),
        ("AND('')", 4, "error parsing principal"),
        ("AND('A.member\n')", 4, "error parsing principal"),
        ("AND('A.member)", 4, 'unexpected "\'"'),
        ("AND('A.member\")", 4, 'unexpected "\'"'),
        ("AND(;)", 4, "unexpected ';'"),
        ("OutOf('A.member')", 6, "expected a number, not A.member"),
        ("OutOf(-1, 'A.member')", 6, "unexpected '-'"),
        ("OutOf(1.5, 'A.member')", 7, "unexpected '.'"),
        ("OutOf(1)", 7, "expected ,, not )"),
        ("OutOf(1,)", 8, "expected a gate or a principal"),
        ("OutOf(3, 'A.member')", 6, "invalid t-out-of-n predicate, t 3, n 1"),
        ("OutOf('3', 'A.member')", 6, "invalid t-out-of-n predicate, t 3, n 1"),
        ("OutOf('²', 'A.member')", 6, "expected a number"),
        ("OutOf('٣', 'A.member')", 6, "expected a number"),
        ("AND('A.member', OutOf(9, 'B.member'))", 22, "invalid t-out-of-n predicate"),
    ],
)
def test_errors_point_at_the_place(text: str, position: int, reason: str) -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        parse_policy(text)
    assert caught.value.text == text
    assert caught.value.position == position
    assert caught.value.reason.startswith(reason)


def test_what_an_error_looks_like() -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        parse_policy("AND('A.member', XOR)")
    assert str(caught.value).splitlines() == [
        "expected a gate (AND, OR, OutOf), not XOR at character 17",
        "  AND('A.member', XOR)",
        "                  ^",
    ]


def test_deep_nesting_ends() -> None:
    with pytest.raises(PolicySyntaxError, match="nested too deep"):
        parse_policy("OR(" * 5000 + "'A.member'" + ")" * 5000)


def test_a_number_of_any_length_ends() -> None:
    with pytest.raises(PolicySyntaxError, match="expected a number"):
        parse_policy(f"OutOf({'9' * 5000}, 'A.member')")


@given(st.text(alphabet="ANDORoutf(),' \"1.member", max_size=40))
def test_random_text_is_read_or_refused(text: str) -> None:
    try:
        envelope = parse_policy(text)
    except PolicySyntaxError as exc:
        position = exc.position
    else:
        assert parse_policy(format_policy(envelope)) == envelope
        return
    assert 0 <= position <= len(text)


# Back to text

ROLES = st.sampled_from(["member", "admin", "client", "peer", "orderer"])
MSP_IDS = st.from_regex(r"\A[A-Za-z0-9.-]{1,8}\Z")
LEAVES = st.builds("'{}.{}'".format, MSP_IDS, ROLES)


def gates(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    arguments = st.lists(inner, min_size=1, max_size=4)
    named = st.builds(
        lambda gate, args: f"{gate}({', '.join(args)})", st.sampled_from(["AND", "OR"]), arguments
    )
    counted = arguments.flatmap(
        lambda args: st.integers(0, len(args) + 1).map(lambda n: f"OutOf({n}, {', '.join(args)})")
    )
    return named | counted


TEXTS = gates(st.recursive(LEAVES, gates, max_leaves=12))


@given(TEXTS)
def test_what_was_read_is_written_and_read_again(text: str) -> None:
    envelope = parse_policy(text)
    written = format_policy(envelope)
    assert encode(parse_policy(written)) == encode(envelope)
    assert format_policy(parse_policy(written)) == written


@pytest.mark.parametrize(
    "text",
    [
        "AND('A.member', 'B.peer')",
        "OR('A.member', AND('B.admin', 'C.client'))",
        "OutOf(2, 'A.member', 'B.orderer', 'C.member')",
        "OutOf(0, 'A.member')",
        "OutOf(3, 'A.member', 'B.member')",
    ],
)
def test_the_text_that_is_written(text: str) -> None:
    assert format_policy(parse_policy(text)) == text


def test_principals_without_text_are_described() -> None:
    unit = OrganizationUnit(msp_identifier="A", organizational_unit_identifier="dept")
    kinds = MspPrincipalClassification
    for kind, content, text in (
        (kinds.ORGANIZATION_UNIT, encode(unit), "<unit dept of A>"),
        (kinds.IDENTITY, b"x", "<the identity of SHA-256 2d711642b726b044>"),
        (kinds.COMBINED, b"", "<principal of type 4>"),
        (kinds(9), b"", "<principal of type 9>"),
        (kinds.ROLE, b"\xff", "<principal of type 0>"),
        (kinds.ROLE, encode(MspRole(msp_identifier="A", role=Role(9))), "<principal of type 0>"),
    ):
        principal = MspPrincipal(principal_classification=kind, principal=content)
        assert format_principal(principal) == text


@pytest.mark.parametrize(
    "rule", [None, SignaturePolicy(), by(0), by(-1), out_of(1, by(0))], ids=str
)
def test_what_has_no_text(rule: SignaturePolicy | None) -> None:
    with pytest.raises(PolicyInvalid):
        format_policy(SignaturePolicyEnvelope(rule=rule))


# Ready-made


def test_any_of_some_organisations() -> None:
    assert encode(signed_by_any(Role.MEMBER, ["B", "C", "A"])) == bytes_of(
        out_of(1, by(0), by(1), by(2)), "A.member", "B.member", "C.member"
    )
    assert encode(signed_by_any(Role.ADMIN, {"B"})) == bytes_of(out_of(1, by(0)), "B.admin")


@pytest.mark.parametrize(("msp_ids", "n"), [("A", 1), ("AB", 2), ("CAB", 2), ("ABCD", 3)])
def test_most_organisations(msp_ids: str, n: int) -> None:
    rules = [by(number) for number in range(len(msp_ids))]
    expected = bytes_of(out_of(n, *rules), *(f"{each}.peer" for each in sorted(msp_ids)))
    assert encode(majority_of(Role.PEER, msp_ids)) == expected


def test_everything_and_nothing() -> None:
    assert encode(accept_all()) == bytes_of(out_of(0))
    assert encode(reject_all()) == bytes_of(out_of(1))


# Implicit meta


@pytest.mark.parametrize("rule", ImplicitMetaPolicyRule)
def test_implicit_meta(rule: ImplicitMetaPolicyRule) -> None:
    made = parse_implicit_meta(f"{rule.name} Some.Policy")
    assert made == ImplicitMetaPolicy(rule=rule, sub_policy="Some.Policy")


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("any Readers", 0),
        ("SOME Readers", 0),
        (" ANY Readers", 0),
        ("ANY", 3),
        ("ANY ", 3),
        ("ANY  Readers", 3),
        ("ANY Readers Writers", 3),
        ("ANY Readers ", 3),
    ],
)
def test_what_is_no_implicit_meta(text: str, position: int) -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        parse_implicit_meta(text)
    assert caught.value.position == position
