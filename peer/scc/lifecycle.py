"""_lifecycle: install packages, and agree on which of them a channel's chaincodes are.

Room:      peer.scc   (imports peer.lifecycle, peer.channel; used by app)
Loop:      Trio
Lifetime:  peer
Fabric:    core/chaincode/lifecycle/{scc,lifecycle}.go (release-2.5)

An organisation's approval lies in a collection that every organisation has; the others see its
hashes, which is enough to tell whether it approved a given definition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import betterproto2
import trio

from fabric_protos.codec import decode, encode
from fabric_protos.errors import DecodeError
from fabric_protos.lifecycle import (
    ApproveChaincodeDefinitionForMyOrgArgs,
    ApproveChaincodeDefinitionForMyOrgResult,
    ChaincodeEndorsementInfo,
    ChaincodeSource,
    ChaincodeSourceLocal,
    ChaincodeSourceUnavailable,
    ChaincodeValidationInfo,
    CheckCommitReadinessArgs,
    CheckCommitReadinessResult,
    CommitChaincodeDefinitionArgs,
    CommitChaincodeDefinitionResult,
    GetInstalledChaincodePackageArgs,
    GetInstalledChaincodePackageResult,
    InstallChaincodeArgs,
    InstallChaincodeResult,
    QueryApprovedChaincodeDefinitionArgs,
    QueryApprovedChaincodeDefinitionResult,
    QueryChaincodeDefinitionArgs,
    QueryChaincodeDefinitionResult,
    QueryChaincodeDefinitionsArgs,
    QueryChaincodeDefinitionsResult,
    QueryChaincodeDefinitionsResultChaincodeDefinition,
    QueryInstalledChaincodeArgs,
    QueryInstalledChaincodeResult,
    QueryInstalledChaincodeResultChaincode,
    QueryInstalledChaincodeResultReferences,
    QueryInstalledChaincodesArgs,
    QueryInstalledChaincodesResult,
    QueryInstalledChaincodesResultChaincode,
    QueryInstalledChaincodesResultInstalledChaincode,
    QueryInstalledChaincodesResultReferences,
)
from fabric_protos.protos import ApplicationPolicy, CollectionConfigPackage
from fabric_protos.stream import Response
from peer.channel.bundle import Application, Bundle
from peer.channel.channel import Channel
from peer.errors import AccessDenied, InvalidDefinition, NotInstalled, PackageError, PeerError
from peer.ledger.api import TxSimulator
from peer.lifecycle import collections, state
from peer.lifecycle.builds import BuildRegistry
from peer.lifecycle.definitions import Definitions, check_name, check_version
from peer.scc.access import AccessControl
from peer.scc.runner import SystemCall

OK = 200
NOT_FOUND = 404
ERROR = 500

PLUGIN = "escc"
VALIDATION_PLUGIN = "vscc"
ENDORSEMENT = "/Channel/Application/Endorsement"

DefinitionArgs = (
    ApproveChaincodeDefinitionForMyOrgArgs
    | CheckCommitReadinessArgs
    | CommitChaincodeDefinitionArgs
)


class _NotDefined(PeerError):
    """There is no such definition; a status of its own says so."""

    def __init__(self, name: str) -> None:
        super().__init__(f"namespace {name} is not defined")


class _Function(NamedTuple):
    arguments: type[betterproto2.Message]
    run: Callable[[SystemCall, Any], Awaitable[betterproto2.Message]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a function works: a channel and the simulator of the call."""

    channel: Channel
    application: Application
    simulator: TxSimulator

    @property
    def bundle(self) -> Bundle:
        return self.channel.bundle

    @property
    def msp_ids(self) -> list[str]:
        """The MSPs of the organisations with peers, sorted."""
        return sorted(each.msp_id for each in self.application.organisations.values())


class Lifecycle:
    """The system chaincode ``_lifecycle``.

    Args:
        channel: finds a joined channel, None where there is none of that name.
        channels: returns the ids of the joined channels.
        msp_id: of the organisation this peer approves for.
    """

    name = state.LIFECYCLE

    def __init__(
        self,
        *,
        access: AccessControl,
        channel: Callable[[str], Channel | None],
        channels: Callable[[], Sequence[str]],
        definitions: Definitions,
        packages: BuildRegistry,
        msp_id: str,
    ) -> None:
        self._access = access
        self._channel = channel
        self._channels = channels
        self._definitions = definitions
        self._packages = packages
        self._msp_id = msp_id
        self._functions = {
            "InstallChaincode": _Function(InstallChaincodeArgs, self._install),
            "QueryInstalledChaincode": _Function(
                QueryInstalledChaincodeArgs, self._query_installed
            ),
            "QueryInstalledChaincodes": _Function(
                QueryInstalledChaincodesArgs, self._query_all_installed
            ),
            "GetInstalledChaincodePackage": _Function(
                GetInstalledChaincodePackageArgs, self._get_package
            ),
            "ApproveChaincodeDefinitionForMyOrg": _Function(
                ApproveChaincodeDefinitionForMyOrgArgs, self._approve
            ),
            "QueryApprovedChaincodeDefinition": _Function(
                QueryApprovedChaincodeDefinitionArgs, self._query_approved
            ),
            "CheckCommitReadiness": _Function(CheckCommitReadinessArgs, self._check_readiness),
            "CommitChaincodeDefinition": _Function(CommitChaincodeDefinitionArgs, self._commit),
            "QueryChaincodeDefinition": _Function(QueryChaincodeDefinitionArgs, self._query),
            "QueryChaincodeDefinitions": _Function(QueryChaincodeDefinitionsArgs, self._query_all),
        }

    async def invoke(self, call: SystemCall) -> Response:
        """Answer one call; see `SystemChaincode.invoke`."""
        if len(call.args) != 2:
            received = len(call.args)
            return _error(
                f"lifecycle scc operations require exactly two arguments but received {received}"
            )
        channel = self._channel(call.channel_id)
        if call.channel_id and not (channel and channel.has_new_lifecycle):
            return _error(
                f"cannot use new lifecycle for channel '{call.channel_id}' as it does not have the "
                "required capabilities enabled"
            )
        name = bytes(call.args[0]).decode(errors="replace")
        try:
            resource = f"{self.name}/{name}"
            self._access.check(resource, call.channel_id, call.params.signed_proposal)
        except AccessDenied as exc:
            return _error(f"Failed to authorize invocation due to failed ACL check: {exc}")
        function = self._functions.get(name)
        try:
            if function is None:
                raise PeerError("the function is not known here")
            arguments = decode(function.arguments, bytes(call.args[1]))
            result = await function.run(call, arguments)
        except (_NotDefined, NotInstalled) as exc:
            return Response(status=NOT_FOUND, message=str(exc))
        except (PeerError, DecodeError) as exc:
            return _error(f"failed to invoke backing implementation of '{name}': {exc}")
        return Response(status=OK, payload=encode(result))

    # Packages

    async def _install(
        self, call: SystemCall, arguments: InstallChaincodeArgs
    ) -> InstallChaincodeResult:
        data = arguments.chaincode_install_package
        if not data.startswith(b"\x1f\x8b"):
            raise PackageError("could not parse as a chaincode install package")
        package = await self._packages.install_package(data)
        return InstallChaincodeResult(package_id=package.ccid, label=package.label)

    async def _query_installed(
        self, call: SystemCall, arguments: QueryInstalledChaincodeArgs
    ) -> QueryInstalledChaincodeResult:
        package = await self._packages.find(arguments.package_id)
        found = await self._definitions.references(self._channels())
        return QueryInstalledChaincodeResult(
            package_id=package.ccid,
            label=package.label,
            references={
                channel_id: QueryInstalledChaincodeResultReferences(
                    [QueryInstalledChaincodeResultChaincode(*each) for each in chaincodes]
                )
                for channel_id, chaincodes in found.get(package.ccid, {}).items()
            },
        )

    async def _query_all_installed(
        self, call: SystemCall, arguments: QueryInstalledChaincodesArgs
    ) -> QueryInstalledChaincodesResult:
        found = await self._definitions.references(self._channels())
        installed = [package for package in self._packages.list() if not package.legacy]
        return QueryInstalledChaincodesResult(
            installed_chaincodes=[
                QueryInstalledChaincodesResultInstalledChaincode(
                    package_id=package.ccid,
                    label=package.label,
                    references={
                        channel_id: QueryInstalledChaincodesResultReferences(
                            [QueryInstalledChaincodesResultChaincode(*each) for each in chaincodes]
                        )
                        for channel_id, chaincodes in found.get(package.ccid, {}).items()
                    },
                )
                for package in installed
            ]
        )

    async def _get_package(
        self, call: SystemCall, arguments: GetInstalledChaincodePackageArgs
    ) -> GetInstalledChaincodePackageResult:
        for package in self._packages.list():
            if package.ccid == arguments.package_id and not package.legacy:
                content = await trio.to_thread.run_sync(package.path.read_bytes)
                return GetInstalledChaincodePackageResult(chaincode_install_package=content)
        raise NotInstalled(arguments.package_id)

    # Agreeing on definitions

    async def _approve(
        self, call: SystemCall, arguments: ApproveChaincodeDefinitionForMyOrgArgs
    ) -> ApproveChaincodeDefinitionForMyOrgResult:
        place = self._place(call)
        name = arguments.name
        _check_input(place, arguments)
        current = state.read_sequence(place.simulator, name)
        _check_approvable(arguments.sequence, current)
        wanted = _wanted(place, arguments)
        if wanted.sequence == current:
            found = state.read_definition(place.simulator, name)
            if found is None or found.parameters(name) != wanted.parameters(name):
                raise InvalidDefinition(
                    name,
                    f"attempted to redefine the current committed sequence ({current}) for "
                    f"namespace {name} with different parameters",
                )
        source = arguments.source and arguments.source.local_package
        package_id = source.package_id if source else ""
        approval = state.approval_name(name, wanted.sequence)
        own = state.OrganisationState(place.simulator, self._msp_id)
        parameters, local = wanted.parameters(approval), state.local_package(approval, package_id)
        if wanted.sequence > current and _is_there(own, parameters) and _is_there(own, local):
            raise InvalidDefinition(
                name,
                f"attempted to redefine uncommitted sequence ({wanted.sequence}) for namespace "
                f"{name} with unchanged content",
            )
        state.save(own, parameters)
        state.save(own, local)
        return ApproveChaincodeDefinitionForMyOrgResult()

    async def _check_readiness(
        self, call: SystemCall, arguments: CheckCommitReadinessArgs
    ) -> CheckCommitReadinessResult:
        place = self._place(call)
        return CheckCommitReadinessResult(approvals=_readiness(place, arguments)[1])

    async def _commit(
        self, call: SystemCall, arguments: CommitChaincodeDefinitionArgs
    ) -> CommitChaincodeDefinitionResult:
        place = self._place(call)
        _check_input(place, arguments)
        if self._msp_id not in place.msp_ids:
            raise InvalidDefinition(
                arguments.name,
                "impossibly, this peer's org is processing requests for a channel it is not a "
                "member of",
            )
        wanted, approvals = _readiness(place, arguments)
        if not approvals[self._msp_id]:
            raise InvalidDefinition(
                arguments.name,
                f"chaincode definition not agreed to by this org ({self._msp_id})",
            )
        state.save(place.simulator, wanted.structure(arguments.name))
        return CommitChaincodeDefinitionResult()

    # Looking at definitions

    async def _query_approved(
        self, call: SystemCall, arguments: QueryApprovedChaincodeDefinitionArgs
    ) -> QueryApprovedChaincodeDefinitionResult:
        place = self._place(call)
        own = state.OrganisationReader(place.simulator, self._msp_id)
        sequence = arguments.sequence or _latest_approved(place.simulator, own, arguments.name)
        approval = state.approval_name(arguments.name, sequence)
        found = state.read_parameters(own, approval, sequence)
        if found is None:
            raise _NotDefined(approval)
        package_id = state.read_package_id(place.simulator, self._msp_id, arguments.name, sequence)
        return QueryApprovedChaincodeDefinitionResult(
            sequence=sequence,
            version=found.endorsement.version,
            endorsement_plugin=found.endorsement.endorsement_plugin,
            validation_plugin=found.validation.validation_plugin,
            validation_parameter=found.validation.validation_parameter,
            collections=found.collections,
            init_required=found.endorsement.init_required,
            source=_source(package_id),
        )

    async def _query(
        self, call: SystemCall, arguments: QueryChaincodeDefinitionArgs
    ) -> QueryChaincodeDefinitionResult:
        place = self._place(call)
        found = state.read_definition(place.simulator, arguments.name)
        if found is None:
            raise _NotDefined(arguments.name)
        return QueryChaincodeDefinitionResult(
            sequence=found.sequence,
            version=found.endorsement.version,
            endorsement_plugin=found.endorsement.endorsement_plugin,
            validation_plugin=found.validation.validation_plugin,
            validation_parameter=found.validation.validation_parameter,
            collections=found.collections,
            init_required=found.endorsement.init_required,
            approvals=_approvals(place, arguments.name, found),
        )

    async def _query_all(
        self, call: SystemCall, arguments: QueryChaincodeDefinitionsArgs
    ) -> QueryChaincodeDefinitionsResult:
        place = self._place(call)
        definitions = []
        for name in await state.defined_names(place.simulator):
            found = state.read_definition(place.simulator, name)
            if found is None:
                continue
            definitions.append(
                QueryChaincodeDefinitionsResultChaincodeDefinition(
                    name=name,
                    sequence=found.sequence,
                    version=found.endorsement.version,
                    endorsement_plugin=found.endorsement.endorsement_plugin,
                    validation_plugin=found.validation.validation_plugin,
                    validation_parameter=found.validation.validation_parameter,
                    collections=found.collections,
                    init_required=found.endorsement.init_required,
                )
            )
        return QueryChaincodeDefinitionsResult(chaincode_definitions=definitions)

    def _place(self, call: SystemCall) -> _Place:
        channel, simulator = self._channel(call.channel_id), call.params.simulator
        if channel is None or channel.bundle.application is None or simulator is None:
            raise PeerError(f"could not get channelconfig for channel '{call.channel_id}'")
        return _Place(channel, channel.bundle.application, simulator)


def _error(message: str) -> Response:
    return Response(status=ERROR, message=message)


def _check_input(place: _Place, arguments: DefinitionArgs) -> None:
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


def _check_approvable(requested: int, current: int) -> None:
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


def _wanted(place: _Place, arguments: DefinitionArgs) -> state.CommittedDefinition:
    """Return the definition that is asked for, with defaults for what is left out."""
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


def _readiness(
    place: _Place, arguments: CheckCommitReadinessArgs | CommitChaincodeDefinitionArgs
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
    wanted = _wanted(place, arguments)
    return wanted, _approvals(place, arguments.name, wanted)


def _approvals(place: _Place, name: str, definition: state.CommittedDefinition) -> dict[str, bool]:
    parameters = definition.parameters(state.approval_name(name, definition.sequence))
    return {
        msp_id: state.is_saved(state.OrganisationReader(place.simulator, msp_id), parameters)
        for msp_id in place.msp_ids
    }


def _is_there(own: state.OrganisationState, structure: state.Structure) -> bool:
    """Tell whether an organisation has written exactly this before."""
    found = state.read_structure(own, structure.space, structure.name, structure.datatype)
    return found == structure.fields


def _latest_approved(simulator: TxSimulator, own: state.OrganisationReader, name: str) -> int:
    """Return the next sequence if it is approved, else the present one."""
    current = state.read_sequence(simulator, name)
    following = state.approval_name(name, current + 1)
    key = state.metadata_key(state.NAMESPACES, following)
    return current + 1 if own.get_state(state.LIFECYCLE, key) is not None else current


def _source(package_id: str | None) -> ChaincodeSource:
    if not package_id:
        return ChaincodeSource(unavailable=ChaincodeSourceUnavailable())
    return ChaincodeSource(local_package=ChaincodeSourceLocal(package_id=package_id))
