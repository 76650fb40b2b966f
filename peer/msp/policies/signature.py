"""Signature policies: n out of some rules, down to one signature of a principal.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration
Fabric:    common/cauthdsl/cauthdsl.go, common/cauthdsl/policy.go (release-2.5)

Fabric's evaluation is greedy: a rule takes the first signature that fits and never gives it back
to a later rule, so that the order of signatures matters. All peers must agree, so this one is the
same. The signatures in use are the bits of an integer, which makes trying a rule free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fabric_protos.codec import DecodeError, decode
from fabric_protos.common import MspPrincipal, SignaturePolicy, SignaturePolicyEnvelope
from peer.errors import PolicyInvalid
from peer.msp.dsl import format_policy, format_principal
from peer.msp.identity import Identity
from peer.msp.manager import MspManager
from peer.msp.policies.evaluation import Policy, Possible, PrincipalSet, ways_to_satisfy

_FAILED = -1


class _SignedBy(NamedTuple):
    principal: MspPrincipal
    msps: MspManager

    def take(self, identities: Sequence[Identity], used: int) -> int:
        """Return *used* with the first identity that fits; `_FAILED` if none does."""
        for number, identity in enumerate(identities):
            bit = 1 << number
            if not used & bit and self.msps.refusal(identity, self.principal) is None:
                return used | bit
        return _FAILED

    def missing(self, identities: Sequence[Identity], used: int) -> str:
        return format_principal(self.principal)

    def principal_sets(self, possible: Possible) -> list[PrincipalSet]:
        return [(self.principal,)] if possible(self.principal) else []


class _OutOf(NamedTuple):
    n: int
    rules: tuple[_SignedBy | _OutOf, ...]

    def take(self, identities: Sequence[Identity], used: int) -> int:
        """Return *used* with what all rules together take; `_FAILED` if too few succeed."""
        succeeded = 0
        for rule in self.rules:
            taken = rule.take(identities, used)
            if taken != _FAILED:
                used = taken
                succeeded += 1
        return used if succeeded >= self.n else _FAILED

    def missing(self, identities: Sequence[Identity], used: int) -> str:
        failed = []
        for rule in self.rules:
            taken = rule.take(identities, used)
            if taken == _FAILED:
                failed.append(rule.missing(identities, used))
            else:
                used = taken
        lacking = self.n - (len(self.rules) - len(failed))
        return f"{lacking} of [{', '.join(failed)}]"

    def principal_sets(self, possible: Possible) -> list[PrincipalSet]:
        return ways_to_satisfy(self.n, [rule.principal_sets(possible) for rule in self.rules])


class _SignaturePolicy(Policy):
    def __init__(
        self,
        envelope: SignaturePolicyEnvelope,
        rule: _SignedBy | _OutOf,
        msps: MspManager,
        path: str,
    ) -> None:
        super().__init__(msps, path)
        self._envelope = envelope
        self._rule = rule

    def accepts(self, identities: Sequence[Identity]) -> bool:
        return self._rule.take(identities, 0) != _FAILED

    def shortfall(self, identities: Sequence[Identity]) -> str:
        return (
            f"signature set did not satisfy policy {format_policy(self._envelope)}: "
            f"missing {self._rule.missing(identities, 0)}"
        )

    def principal_sets(self, possible: Possible) -> list[PrincipalSet]:
        return self._rule.principal_sets(possible)


def from_envelope(envelope: SignaturePolicyEnvelope, manager: MspManager, path: str = "") -> Policy:
    """Make the policy; its version is not looked at, see `from_bytes`.

    Raises:
        PolicyInvalid: a rule is empty, or refers to a principal that is not there.
    """
    try:
        rule = _compile(envelope.rule, envelope.identities, manager)
    except RecursionError:
        raise PolicyInvalid("a signature policy is nested too deep") from None
    return _SignaturePolicy(envelope, rule, manager, path)


def from_bytes(data: bytes, manager: MspManager, path: str = "") -> Policy:
    """Make the policy of a marshalled ``common.SignaturePolicyEnvelope`` of a channel.

    Raises:
        PolicyInvalid: damaged, of a version other than 0, or as for `from_envelope`.
    """
    try:
        envelope = decode(SignaturePolicyEnvelope, data)
    except DecodeError as exc:
        raise PolicyInvalid(f"Error unmarshalling to SignaturePolicy: {exc}") from exc
    if envelope.version != 0:
        raise PolicyInvalid(
            "This evaluator only understands messages of version 0, "
            f"but version was {envelope.version}"
        )
    return from_envelope(envelope, manager, path)


def _compile(
    rule: SignaturePolicy | None, principals: Sequence[MspPrincipal], msps: MspManager
) -> _SignedBy | _OutOf:
    if rule is None:
        raise PolicyInvalid("Empty policy element")
    if rule.n_out_of is not None:
        rules = tuple(_compile(each, principals, msps) for each in rule.n_out_of.rules)
        return _OutOf(rule.n_out_of.n, rules)
    if rule.signed_by is None:
        raise PolicyInvalid("a rule is neither signed_by nor n_out_of")
    if not 0 <= rule.signed_by < len(principals):
        raise PolicyInvalid(
            f"identity index out of range, requested {rule.signed_by}, "
            f"but identities length is {len(principals)}"
        )
    return _SignedBy(principals[rule.signed_by], msps)
