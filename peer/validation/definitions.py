"""What must have endorsed the writes of one chaincode, as the channel defines it.

Room:      peer.validation   (imports peer.lifecycle.state, peer.channel; used by endorsement)
Loop:      none; point reads of the state before the block
Lifetime:  one block
Fabric:    core/chaincode/lifecycle/deployedcc_infoprovider.go `ValidationInfo` (release-2.5),
           core/committer/txvalidator/v20/plugindispatcher/dispatcher.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fabric_protos.codec import decode, encode
from fabric_protos.errors import DecodeError
from fabric_protos.opaque import ChaincodeData
from fabric_protos.protos import CollectionConfigPackage
from peer.channel.bundle import Bundle
from peer.errors import LedgerError, PolicyError
from peer.ledger.api import QueryExecutor, ValidationCode
from peer.lifecycle import state
from peer.msp import standard
from peer.msp.policies import Policy, from_envelope
from peer.validation.verdict import Invalid

APPLICATION = "/Channel/Application"
LIFECYCLE_ENDORSEMENT = f"{APPLICATION}/LifecycleEndorsement"
PLUGIN = "vscc"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndorsementRules:
    """Who must have endorsed what a chaincode writes.

    Attributes:
        policy: for keys without a policy of their own.
        collections: the definition's; None for a legacy definition, where a collection that is
            not known is no mistake.
        version: of a legacy definition, else empty.
    """

    policy: Policy
    collections: CollectionConfigPackage | None
    version: str = ""


class Definitions:
    """The rules of every chaincode of a channel, as they were before a block."""

    def __init__(self, bundle: Bundle, reader: QueryExecutor) -> None:
        self._bundle = bundle
        self._reader = reader
        self._known: dict[str, EndorsementRules] = {}

    def rules(self, name: str) -> EndorsementRules:
        """Return the rules of a chaincode.

        Raises:
            Invalid: it is not defined.
            LedgerError: the state is damaged, or it is to be validated in a way that this peer
                does not know; the channel cannot go on.
        """
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._find(name)
        return known

    def collection_policy(self, rules: EndorsementRules, name: str) -> Policy:
        """Return who must have endorsed keys of a collection that have no policy of their own.

        Raises:
            Invalid: the definition has no such collection.
        """
        if rules.collections is None:
            return rules.policy
        if name.startswith(state.IMPLICIT):
            return self._implicit(name.removeprefix(state.IMPLICIT))
        found = state.find_collection(rules.collections, name)
        if found is None:
            raise Invalid(
                ValidationCode.ENDORSEMENT_POLICY_FAILURE, f"collection {name} is not defined"
            )
        if found.endorsement_policy is None:
            return rules.policy
        parameter = encode(found.endorsement_policy)
        return _built(name, self._bundle.policies.application_policy, parameter)

    def _find(self, name: str) -> EndorsementRules:
        if name == state.LIFECYCLE:
            return EndorsementRules(
                policy=self._of_lifecycle(), collections=CollectionConfigPackage()
            )
        found = state.read_definition(self._reader, name)
        if found is None:
            return self.legacy(name, ValidationCode.INVALID_CHAINCODE)
        info = found.validation
        _check_plugin(
            name,
            info.validation_plugin,
            info.validation_parameter,
            ValidationCode.INVALID_CHAINCODE,
        )
        policies = self._bundle.policies
        policy = _built(name, policies.application_policy, info.validation_parameter)
        return EndorsementRules(policy=policy, collections=found.collections)

    def legacy(self, name: str, missing: ValidationCode) -> EndorsementRules:
        """Return the rules of a chaincode that was deployed through lscc.

        Raises:
            Invalid: it was not, with the code `missing`.
            LedgerError: as of `rules`.
        """
        found = self.deployed(name)
        if found is None:
            raise Invalid(missing, f"{name} is not defined")
        _check_plugin(name, found.vscc, found.policy, missing)
        policy = _built(name, self._bundle.policies.signature_policy, found.policy)
        return EndorsementRules(policy=policy, collections=None, version=found.version)

    def deployed(self, name: str) -> ChaincodeData | None:
        """Return what lscc has of a chaincode.

        Raises:
            LedgerError: the state holds something else there.
        """
        data = self._reader.get_state(state.LSCC, name)
        if data is None:
            return None
        try:
            return decode(ChaincodeData, data)
        except DecodeError as exc:
            raise LedgerError(f"the definition of {name} cannot be read: {exc}") from exc

    def _of_lifecycle(self) -> Policy:
        """Return who decides on definitions: the channel's policy, or most of its members."""
        if self._bundle.policies.has_policy(LIFECYCLE_ENDORSEMENT):
            return self._bundle.policy(LIFECYCLE_ENDORSEMENT)
        return from_envelope(
            standard.majority_of(standard.Role.MEMBER, self.members()), self._bundle.msps
        )

    def _implicit(self, msp_id: str) -> Policy:
        application = self._bundle.application
        organisations = application.organisations.values() if application else ()
        for organisation in organisations:
            if organisation.msp_id == msp_id:
                path = f"{APPLICATION}/{organisation.name}/Endorsement"
                if self._bundle.policies.has_policy(path):
                    return self._bundle.policy(path)
                member = standard.signed_by_any(standard.Role.MEMBER, [msp_id])
                return from_envelope(member, self._bundle.msps)
        raise Invalid(
            ValidationCode.ENDORSEMENT_POLICY_FAILURE, f"{msp_id} is no member of the channel"
        )

    def members(self) -> list[str]:
        """Return the MSPs of the organisations with peers."""
        application = self._bundle.application
        return [each.msp_id for each in application.organisations.values()] if application else []


def _check_plugin(name: str, plugin: str, policy: bytes, missing: ValidationCode) -> None:
    if not plugin or not policy:
        raise Invalid(missing, f"{name}: its definition lacks the plugin or the policy")
    if plugin != PLUGIN:
        raise LedgerError(
            f"{name} is to be validated by the plugin {plugin!r}, which this peer does not have"
        )


def _built(name: str, build: Callable[[bytes], Policy], parameter: bytes) -> Policy:
    try:
        return build(parameter)
    except PolicyError as exc:
        raise Invalid(ValidationCode.ENDORSEMENT_POLICY_FAILURE, f"{name}: {exc}") from exc


def key_policy(bundle: Bundle, parameter: bytes) -> Policy:
    """Return the policy a key carries.

    Raises:
        LedgerError: what was committed as one is none; the channel cannot go on.
    """
    try:
        return bundle.policies.signature_policy(parameter)
    except PolicyError as exc:
        raise LedgerError(f"the policy of a key cannot be read: {exc}") from exc
