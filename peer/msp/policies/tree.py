"""The policies of a channel by path.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration
Fabric:    common/policies/manager.go, common/policies/implicitmeta.go, core/policy/application.go
           (release-2.5)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from fabric_protos.codec import DecodeError, decode
from fabric_protos.common import (
    ConfigGroup,
    ConfigPolicy,
    ImplicitMetaPolicy,
    ImplicitMetaPolicyRule,
    PolicyPolicyType,
    SignaturePolicyEnvelope,
)
from fabric_protos.protos import ApplicationPolicy
from peer.errors import PolicyInvalid
from peer.msp.identity import Identity
from peer.msp.manager import MspManager
from peer.msp.policies.evaluation import Policy, Possible, PrincipalSet, ways_to_satisfy
from peer.msp.policies.signature import from_bytes, from_envelope

_KEPT = 1024


class _RejectAll(Policy):
    """Stands where there is no policy."""

    def accepts(self, identities: Sequence[Identity]) -> bool:
        return False

    def shortfall(self, identities: Sequence[Identity]) -> str:
        return f"No such policy: '{self.path}'"

    def principal_sets(self, possible: Possible) -> list[PrincipalSet]:
        return []


class _ImplicitMeta(Policy):
    """Enough of the policies of one name in the groups below."""

    def __init__(
        self,
        definition: ImplicitMetaPolicy,
        below: Mapping[str, PolicyManager],
        msps: MspManager,
        path: str,
    ) -> None:
        super().__init__(msps, path)
        self._name = definition.sub_policy
        self._policies = [group.policy(self._name) for group in below.values()]
        count = len(self._policies)
        match definition.rule:
            case ImplicitMetaPolicyRule.ANY:
                self._needed = min(1, count)
            case ImplicitMetaPolicyRule.ALL:
                self._needed = count
            case ImplicitMetaPolicyRule.MAJORITY:
                self._needed = count // 2 + 1 if count else 0
            case _:
                raise PolicyInvalid(f"no rule of an implicit meta policy: {int(definition.rule)}")

    def accepts(self, identities: Sequence[Identity]) -> bool:
        remaining = self._needed
        for policy in self._policies:
            if not remaining:
                break
            remaining -= policy.accepts(identities)
        return not remaining

    def shortfall(self, identities: Sequence[Identity]) -> str:
        failed = [policy for policy in self._policies if not policy.accepts(identities)]
        return (
            f"implicit policy evaluation failed - {len(self._policies) - len(failed)} "
            f"sub-policies were satisfied, but this policy requires {self._needed} of the "
            f"'{self._name}' sub-policies to be satisfied: "
            + "; ".join(policy.explain(identities) for policy in failed)
        )

    def principal_sets(self, possible: Possible) -> list[PrincipalSet]:
        below = [policy.principal_sets(possible) for policy in self._policies]
        return ways_to_satisfy(self._needed, below)


class PolicyManager:
    """The policies of one group of a channel's configuration and of those below.

    Attributes:
        path: of the group, ``Channel/Application``.
        groups: the same for each group below.

    Raises:
        PolicyInvalid: a policy of the tree cannot be built.
    """

    def __init__(self, group: ConfigGroup, manager: MspManager, path: str = "Channel") -> None:
        self.path = path
        self.groups = {
            name: PolicyManager(below, manager, f"{path}/{name}")
            for name, below in group.groups.items()
        }
        self._msps = manager
        self._policies = {name: self._build(name, each) for name, each in group.policies.items()}
        self._found = lru_cache(_KEPT)(self._find)
        self._application = lru_cache(_KEPT)(self._build_application)
        self._signature = lru_cache(_KEPT)(self._build_signature)

    def policy(self, path: str) -> Policy:
        """Return the policy at an absolute path, ``/Channel/…``, or one relative to this group.

        One that is not there is a policy that nothing satisfies.
        """
        return self._found(path) or _RejectAll(self._msps, path)

    def has_policy(self, path: str) -> bool:
        """Tell whether there is a policy at *path*."""
        return self._find(path) is not None

    def application_policy(self, parameter: bytes) -> Policy:
        """Return what a marshalled ``protos.ApplicationPolicy`` asks for.

        That is the endorsement policy of a definition in ``_lifecycle``, and of a collection.

        Raises:
            PolicyInvalid: it cannot be read or built, or names a policy that is not there.
        """
        return self._application(parameter)

    def signature_policy(self, envelope: bytes) -> Policy:
        """Return what a marshalled ``common.SignaturePolicyEnvelope`` asks for, of any version.

        That is the endorsement policy of a legacy definition, and of a key.

        Raises:
            PolicyInvalid: it cannot be read or built.
        """
        return self._signature(envelope)

    def _find(self, path: str) -> Policy | None:
        if path.startswith("/"):
            prefix = f"/{self.path}/"
            if not path.startswith(prefix):
                return None
            path = path.removeprefix(prefix)
        *groups, name = path.split("/")
        manager: PolicyManager | None = self
        for group in groups:
            manager = manager.groups.get(group) if manager is not None else None
        return manager._policies.get(name) if manager is not None else None

    def _build(self, name: str, configured: ConfigPolicy) -> Policy:
        path = f"/{self.path}/{name}"
        definition = configured.policy
        if definition is None:
            raise PolicyInvalid(f"policy {path} is empty")
        try:
            match definition.type:
                case PolicyPolicyType.SIGNATURE:
                    return from_bytes(definition.value, self._msps, path)
                case PolicyPolicyType.IMPLICIT_META:
                    meta = decode(ImplicitMetaPolicy, definition.value)
                    return _ImplicitMeta(meta, self.groups, self._msps, path)
                case _:
                    raise PolicyInvalid(f"unknown policy type: {definition.type}")
        except (DecodeError, PolicyInvalid) as exc:
            raise PolicyInvalid(f"policy {path}: {exc}") from exc

    def _build_application(self, parameter: bytes) -> Policy:
        try:
            message = decode(ApplicationPolicy, parameter)
        except DecodeError as exc:
            raise PolicyInvalid(f"failed to unmarshal ApplicationPolicy bytes: {exc}") from exc
        if message.signature_policy is not None:
            return from_envelope(message.signature_policy, self._msps)
        reference = message.channel_config_policy_reference
        if reference is None:
            raise PolicyInvalid("unsupported policy type: neither a signature policy nor a path")
        policy = self._find(reference)
        if policy is None:
            raise PolicyInvalid(f"failed to retrieve policy for reference {reference}")
        return policy

    def _build_signature(self, envelope: bytes) -> Policy:
        try:
            decoded = decode(SignaturePolicyEnvelope, envelope)
        except DecodeError as exc:
            raise PolicyInvalid(f"Error unmarshalling to SignaturePolicy: {exc}") from exc
        return from_envelope(decoded, self._msps)
