"""Check what a transaction that deploys or upgrades a chaincode through lscc writes.

Room:      peer.validation   (imports peer.lifecycle; used by legacy)
Loop:      none; verifies up to two signatures, about 0.1 ms each
Lifetime:  one block
Fabric:    core/handlers/validation/builtin/v13/lscc_validation_logic.go (release-2.5)

lscc itself checks the same; but any member of the channel can endorse such a transaction, so every
peer checks again what came of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import betterproto2

from fabric_protos.codec import decode
from fabric_protos.errors import DecodeError
from fabric_protos.kvrwset import KvWrite
from fabric_protos.opaque import ChaincodeData
from fabric_protos.protos import (
    ChaincodeDeploymentSpec,
    ChaincodeSpecType,
    CollectionConfigPackage,
    StaticCollectionConfig,
)
from fabric_protos.stream import ChaincodeInvocationSpec, ChaincodeProposalPayload
from peer.channel.bundle import Bundle
from peer.channel.capabilities import Capabilities
from peer.errors import InvalidDefinition, PolicyError
from peer.ledger.api import QueryExecutor, ValidationCode
from peer.lifecycle import collections, legacy, state
from peer.lifecycle.definitions import SYSTEM_CHAINCODES
from peer.msp.policies import SignedData
from peer.validation.definitions import Definitions
from peer.validation.endorsement import Action
from peer.validation.structure import EndorserTransaction
from peer.validation.verdict import Invalid

M = TypeVar("M", bound=betterproto2.Message)

PRIVATE_DATA = ("V1_2", "V1_1_PVTDATA_EXPERIMENTAL")
"""Either of these capabilities is enough for collections."""

_TYPES = (
    ChaincodeSpecType.GOLANG,
    ChaincodeSpecType.NODE,
    ChaincodeSpecType.JAVA,
    ChaincodeSpecType.CAR,
)
_COLLECTION = re.compile(r"[A-Za-z0-9_-]+")


class Deployment(NamedTuple):
    """What a transaction says it does.

    Attributes:
        collections: marshalled; None where the argument is not given.
    """

    is_upgrade: bool
    name: str
    version: str
    collections: bytes | None


class DeploymentCheck:
    """Checks the deployments of one block against the state before it."""

    def __init__(
        self,
        bundle: Bundle,
        capabilities: Capabilities,
        reader: QueryExecutor,
        definitions: Definitions,
    ) -> None:
        self._bundle = bundle
        self._capabilities = capabilities
        self._reader = reader
        self._definitions = definitions
        self._has_private_data = any(each in capabilities for each in PRIVATE_DATA)

    def check(self, transaction: EndorserTransaction, action: Action) -> Deployment:
        """Return what a transaction of lscc deploys.

        Raises:
            Invalid: nothing, or it writes something else.
            LedgerError: the state is damaged; the channel cannot go on.
        """
        asked = self._asked(transaction)
        written = _written(action, asked)
        data = _read(ChaincodeData, written[0].value, "the definition")
        if (data.name, data.version) != (asked.name, asked.version):
            raise _invalid(f"{data.name}:{data.version} is written")
        former = self._definitions.deployed(asked.name)
        if asked.is_upgrade:
            if former is None:
                raise _invalid(f"{asked.name} is not there to be upgraded")
            if former.version == asked.version:
                raise _invalid(f"{asked.name} is of version {asked.version} already")
        elif former is not None:
            raise _invalid(f"{asked.name} is deployed already")
        if "V1_2" in self._capabilities or (self._has_private_data and not asked.is_upgrade):
            self._check_collections(asked, written)
        elif len(written) != 1:
            raise _invalid(f"{len(written)} keys are written to lscc, not one")
        if former is not None:
            self._check_instantiation(transaction, former)
        if former is None or "V1_1" in self._capabilities:
            self._check_instantiation(transaction, data)
        return asked

    def _asked(self, transaction: EndorserTransaction) -> Deployment:
        try:
            payload = ChaincodeProposalPayload.decode(transaction.proposal_payload)
            called = ChaincodeInvocationSpec.decode(payload.input).chaincode_spec
        except DecodeError as exc:
            raise _invalid(f"the invocation cannot be read: {exc}") from exc
        args = [bytes(arg) for arg in called.input.args] if called and called.input else []
        if not args or args[0] not in (b"deploy", b"upgrade"):
            raise _invalid("only deploy and upgrade of lscc are transactions")
        if not 3 <= len(args) <= (7 if self._has_private_data else 6):
            raise _invalid(f"{len(args)} arguments")
        spec = _read(ChaincodeDeploymentSpec, args[2], "the deployment").chaincode_spec
        if spec is None or spec.chaincode_id is None:
            raise _invalid("the deployment names no chaincode")
        name, version = spec.chaincode_id.name, spec.chaincode_id.version
        if spec.type not in _TYPES:
            raise _invalid(f"a chaincode of type {int(spec.type)}")
        if not legacy.NAME.fullmatch(name) or name in SYSTEM_CHAINCODES:
            raise _invalid(f"{name!r} is no name of a chaincode")
        if not legacy.VERSION.fullmatch(version):
            raise _invalid(f"{version!r} is no version")
        given = args[6] if len(args) > 6 else None
        return Deployment(args[0] == b"upgrade", name, version, given)

    def _check_collections(self, asked: Deployment, written: Sequence[KvWrite]) -> None:
        key = state.collections_key(asked.name)
        if len(written) > 2 or (len(written) == 2 and written[1].key != key):
            raise _invalid("other keys than the collections' are written to lscc")
        found = written[1].value if len(written) == 2 else b""
        if (asked.collections or b"") != found:
            raise _invalid("the collections are not those that were asked for")
        former = self._reader.get_state(state.LSCC, key)
        if former is not None and not asked.is_upgrade:
            raise _invalid(f"there are collections of {asked.name} already")
        if asked.collections is None:
            return
        package = _read(CollectionConfigPackage, asked.collections, "the collections")
        if "V1_2" not in self._capabilities:
            return
        try:
            new = collections.static_collections(asked.name, package)
            _check_each(new)
            if former is not None:
                kept = state.read_legacy_collections(self._reader, asked.name)
                collections.check_kept(
                    asked.name, new, collections.static_collections(asked.name, kept)
                )
        except (InvalidDefinition, ValueError) as exc:
            raise _invalid(str(exc)) from exc

    def _check_instantiation(
        self, transaction: EndorserTransaction, definition: ChaincodeData
    ) -> None:
        """Check that who signed the transaction may deploy the chaincode."""
        signed = transaction.signed
        creator = SignedData(
            signed.envelope.payload, signed.signature_header.creator, signed.envelope.signature
        )
        if not definition.instantiation_policy:
            raise _invalid("nobody may deploy it: it has no instantiation policy")
        try:
            policies = self._bundle.policies
            policies.signature_policy(definition.instantiation_policy).evaluate([creator])
        except PolicyError as exc:
            raise _invalid(f"the instantiation policy is not satisfied: {exc}") from exc


def _written(action: Action, asked: Deployment) -> list[KvWrite]:
    """Return what is written to lscc, first of all the definition."""
    written: list[KvWrite] = []
    for each in action.sets:
        if each.name == state.LSCC:
            written = each.public.writes
        elif each.name != asked.name and each.public.writes:
            raise _invalid(f"it writes to {each.name}")
    if not written or written[0].key != asked.name:
        raise _invalid("the definition is not what is written to lscc first")
    return written


def _check_each(found: Sequence[StaticCollectionConfig]) -> None:
    seen: set[str] = set()
    for each in found:
        if not _COLLECTION.fullmatch(each.name) or each.name in seen:
            raise ValueError(f"collection {each.name!r}: it has no name, or that of another")
        if not 0 <= each.required_peer_count <= each.maximum_peer_count:
            raise ValueError(f"collection {each.name}: the numbers of peers do not fit")
        collections.check_is_any(collections.member_principals(each).rule)
        seen.add(each.name)


def _read(cls: type[M], data: bytes, what: str) -> M:
    try:
        return decode(cls, data)
    except DecodeError as exc:
        raise _invalid(f"{what} cannot be read: {exc}") from exc


def _invalid(reason: str) -> Invalid:
    return Invalid(ValidationCode.ENDORSEMENT_POLICY_FAILURE, reason)
