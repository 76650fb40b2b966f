"""Chaincode definitions by channel, as its state has them.

Room:      peer.lifecycle   (implements peer.chaincode's Definitions and CollectionStore)
Loop:      none; point reads of the state, cached
Lifetime:  peer
Fabric:    core/chaincode/lifecycle/{endorsement_info,cache,deployedcc_infoprovider}.go,
           core/common/privdata (release-2.5)

Peers must agree on what they read through a simulator, byte for byte. So exactly what Fabric reads
goes through it; everything else comes from the committed state, and is kept until a block changes
definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fabric_protos.codec import encode
from fabric_protos.errors import DecodeError
from fabric_protos.protos import ChaincodeData, CollectionConfigPackage, StaticCollectionConfig
from fabric_protos.stream import Header, Proposal, SignatureHeader, SignedProposal
from peer.chaincode.support import EndorsementInfo
from peer.chaincode.transactions import Permissions, TransactionParams
from peer.channel.channel import Channel
from peer.errors import (
    DefinitionNotUsable,
    InvalidDefinition,
    LedgerError,
    MembershipError,
    PolicyError,
    UnknownChaincode,
)
from peer.ledger.api import (
    CollectionPolicies,
    CollectionPolicy,
    CommittedBlock,
    QueryExecutor,
    TxSimulator,
)
from peer.lifecycle import state
from peer.lifecycle.legacy import NAME, VERSION, Deployment
from peer.msp.identity import SigningIdentity
from peer.msp.policies import Policy, SignedData

SYSTEM_CHAINCODES = frozenset({"cscc", "escc", "lscc", "qscc", "vscc"})
"""Names that Fabric keeps for itself, whether this peer runs them or not."""


def check_name(name: str) -> None:
    """
    Raises:
        InvalidDefinition: no chaincode may be defined under it.

    Source: core/chaincode/lifecycle/scc.go `validateInput` (release-2.5).
    """
    if not NAME.fullmatch(name):
        raise InvalidDefinition(
            name,
            f"invalid chaincode name '{name}': it must be letters and digits, with single '-' or "
            "'_' between them; choose another one with `name`",
        )
    if name in SYSTEM_CHAINCODES:
        raise InvalidDefinition(name, f"chaincode name '{name}' is that of a system chaincode")


def check_version(name: str, version: str) -> None:
    """
    Raises:
        InvalidDefinition: `version` is not acceptable.
    """
    if not VERSION.fullmatch(version):
        raise InvalidDefinition(
            name,
            f"invalid chaincode version '{version}': it must be letters, digits, '_', '.', '+' "
            "and '-'",
        )


class Packages(Protocol):
    """Knows which code is on this peer."""

    def is_installed(self, ccid: str) -> bool: ...

    def deployment(self, ccid: str) -> Deployment | None:
        """Return what an installed deployment spec is; None if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """What the committed state says of one chaincode.

    Attributes:
        definition: what the organisations agreed on; None for a legacy definition.
        legacy: what ``lscc`` has, where there is no other definition.
        collections: its private data collections.
        approved: this peer's organisation agrees to `definition`.
        ccid: the package that its organisation chose, or that ``lscc`` names; empty if none.
    """

    definition: state.CommittedDefinition | None
    legacy: ChaincodeData | None
    collections: CollectionConfigPackage
    approved: bool = False
    ccid: str = ""

    @property
    def sequence(self) -> int:
        """Of the definition, 0 for a legacy one."""
        return self.definition.sequence if self.definition else 0


class Definitions:
    """The definitions of every channel of one peer.

    Args:
        channel: finds a joined channel, None where there is none of that name.
        identity: of this peer; tells whose approvals count here, and which collections it keeps.
        is_development: what is not installed may be started by hand.
    """

    def __init__(
        self,
        *,
        channel: Callable[[str], Channel | None],
        packages: Packages,
        identity: SigningIdentity,
        is_development: bool = False,
    ) -> None:
        self._channel = channel
        self._packages = packages
        self._identity = identity
        self._is_development = is_development
        self._deployed: dict[str, dict[str, Deployed]] = {}

    def on_commit(self, channel_id: str, committed: CommittedBlock) -> None:
        """Hear of a block: if it changes definitions, they are read anew at their next use."""
        if not committed.namespaces.isdisjoint((state.LIFECYCLE, state.LSCC)):
            self._deployed.pop(channel_id, None)

    def endorsement_info(
        self, channel_id: str, name: str, simulator: TxSimulator | None
    ) -> EndorsementInfo:
        """Return version, package and init flag of a chaincode.

        Raises:
            UnknownChaincode: nothing of that name is defined on the channel.
            DefinitionNotUsable: this peer cannot run what is defined.
            LedgerError: the state is damaged.

        Source: `ChaincodeEndorsementInfo`, core/chaincode/lifecycle/endorsement_info.go
        (release-2.5).
        """
        channel = self._channel(channel_id)
        if channel is None or simulator is None:
            raise UnknownChaincode(channel_id, name)
        if channel.has_new_lifecycle and (sequence := state.read_sequence(simulator, name)):
            return self._agreed(channel, name, sequence)
        data = state.read_chaincode_data(simulator, name)
        if data is None:
            raise UnknownChaincode(channel_id, name)
        return self._usable_legacy(data)

    def permissions(self, params: TransactionParams, collection: str) -> Permissions:
        """Tell what a transaction's creator may do; see `CollectionStore.permissions`."""
        channel = self._channel(params.channel_id)
        if channel is None or params.simulator is None:
            raise LedgerError("no ledger context")
        name, simulator = params.namespace, params.simulator
        definition = state.read_definition(simulator, name)
        if definition is not None:
            if collection.startswith(state.IMPLICIT):
                return Permissions(read=True, write=True)
            found = definition.collection(collection)
        else:
            found = _legacy_collection(simulator, name, collection)
        if found is None:
            raise LedgerError(
                f"collection {params.channel_id}/{name}/{collection} could not be found"
            )
        if not (found.member_only_read or found.member_only_write):
            return Permissions(read=True, write=True)
        is_member = _has_signed(_members(channel, found), params.signed_proposal)
        return Permissions(
            read=is_member or not found.member_only_read,
            write=is_member or not found.member_only_write,
        )

    def deployed(self, channel_id: str, name: str) -> Deployed | None:
        """Return what the committed state says of a chaincode; None where it is not defined.

        Raises:
            LedgerError: the state is damaged.
        """
        known = self._deployed.get(channel_id, {}).get(name)
        if known is None:
            channel = self._channel(channel_id)
            known = None if channel is None else self._read(channel, name)
            if known is not None:
                self._deployed.setdefault(channel_id, {})[name] = known
        return known

    def announced(self, channel_id: str, name: str) -> str:
        """Return what other peers and clients are told of a chaincode that can run here.

        Returns:
            The sequence of its definition, the version of a legacy one; empty if it cannot run.

        Raises:
            LedgerError: the state is damaged.

        Source: `Cache.handleMetadataUpdatesWhileLocked`, core/chaincode/lifecycle/cache.go
        (release-2.5).
        """
        deployed = self.deployed(channel_id, name)
        try:
            if deployed is None:
                return ""
            if deployed.definition is not None:
                self._usable(channel_id, name, deployed.definition, deployed)
                return str(deployed.sequence)
            assert deployed.legacy is not None  # one or the other
            return self._usable_legacy(deployed.legacy).version
        except DefinitionNotUsable:
            return ""

    async def references(
        self, channel_ids: Sequence[str]
    ) -> dict[str, dict[str, list[tuple[str, str]]]]:
        """Return package id → channel → name and version of the chaincodes that run it.

        Raises:
            LedgerError: the state of a channel is damaged.
        """
        found: dict[str, dict[str, list[tuple[str, str]]]] = {}
        for channel_id in channel_ids:
            for name in await self._names(channel_id):
                deployed = self.deployed(channel_id, name)
                if deployed is not None and deployed.definition is not None and deployed.ccid:
                    version = deployed.definition.endorsement.version
                    chaincodes = found.setdefault(deployed.ccid, {}).setdefault(channel_id, [])
                    chaincodes.append((name, version))
        return found

    async def names(self, channel_id: str) -> list[str]:
        """Return the names of all chaincodes that are defined on a channel, in any way."""
        channel = self._channel(channel_id)
        if channel is None:
            return []
        reader = channel.ledger.new_query_executor()
        try:
            found = {*await state.defined_names(reader), *await state.legacy_names(reader)}
            return sorted(found)
        finally:
            reader.done()

    def is_member(self, channel_id: str, name: str, collection: str, requester: SignedData) -> bool:
        """Tell whether the signer of a request is a member of a collection, as it is defined now.

        Raises:
            LedgerError: the state is damaged.
        """
        channel, deployed = self._channel(channel_id), self.deployed(channel_id, name)
        if channel is None or deployed is None:
            return False
        try:
            if collection.startswith(state.IMPLICIT):
                creator = channel.bundle.msps.deserialize(requester.identity)
                return collection == state.implicit_collection(creator.msp_id)
            found = state.find_collection(deployed.collections, collection)
            policy = None if found is None else _members(channel, found)
            if policy is None:
                return False
            policy.evaluate([requester])
        except (MembershipError, PolicyError):
            return False
        return True

    def collection_names(self, channel_id: str) -> Callable[[str], frozenset[str]]:
        """Return what tells the names of a chaincode's private data collections."""

        def names(namespace: str) -> frozenset[str]:
            found = self.deployed(channel_id, namespace)
            return frozenset() if found is None else state.collection_names(found.collections)

        return names

    def policies(self, channel_id: str) -> CollectionPolicies:
        """Return what tells, of a channel's collections, what they mean for this peer."""

        def policy(namespace: str, collection: str) -> CollectionPolicy:
            if collection.startswith(state.IMPLICIT):
                own = state.implicit_collection(self._identity.msp_id)
                return CollectionPolicy(is_member=collection == own)
            channel, deployed = self._channel(channel_id), self.deployed(channel_id, namespace)
            if channel is None or deployed is None:
                return CollectionPolicy(is_member=False)
            found = state.find_collection(deployed.collections, collection)
            if found is None:
                return CollectionPolicy(is_member=False)
            return CollectionPolicy(found.block_to_live, self._is_member(channel, found))

        return policy

    async def _names(self, channel_id: str) -> list[str]:
        channel = self._channel(channel_id)
        if channel is None:
            return []
        reader = channel.ledger.new_query_executor()
        try:
            return await state.defined_names(reader)
        finally:
            reader.done()

    def _agreed(self, channel: Channel, name: str, sequence: int) -> EndorsementInfo:
        channel_id = channel.channel_id
        deployed = self.deployed(channel_id, name)
        if deployed is None or deployed.sequence != sequence:
            # A block was committed, and the news of it is still on its way.
            self._deployed.pop(channel_id, None)
            deployed = self.deployed(channel_id, name)
        known = deployed.sequence if deployed else 0
        if deployed is None or deployed.definition is None or known != sequence:
            raise DefinitionNotUsable(
                f"chaincode cache at sequence {known} but current sequence is {sequence}, "
                f"chaincode definition for '{name}' changed during invoke"
            )
        return self._usable(channel_id, name, deployed.definition, deployed)

    def _usable(
        self,
        channel_id: str,
        name: str,
        definition: state.CommittedDefinition,
        deployed: Deployed,
    ) -> EndorsementInfo:
        if not deployed.approved:
            raise DefinitionNotUsable(
                f"chaincode definition for '{name}' at sequence {definition.sequence} on channel "
                f"'{channel_id}' has not yet been approved by this org"
            )
        endorsement = definition.endorsement
        ccid = deployed.ccid
        if not (ccid and self._packages.is_installed(ccid)):
            if not self._is_development:
                raise DefinitionNotUsable(
                    f"chaincode definition for '{name}' exists, but chaincode is not installed"
                )
            ccid = f"{name}:{endorsement.version}"
        return EndorsementInfo(
            endorsement.version, ccid, endorsement.init_required, endorsement.endorsement_plugin
        )

    def _usable_legacy(self, data: ChaincodeData) -> EndorsementInfo:
        ccid = f"{data.name}:{data.version}"
        if not self._is_development:
            check_deployment(self._packages.deployment(ccid), data)
        return EndorsementInfo(data.version, ccid, False, data.escc)

    def _read(self, channel: Channel, name: str) -> Deployed | None:
        reader = channel.ledger.new_query_executor()
        try:
            definition = state.read_definition(reader, name)
            if definition is not None:
                own = state.OrganisationReader(reader, self._identity.msp_id)
                approval = state.approval_name(name, definition.sequence)
                approved = state.is_saved(own, definition.parameters(approval))
                return Deployed(
                    definition=definition,
                    legacy=None,
                    collections=definition.collections,
                    approved=approved,
                    ccid=(approved and self._chosen(reader, name, definition.sequence)) or "",
                )
            legacy = state.read_chaincode_data(reader, name)
            if legacy is None:
                return None
            collections = state.read_legacy_collections(reader, name)
            ccid = f"{legacy.name}:{legacy.version}"
            return Deployed(definition=None, legacy=legacy, collections=collections, ccid=ccid)
        finally:
            reader.done()

    def _chosen(self, reader: QueryExecutor, name: str, sequence: int) -> str | None:
        return state.read_package_id(reader, self._identity.msp_id, name, sequence)

    def _is_member(self, channel: Channel, collection: StaticCollectionConfig) -> bool:
        policy = _members(channel, collection)
        try:
            identity = channel.bundle.msps.deserialize(self._identity.creator)
            return policy is not None and policy.accepts([identity])
        except MembershipError:
            return False


def check_deployment(installed: Deployment | None, data: ChaincodeData) -> None:
    """Check that a package is the one that a legacy definition is about.

    Raises:
        DefinitionNotUsable: it is another one, or there is none.

    Source: `SecurityCheckLegacyChaincode`, core/scc/lscc/lscc.go (release-2.5).
    """
    if installed is None:
        raise DefinitionNotUsable(f"cannot get package for chaincode ({data.name}:{data.version})")
    if installed.data != data.data:
        raise DefinitionNotUsable("chaincode fingerprint mismatch: data mismatch")
    policy = installed.instantiation_policy
    if policy and (
        data.instantiation_policy is None or policy != encode(data.instantiation_policy)
    ):
        raise DefinitionNotUsable("chaincode fingerprint mismatch: instantiation policy mismatch")


def _legacy_collection(
    simulator: TxSimulator, name: str, collection: str
) -> StaticCollectionConfig | None:
    if state.read_chaincode_data(simulator, name) is None:
        return None
    return state.find_collection(state.read_legacy_collections(simulator, name), collection)


def _members(channel: Channel, collection: StaticCollectionConfig) -> Policy | None:
    """Return the policy that members of a collection satisfy; None where it cannot be read."""
    config = collection.member_orgs_policy
    if config is None or config.signature_policy is None:
        return None
    try:
        return channel.bundle.policies.signature_policy(encode(config.signature_policy))
    except PolicyError:
        return None


def _has_signed(policy: Policy | None, signed: SignedProposal | None) -> bool:
    """Tell whether who made a proposal satisfies a policy."""
    if policy is None or signed is None:
        return False
    try:
        header = Header.decode(Proposal.decode(signed.proposal_bytes).header)
        creator = SignatureHeader.decode(header.signature_header).creator
        policy.evaluate([SignedData(signed.proposal_bytes, creator, signed.signature)])
    except (DecodeError, PolicyError):
        return False
    return True
