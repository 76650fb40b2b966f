"""Define chaincode on a channel: approve for the own organisation, then commit; or withdraw.

Room:      peer.client   (imports channel, lifecycle; used by library)
Loop:      Trio
Lifetime:  none
Fabric:    internal/peer/lifecycle/chaincode/{approveformyorg,commit}.go (release-2.5)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import betterproto2

from fabric_protos.codec import encode
from fabric_protos.lifecycle import (
    ApproveChaincodeDefinitionForMyOrgArgs,
    ChaincodeSource,
    ChaincodeSourceLocal,
    ChaincodeSourceUnavailable,
    CommitChaincodeDefinitionArgs,
)
from fabric_protos.protos import ApplicationPolicy, CollectionConfigPackage
from peer.channel.channel import Channel
from peer.client.calls import Client
from peer.lifecycle import state

ENDORSEMENT = "/Channel/Application/Endorsement"
ENDORSEMENT_PLUGIN = "escc"
VALIDATION_PLUGIN = "vscc"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDefinition:
    """What a channel is to agree on for one chaincode.

    Attributes:
        package_id: what runs it here; empty for nothing.
        policy: marshalled ``protos.ApplicationPolicy``; the channel's own rule if empty.
        collections: its private data collections.
    """

    name: str
    version: str
    package_id: str
    init_required: bool = False
    policy: bytes = field(
        default=encode(ApplicationPolicy(channel_config_policy_reference=ENDORSEMENT))
    )
    collections: CollectionConfigPackage = field(default_factory=CollectionConfigPackage)
    endorsement_plugin: str = ENDORSEMENT_PLUGIN
    validation_plugin: str = VALIDATION_PLUGIN

    def is_agreed(self, found: state.CommittedDefinition) -> bool:
        """Tell whether this is what the channel has agreed on already."""
        endorsement, validation = found.endorsement, found.validation
        return (
            (endorsement.version, endorsement.init_required, endorsement.endorsement_plugin)
            == (self.version, self.init_required, self.endorsement_plugin)
            and (validation.validation_plugin, validation.validation_parameter)
            == (self.validation_plugin, self.policy)
            and encode(found.collections) == encode(self.collections)
        )


async def define(client: Client, channel: Channel, wanted: WantedDefinition) -> None:
    """Make `wanted` the channel's definition, as far as it is not already.

    Args:
        client: an administrator of this peer's organisation.

    Raises:
        InvalidDefinition: the lifecycle refuses it, or too few organisations agree.
        BroadcastRefused: the ordering service does not take a transaction.

    Cancellation: what was approved stays approved.
    """
    reader = channel.ledger.new_query_executor()
    try:
        found = state.read_definition(reader, wanted.name)
        agreed = found is not None and wanted.is_agreed(found)
        sequence = (found.sequence if found else 0) + (not agreed)
        msp_id = client.identity.msp_id
        approved = state.read_package_id(reader, msp_id, wanted.name, sequence)
    finally:
        reader.done()
    if not agreed or approved != wanted.package_id:
        await approve(client, channel, wanted, sequence)
    if not agreed:
        await commit(client, channel, wanted, sequence)


async def approve(
    client: Client, channel: Channel, wanted: WantedDefinition, sequence: int
) -> None:
    """Agree to a definition for the client's organisation, whose peer has to endorse it.

    Raises:
        InvalidDefinition: the lifecycle refuses it.
        BroadcastRefused: the ordering service does not take the transaction.
    """
    await _call(client, channel, wanted.name, approval(wanted, sequence))


async def commit(client: Client, channel: Channel, wanted: WantedDefinition, sequence: int) -> None:
    """Make what enough organisations agreed to the channel's definition.

    Raises:
        InvalidDefinition: the lifecycle refuses it, or too few organisations agree.
        BroadcastRefused: the ordering service does not take the transaction.
    """
    await _call(client, channel, wanted.name, commitment(wanted, sequence))


async def withdraw(client: Client, channel: Channel, name: str) -> None:
    """Choose no package for a definition any more; the definition stays.

    Args:
        client: an administrator of this peer's organisation.

    Raises:
        InvalidDefinition: the lifecycle refuses it.
        BroadcastRefused: the ordering service does not take the transaction.
    """
    reader = channel.ledger.new_query_executor()
    try:
        found = state.read_definition(reader, name)
    finally:
        reader.done()
    if found is None:
        return
    endorsement, validation = found.endorsement, found.validation
    arguments = ApproveChaincodeDefinitionForMyOrgArgs(
        sequence=found.sequence,
        name=name,
        version=endorsement.version,
        endorsement_plugin=endorsement.endorsement_plugin,
        validation_plugin=validation.validation_plugin,
        validation_parameter=validation.validation_parameter,
        collections=found.collections,
        init_required=endorsement.init_required,
        source=ChaincodeSource(unavailable=ChaincodeSourceUnavailable()),
    )
    await _call(client, channel, name, arguments)


async def _call(
    client: Client, channel: Channel, name: str, arguments: betterproto2.Message
) -> None:
    function = type(arguments).__name__.removesuffix("Args")
    args = [function.encode(), encode(arguments)]
    await client.define(channel.channel_id, state.LIFECYCLE, name, args)


def approval(wanted: WantedDefinition, sequence: int) -> ApproveChaincodeDefinitionForMyOrgArgs:
    """Return what an organisation says when it agrees."""
    source = ChaincodeSource(unavailable=ChaincodeSourceUnavailable())
    if wanted.package_id:
        local = ChaincodeSourceLocal(package_id=wanted.package_id)
        source = ChaincodeSource(local_package=local)
    return ApproveChaincodeDefinitionForMyOrgArgs(
        sequence=sequence,
        name=wanted.name,
        version=wanted.version,
        endorsement_plugin=wanted.endorsement_plugin,
        validation_plugin=wanted.validation_plugin,
        validation_parameter=wanted.policy,
        collections=wanted.collections,
        init_required=wanted.init_required,
        source=source,
    )


def commitment(wanted: WantedDefinition, sequence: int) -> CommitChaincodeDefinitionArgs:
    """Return what makes a definition that of the channel."""
    return CommitChaincodeDefinitionArgs(
        sequence=sequence,
        name=wanted.name,
        version=wanted.version,
        endorsement_plugin=wanted.endorsement_plugin,
        validation_plugin=wanted.validation_plugin,
        validation_parameter=wanted.policy,
        collections=wanted.collections,
        init_required=wanted.init_required,
    )
