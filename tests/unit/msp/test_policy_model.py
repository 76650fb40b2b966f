"""Random policies and signatures, judged by plain Python as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st

from fabric_protos.common import MspRoleMspRoleType as Role
from fabric_protos.common import (
    SignaturePolicy,
    SignaturePolicyEnvelope,
    SignaturePolicyNOutOf,
)
from peer.errors import PolicyNotSatisfied
from peer.msp.policies import Policy, from_envelope
from peer.msp.standard import role_principal
from tests.unit.msp.organisations import UNITS, Organisation, managed, read, signed

ORGS = [Organisation("A"), Organisation("B")]
MSPS = managed(*ORGS)
PEOPLE = [
    (org.msp_id, unit, org.issue(unit))
    for org in ORGS
    for unit in ("peer", "peer", "admin", "client")
]
IDENTITIES = [read(MSPS, signer) for _, _, signer in PEOPLE]
GOOD = [signed(signer) for *_, signer in PEOPLE]
WRONG = [each._replace(data=b"another") for each in GOOD]
PRINCIPALS = [(org.msp_id, role) for org in ORGS for role in Role]


def fits(person: int, principal: int) -> bool:
    """Tell whether the person is what the principal describes."""
    msp_id, unit, _ = PEOPLE[person]
    wanted_msp_id, role = PRINCIPALS[principal]
    return msp_id == wanted_msp_id and (role is Role.MEMBER or UNITS[role] == unit)


class Gate(NamedTuple):
    n: int
    rules: tuple[Gate | int, ...]


Rule = Gate | int
"""An integer is a principal."""

# Most of them of one organisation, so that rules compete for its signatures.
WANTED = [("A", Role.MEMBER), ("A", Role.PEER), ("A", Role.ADMIN)]
LEAVES = st.sampled_from([PRINCIPALS.index(each) for each in WANTED])


def gates(inner: st.SearchStrategy[Rule]) -> st.SearchStrategy[Rule]:
    rules = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(Gate, st.integers(1, 2), rules)


RULES: st.SearchStrategy[Rule] = gates(LEAVES | gates(LEAVES)) | st.recursive(
    st.integers(0, len(PRINCIPALS) - 1),
    lambda inner: st.lists(inner, max_size=4).flatmap(
        lambda rules: st.builds(Gate, st.integers(0, len(rules) + 1), st.just(tuple(rules)))
    ),
    max_leaves=7,
)
SIGNERS = st.lists(st.integers(0, len(PEOPLE) - 1), unique=True, max_size=6)


def policy(rule: Rule) -> Policy:
    def message(rule: Rule) -> SignaturePolicy:
        if isinstance(rule, int):
            return SignaturePolicy(signed_by=rule)
        rules = [message(each) for each in rule.rules]
        return SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=rule.n, rules=rules))

    principals = [role_principal(*principal) for principal in PRINCIPALS]
    return from_envelope(SignaturePolicyEnvelope(rule=message(rule), identities=principals), MSPS)


def greedy(rule: Rule, signers: Sequence[int], used: list[bool]) -> bool:
    """Fabric's evaluation, word by word: *used* is changed where the rule is satisfied."""
    if isinstance(rule, int):
        for number, person in enumerate(signers):
            if not used[number] and fits(person, rule):
                used[number] = True
                return True
        return False
    count = 0
    for each in rule.rules:
        attempt = used.copy()
        if greedy(each, signers, attempt):
            used[:] = attempt
            count += 1
    return count >= rule.n


def assignments(rule: Rule, free: frozenset[int]) -> Iterator[frozenset[int]]:
    """Yield what may be left of *free* once the rule is satisfied, by every way there is."""
    if isinstance(rule, int):
        for person in free:
            if fits(person, rule):
                yield free - {person}
        return
    for chosen in combinations(rule.rules, rule.n):
        left = {free}
        for each in chosen:
            left = {after for before in left for after in assignments(each, before)}
        yield from left


def accepts(wanted: Policy, signers: Sequence[int]) -> bool:
    return wanted.accepts([IDENTITIES[each] for each in signers])


@settings(max_examples=1000)
@given(RULES, SIGNERS)
def test_policies_are_evaluated_as_fabric_does(rule: Rule, signers: list[int]) -> None:
    expected = greedy(rule, signers, [False] * len(signers))
    event(f"satisfied: {expected}")
    assert accepts(policy(rule), signers) == expected


@given(RULES, SIGNERS)
def test_what_is_accepted_could_be_shared_out(rule: Rule, signers: list[int]) -> None:
    """Greed may miss a way to share the signatures out, and never finds one that is not there."""
    possible = next(assignments(rule, frozenset(signers)), None) is not None
    accepted = accepts(policy(rule), signers)
    event(f"accepted: {accepted}, possible: {possible}")
    assert possible or not accepted


def test_greed_misses_some() -> None:
    member, admin = (PRINCIPALS.index(("A", role)) for role in (Role.MEMBER, Role.ADMIN))
    rule = Gate(2, (member, admin))
    signers = [2, 0]
    assert [PEOPLE[each][1] for each in signers] == ["admin", "peer"]
    assert next(assignments(rule, frozenset(signers)), None) is not None
    assert not accepts(policy(rule), signers)


@given(RULES, st.lists(st.tuples(st.integers(0, len(PEOPLE) - 1), st.booleans()), max_size=6))
def test_only_good_signatures_count_and_each_person_once(
    rule: Rule, signatures: list[tuple[int, bool]]
) -> None:
    signers = list(dict.fromkeys(person for person, is_good in signatures if is_good))
    expected = greedy(rule, signers, [False] * len(signers))
    try:
        policy(rule).evaluate([(GOOD if good else WRONG)[person] for person, good in signatures])
    except PolicyNotSatisfied as exc:
        satisfied = False
        found = exc.signers
    else:
        satisfied = True
        found = tuple(str(IDENTITIES[each]) for each in signers)
    assert satisfied == expected
    assert found == tuple(str(IDENTITIES[each]) for each in signers)


@given(RULES, SIGNERS)
def test_what_is_refused_is_explained(rule: Rule, signers: list[int]) -> None:
    wanted = policy(rule)
    identities = [IDENTITIES[each] for each in signers]
    if not wanted.accepts(identities):
        assert "missing" in wanted.shortfall(identities)
