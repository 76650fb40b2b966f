"""What every policy does with a set of signatures.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration
Fabric:    common/policies/manager.go `SignatureSetToValidIdentities` (release-2.5)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, combinations, islice, product
from typing import NamedTuple

from fabric_protos.common import MspPrincipal
from peer.errors import IdentityRefused, PolicyNotSatisfied, SignatureRefused
from peer.msp.identity import Identity
from peer.msp.manager import MspManager

PrincipalSet = tuple[MspPrincipal, ...]
"""Principals with a signature each; one that stands there twice needs two."""

Possible = Callable[[MspPrincipal], bool]

KEPT = 64
"""Sets of signers of which a policy remembers whether they are enough. It lives as long as the MSPs
by which they were judged."""

SETS_LIMIT = 10_000
"""Of one policy; Fabric stops at as many."""
PRINCIPALS_LIMIT = 1_000_000
"""In all sets of one policy; a request may bring one of thousands of rules."""


class SignedData(NamedTuple):
    """A signature with what it covers and the identity that claims it, as received."""

    data: bytes
    identity: bytes
    signature: bytes


class Policy(ABC):
    """Something that a set of signatures satisfies or does not.

    Attributes:
        path: where it stands in a channel's configuration; empty if nowhere.
    """

    def __init__(self, msps: MspManager, path: str) -> None:
        self._msps = msps
        self._is_enough = lru_cache(KEPT)(self.accepts)
        self.path = path

    def evaluate(self, signatures: Sequence[SignedData]) -> None:
        """Check that *signatures* satisfy the policy.

        Those of unknown identities, wrong ones, and a second one of a certificate do not count.

        Raises:
            PolicyNotSatisfied: says who signed, what did not count and why, and what is missing.
        """
        signers: dict[tuple[str, str], Identity] = {}
        for item in signatures:
            try:
                identity = self._msps.deserialize(item.identity)
                if identity.identifier not in signers:
                    identity.verify(item.data, item.signature)
                    signers[identity.identifier] = identity
            except (IdentityRefused, SignatureRefused):
                continue
        identities = tuple(signers.values())
        if not self._is_enough(identities):
            raise self._refused(identities, self._discounted(signatures))

    def evaluate_identities(self, identities: Sequence[Identity]) -> None:
        """Check that signatures of *identities*, each another certificate, would satisfy it.

        Raises:
            PolicyNotSatisfied: they would not.
        """
        if not self._is_enough(tuple(identities)):
            raise self._refused(identities, ())

    def explain(self, identities: Sequence[Identity]) -> str:
        """Return why *identities* are not enough, with the policy's path in front."""
        sentence = self.shortfall(identities)
        return f"{self.path}: {sentence}" if self.path else sentence

    @abstractmethod
    def accepts(self, identities: Sequence[Identity]) -> bool:
        """Tell whether signatures of *identities* are enough; their order may matter."""

    @abstractmethod
    def shortfall(self, identities: Sequence[Identity]) -> str:
        """Return the sentence on what *identities*, which it does not accept, lack."""

    @abstractmethod
    def principal_sets(self, possible: Possible) -> list[PrincipalSet]:
        """Return the ways to satisfy the policy, the first ones if there are very many.

        Args:
            possible: tells which principals may be in them; the fewer, the less work.

        Source: `InquireablePolicy.SatisfiedBy`, common/policies/inquire/inquire.go (release-2.5).
        """

    def _refused(
        self, identities: Sequence[Identity], discounted: tuple[str, ...]
    ) -> PolicyNotSatisfied:
        return PolicyNotSatisfied(
            self.explain(identities), signers=tuple(map(str, identities)), discounted=discounted
        )

    def _discounted(self, signatures: Sequence[SignedData]) -> tuple[str, ...]:
        """Return why signatures did not count; worked out only when it is asked."""
        reasons = []
        seen = set()
        for item in signatures:
            who = "unreadable identity"
            try:
                identity = self._msps.deserialize(item.identity)
                who = str(identity)
                if identity.identifier in seen:
                    reasons.append(f"{who}: signed more than once")
                    continue
                identity.verify(item.data, item.signature)
                seen.add(identity.identifier)
            except (IdentityRefused, SignatureRefused) as exc:
                reasons.append(f"{who}: {exc}")
        return tuple(reasons)


def ways_to_satisfy(n: int, parts: Sequence[Sequence[PrincipalSet]]) -> list[PrincipalSet]:
    """Return the ways to satisfy any *n* of some parts, each with its own ways.

    There are at most `SETS_LIMIT`, and fewer if these have more than `PRINCIPALS_LIMIT` principals.
    """
    possible = [ways for ways in parts if ways]
    chosen = combinations(possible, max(n, 0))
    found = chain.from_iterable(product(*each) for each in chosen)
    ways: list[PrincipalSet] = []
    principals = 0
    for way in islice(found, SETS_LIMIT):
        ways.append(tuple(chain.from_iterable(way)))
        principals += len(ways[-1])
        if principals >= PRINCIPALS_LIMIT:
            break
    return ways
