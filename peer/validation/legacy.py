"""Check endorsements as on channels without V2_0, where lscc defines chaincodes.

Room:      peer.validation   (used by validator)
Loop:      none; verifies a signature for each endorsement, about 0.1 ms
Lifetime:  one block
Fabric:    core/committer/txvalidator/v14, core/handlers/validation/builtin/{v12,v13} (release-2.5)
"""

from __future__ import annotations

from peer.channel.bundle import Bundle
from peer.ledger.api import QueryExecutor, ValidationCode
from peer.ledger.transactions import NamespaceSet
from peer.lifecycle.definitions import SYSTEM_CHAINCODES
from peer.lifecycle.state import LSCC
from peer.msp import standard
from peer.msp.policies import from_envelope
from peer.validation.definitions import Definitions, EndorsementRules
from peer.validation.deployment import PRIVATE_DATA, DeploymentCheck
from peer.validation.endorsement import (
    Action,
    EndorsementCheck,
    Evaluation,
    endorsements_of,
    read_action,
)
from peer.validation.structure import EndorserTransaction
from peer.validation.verdict import Invalid

Code = ValidationCode

KEY_POLICIES = "V1_3"
UNCALLABLE = frozenset({"escc", "vscc"})
CLOSED = UNCALLABLE | {"cscc", LSCC}
"""System chaincodes whose namespaces no other chaincode may write to."""


class LegacyEndorsementCheck(EndorsementCheck):
    """`EndorsementCheck` by the rules of v1.0 to v1.4, as far as the channel's capabilities go."""

    def __init__(self, bundle: Bundle, reader: QueryExecutor) -> None:
        super().__init__(bundle, reader)
        application = bundle.application
        assert application is not None, "a peer's channel has the application section"
        self._capabilities = application.capabilities
        self._has_private_data = any(each in application.capabilities for each in PRIVATE_DATA)
        self._definitions = _LegacyDefinitions(bundle, reader)
        self._deployments = DeploymentCheck(bundle, self._capabilities, reader, self._definitions)
        self._is_strict = "V1_2" in self._capabilities
        self._called: dict[int, str] = {}
        self._upgraded: dict[int, str] = {}
        self.allows_same_ids = "V1_1" not in self._capabilities

    def read(self, transaction: EndorserTransaction) -> Action:
        """See `EndorsementCheck.read`."""
        return read_action(
            transaction, mismatch=Code.INVALID_OTHER_REASON, checks_event=self._is_strict
        )

    def check(self, index: int, transaction: EndorserTransaction, action: Action) -> None:
        """See `EndorsementCheck.check`."""
        name = action.name
        written = {each.name: each for each in action.sets if self._writes(each)}
        is_system = name in SYSTEM_CHAINCODES
        if is_system:
            # Whatever else it writes to is not looked at, except below for lscc.
            names = [name]
            illegal = name in UNCALLABLE
        else:
            names = list(dict.fromkeys([name, *written] if self._is_strict else written))
            illegal = not CLOSED.isdisjoint(written)
        if illegal:
            raise Invalid(Code.ILLEGAL_WRITESET, f"{name} may not write what it writes")
        signatures = endorsements_of(transaction)
        for each in names:
            rules = self._definitions.rules(each)
            if each == name and not is_system and rules.version != action.version:
                raise Invalid(
                    Code.EXPIRED_CHAINCODE, f"{name} is of version {rules.version!r} by now"
                )
            self._check_namespace(rules, written.get(each), Evaluation(signatures))
            if each == LSCC:
                deployment = self._deployments.check(transaction, action)
                if deployment.is_upgrade:
                    self._upgraded[index] = deployment.name
            self._take(written.get(each))
        self._called[index] = name

    def settle(self, codes: list[Code]) -> None:
        """Let a block upgrade each chaincode once, the last time, and not call it besides."""
        last: dict[str, int] = {}
        for index, name in self._upgraded.items():
            if name in last:
                codes[last[name]] = Code.CHAINCODE_VERSION_CONFLICT
            last[name] = index
        for index, name in self._called.items():
            if name in last and codes[index] is Code.VALID:
                codes[index] = Code.CHAINCODE_VERSION_CONFLICT

    def _check_namespace(
        self, rules: EndorsementRules, written: NamespaceSet | None, evaluation: Evaluation
    ) -> None:
        if KEY_POLICIES in self._capabilities:
            super()._check_namespace(rules, written, evaluation)
        else:
            evaluation.require(rules.policy)

    def _writes(self, namespace: NamespaceSet) -> bool:
        """Tell whether a transaction writes to a namespace, as far as the channel knows of it."""
        public = namespace.public
        has_policies = KEY_POLICIES in self._capabilities
        if public.writes or (has_policies and public.metadata_writes):
            return True
        return self._has_private_data and any(
            each.hashed.hashed_writes or (has_policies and each.hashed.metadata_writes)
            for each in namespace.collections
        )


class _LegacyDefinitions(Definitions):
    """The rules of every chaincode of such a channel; of system chaincodes any member decides."""

    def _find(self, name: str) -> EndorsementRules:
        if name not in SYSTEM_CHAINCODES:
            return self.legacy(name, Code.INVALID_OTHER_REASON)
        anybody = standard.signed_by_any(standard.Role.MEMBER, self.members())
        return EndorsementRules(policy=from_envelope(anybody, self._bundle.msps), collections=None)
