"""_lifecycle: install packages, and agree on which of them a channel's chaincodes are.

Room:      peer.scc   (imports peer.lifecycle, peer.channel; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/chaincode/lifecycle/{scc,lifecycle}.go (release-2.5)

An organisation's approval lies in a collection that every organisation has; the others see its
hashes, which is enough to tell whether it approved a given definition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import betterproto2
import trio

from fabric_protos.codec import decode, encode
from fabric_protos.errors import DecodeError
from fabric_protos.lifecycle import (
    ApproveChaincodeDefinitionForMyOrgArgs,
    ApproveChaincodeDefinitionForMyOrgResult,
    ChaincodeSource,
    ChaincodeSourceLocal,
    ChaincodeSourceUnavailable,
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
    QueryApprovedChaincodeDefinitionsArgs,
    QueryApprovedChaincodeDefinitionsResult,
    QueryApprovedChaincodeDefinitionsResultApprovedChaincodeDefinition,
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
from fabric_protos.stream import Response
from peer.channel.channel import Channel
from peer.errors import AccessDenied, InvalidDefinition, NotInstalled, PackageError, PeerError
from peer.ledger.api import TxSimulator
from peer.lifecycle import state
from peer.lifecycle.builds import BuildRegistry
from peer.lifecycle.definitions import Definitions
from peer.scc import agreement
from peer.scc.access import AccessControl
from peer.scc.runner import SystemCall

OK = 200
NOT_FOUND = 404
ERROR = 500


class _NotDefined(PeerError):
    """There is no such definition; a status of its own says so."""

    def __init__(self, name: str) -> None:
        super().__init__(f"namespace {name} is not defined")


class _Function(NamedTuple):
    arguments: type[betterproto2.Message]
    run: Callable[[SystemCall, Any], Awaitable[betterproto2.Message]]


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
            "QueryApprovedChaincodeDefinitions": _Function(
                QueryApprovedChaincodeDefinitionsArgs, self._query_all_approved
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
        agreement.check_input(place, arguments)
        current = state.read_sequence(place.simulator, name)
        agreement.check_approvable(arguments.sequence, current)
        wanted = agreement.wanted_definition(place, arguments)
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
        return CheckCommitReadinessResult(approvals=agreement.readiness(place, arguments)[1])

    async def _commit(
        self, call: SystemCall, arguments: CommitChaincodeDefinitionArgs
    ) -> CommitChaincodeDefinitionResult:
        place = self._place(call)
        agreement.check_input(place, arguments)
        if self._msp_id not in place.msp_ids:
            raise InvalidDefinition(
                arguments.name,
                "impossibly, this peer's org is processing requests for a channel it is not a "
                "member of",
            )
        wanted, agreed = agreement.readiness(place, arguments)
        if not agreed[self._msp_id]:
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

    async def _query_all_approved(
        self, call: SystemCall, arguments: QueryApprovedChaincodeDefinitionsArgs
    ) -> QueryApprovedChaincodeDefinitionsResult:
        place = self._place(call)
        own = state.OrganisationReader(place.simulator, self._msp_id)
        definitions = []
        for name, sequence in await state.approved(place.simulator, self._msp_id):
            found = state.read_parameters(own, state.approval_name(name, sequence), sequence)
            if found is None:
                continue
            package_id = state.read_package_id(place.simulator, self._msp_id, name, sequence)
            definitions.append(
                QueryApprovedChaincodeDefinitionsResultApprovedChaincodeDefinition(
                    name=name,
                    sequence=sequence,
                    version=found.endorsement.version,
                    endorsement_plugin=found.endorsement.endorsement_plugin,
                    validation_plugin=found.validation.validation_plugin,
                    validation_parameter=found.validation.validation_parameter,
                    collections=found.collections,
                    init_required=found.endorsement.init_required,
                    source=_source(package_id),
                )
            )
        return QueryApprovedChaincodeDefinitionsResult(approved_chaincode_definitions=definitions)

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
            approvals=agreement.approvals(place, arguments.name, found),
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

    def _place(self, call: SystemCall) -> agreement.Place:
        channel, simulator = self._channel(call.channel_id), call.params.simulator
        if channel is None or channel.bundle.application is None or simulator is None:
            raise PeerError(f"could not get channelconfig for channel '{call.channel_id}'")
        return agreement.Place(channel, channel.bundle.application, simulator)


def _error(message: str) -> Response:
    return Response(status=ERROR, message=message)


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
