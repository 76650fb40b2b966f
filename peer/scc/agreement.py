"""What organisations may agree on, and which of them do.

Room:      peer.scc   (imports peer.lifecycle, peer.channel; used by lifecycle)
Loop:      none; point reads and writes of one simulation
Lifetime:  one call
Fabric:    core/chaincode/lifecycle/{scc,lifecycle}.go (release-2.5)
"""

from __future__ import annotations

from typing import NamedTuple

from fabric_protos.codec import encode
from fabric_protos.lifecycle import (
    ApproveChaincodeDefinitionForMyOrgArgs,
    ChaincodeEndorsementInfo,
    ChaincodeValidationInfo,
    CheckCommitReadinessArgs,
    CommitChaincodeDefinitionArgs,
)
from fabric_protos.protos import ApplicationPolicy, CollectionConfigPackage
from peer.channel.bundle import Application, Bundle
from peer.channel.channel import Channel
from peer.errors import InvalidDefinition, PeerError
from peer.ledger.api import TxSimulator
from peer.lifecycle import collections, state
from peer.lifecycle.definitions import check_name, check_version

PLUGIN = "escc"
VALIDATION_PLUGIN = "vscc"
ENDORSEMENT = "/Channel/Application/Endorsement"

DefinitionArgs = (
    ApproveChaincodeDefinitionForMyOrgArgs
    | CheckCommitReadinessArgs
    | CommitChaincodeDefinitionArgs
)


class Place(NamedTuple):
    """Where a function works: a channel and the simulator of the call."""

    channel: Channel
    application: Application
    simulator: TxSimulator

    @property
    def bundle(self) -> Bundle:
        """The configuration of the channel."""
        return self.channel.bundle

    @property
    def msp_ids(self) -> list[str]:
        """The MSPs of the organisations with peers, sorted."""
        return sorted(each.msp_id for each in self.application.organisations.values())


def check_input(place: Place, arguments: DefinitionArgs) -> None:
    """Check what is to be defined by itself, and beside what is defined now.

    Raises:
        InvalidDefinition: it breaks a rule.
    """
    name = arguments.name
    try:
        check_name(name)
        check_version(name, arguments.version)
        package = arguments.collections or CollectionConfigPackage()
        wanted = collections.static_collections(name, package)
        collections.check_collections(name, wanted, place.bundle.msps.msps)
        former = collections.static_collections(name, _defined_collections(place.simulator, name))
        collections.check_kept(name, wanted, former)
    except InvalidDefinition as exc:
        reason = f"error validating chaincode definition: {exc}"
        raise InvalidDefinition(name, reason) from exc


def _defined_collections(simulator: TxSimulator, name: str) -> CollectionConfigPackage:
    found = state.read_definition(simulator, name)
    if found is not None:
        return found.collections
    if state.read_chaincode_data(simulator, name) is None:
        return CollectionConfigPackage()
    return state.read_legacy_collections(simulator, name)


def check_approvable(requested: int, current: int) -> None:
    """Check that a sequence can be approved where `current` is committed.

    Raises:
        PeerError: it is in the past, or leaves one out.
    """
    if requested == current == 0:
        raise PeerError("requested sequence is 0, but first definable sequence number is 1")
    if requested < current:
        raise PeerError(
            f"currently defined sequence {current} is larger than requested sequence {requested}"
        )
    if requested > current + 1:
        raise PeerError(
            f"requested sequence {requested} is larger than the next available sequence number "
            f"{current + 1}"
        )


def wanted_definition(place: Place, arguments: DefinitionArgs) -> state.CommittedDefinition:
    """Return the definition that is asked for, with defaults for what is left out.

    Raises:
        PeerError: the channel lacks the policy that is the default.
    """
    parameter = arguments.validation_parameter
    if not parameter:
        if not place.bundle.policies.has_policy(ENDORSEMENT):
            raise PeerError(
                f"could not set defaults for chaincode definition in channel "
                f"{place.channel.channel_id}: policy '{ENDORSEMENT}' must be defined for channel "
                f"'{place.channel.channel_id}' before chaincode operations can be attempted"
            )
        parameter = encode(ApplicationPolicy(channel_config_policy_reference=ENDORSEMENT))
    return state.CommittedDefinition(
        sequence=arguments.sequence,
        endorsement=ChaincodeEndorsementInfo(
            version=arguments.version,
            init_required=arguments.init_required,
            endorsement_plugin=arguments.endorsement_plugin or PLUGIN,
        ),
        validation=ChaincodeValidationInfo(
            validation_plugin=arguments.validation_plugin or VALIDATION_PLUGIN,
            validation_parameter=parameter,
        ),
        collections=arguments.collections or CollectionConfigPackage(),
    )


def readiness(
    place: Place, arguments: CheckCommitReadinessArgs | CommitChaincodeDefinitionArgs
) -> tuple[state.CommittedDefinition, dict[str, bool]]:
    """Return what is asked for, and which organisation agrees to it.

    Raises:
        PeerError: it is not the next sequence.
    """
    following = state.read_sequence(place.simulator, arguments.name) + 1
    if arguments.sequence != following:
        raise PeerError(
            f"requested sequence is {arguments.sequence}, but new definition must be sequence "
            f"{following}"
        )
    wanted = wanted_definition(place, arguments)
    return wanted, approvals(place, arguments.name, wanted)


def approvals(place: Place, name: str, definition: state.CommittedDefinition) -> dict[str, bool]:
    """Return which organisation agrees to a definition, by its MSP's id."""
    parameters = definition.parameters(state.approval_name(name, definition.sequence))
    return {
        msp_id: state.is_saved(state.OrganisationReader(place.simulator, msp_id), parameters)
        for msp_id in place.msp_ids
    }
