"""Signature policies and their evaluation.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration
Fabric:    common/cauthdsl/cauthdsl.go, common/policies/policy.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fabric_protos.common import SignaturePolicyEnvelope
from peer.msp.manager import MspManager


class SignedData(NamedTuple):
    """A signature with what it covers and the identity that claims it, as received."""

    data: bytes
    identity: bytes
    signature: bytes


class Policy(Protocol):
    """Something a set of signatures satisfies or does not."""

    def evaluate(self, signatures: Sequence[SignedData]) -> None:
        """
        Raises:
            PolicyNotSatisfied: says who signed, whose signature did not count, and what is missing.
        """
        ...


def from_envelope(envelope: SignaturePolicyEnvelope, manager: MspManager) -> Policy:
    """
    Raises:
        PolicyInvalid: a rule refers to no principal, or is no rule.
    """
    raise NotImplementedError
