"""lscc: install, deploy and upgrade chaincodes of the old lifecycle, and look at them.

Room:      peer.scc   (imports peer.lifecycle, peer.channel; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/scc/lscc/lscc.go (release-2.5)

A deployment is one transaction: it writes the definition here, and the endorser runs Init of the
new chaincode in the same simulation.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from fabric_protos.codec import decode, encode
from fabric_protos.common import MspPrincipalClassification, SignaturePolicyEnvelope
from fabric_protos.errors import DecodeError
from fabric_protos.protos import (
    ChaincodeData,
    ChaincodeDeploymentSpec,
    ChaincodeInfo,
    ChaincodeQueryResponse,
    CollectionConfigPackage,
    LifecycleEvent,
)
from fabric_protos.stream import ChaincodeEvent, Response, SignedProposal
from fabric_protos.wire import varint_bytes
from peer.channel.capabilities import Capabilities
from peer.channel.channel import Channel
from peer.errors import (
    AccessDenied,
    AlreadyInstalled,
    InvalidDefinition,
    PackageError,
    PeerError,
    PolicyError,
)
from peer.ledger.api import TxSimulator
from peer.lifecycle import collections, state
from peer.lifecycle.builds import BuildRegistry
from peer.lifecycle.definitions import SYSTEM_CHAINCODES, check_deployment
from peer.lifecycle.legacy import NAME, VERSION, Deployment, deployment_spec, describe_deployment
from peer.msp import standard
from peer.scc.access import AccessControl, signed_data
from peer.scc.runner import SystemCall

log = logging.getLogger("peer.scc")

OK = 200
UPGRADE = "upgrade"
COLLECTION_KEY = "~collection"

_AT_ONCE = 1000
_PRINCIPALS = (
    MspPrincipalClassification.ROLE,
    MspPrincipalClassification.ORGANIZATION_UNIT,
    MspPrincipalClassification.IDENTITY,
)


class _Wanted(NamedTuple):
    """What is to be deployed: a package, and what the channel decides about it."""

    package: Deployment
    escc: bytes
    vscc: bytes
    policy: bytes
    collections: bytes


class _Place(NamedTuple):
    """Where a deployment works: a channel, the simulator of the call, and who asked."""

    channel: Channel
    capabilities: Capabilities
    simulator: TxSimulator
    proposal: SignedProposal | None


class Lscc:
    """The system chaincode ``lscc``.

    Args:
        channel: finds a joined channel, None where there is none of that name.
    """

    name = state.LSCC

    def __init__(
        self,
        *,
        access: AccessControl,
        channel: Callable[[str], Channel | None],
        packages: BuildRegistry,
    ) -> None:
        self._access = access
        self._channel = channel
        self._packages = packages
        self._functions: dict[str, Callable[[SystemCall, str], Awaitable[bytes]]] = {
            "install": self._install,
            "deploy": self._deploy,
            UPGRADE: self._upgrade,
            "getid": self._get_id,
            "ChaincodeExists": self._get_id,
            "getdepspec": self._get_deployment_spec,
            "GetDeploymentSpec": self._get_deployment_spec,
            "getccdata": self._get_data,
            "GetChaincodeData": self._get_data,
            "getchaincodes": self._get_chaincodes,
            "GetChaincodes": self._get_chaincodes,
            "getinstalledchaincodes": self._get_installed,
            "GetInstalledChaincodes": self._get_installed,
            "getcollectionsconfig": self._get_collections,
            "GetCollectionsConfig": self._get_collections,
        }

    async def invoke(self, call: SystemCall) -> Response:
        """Answer one call; see `SystemChaincode.invoke`."""
        if not call.args:
            raise _arguments(call)
        name = bytes(call.args[0]).decode(errors="replace")
        function = self._functions.get(name)
        if function is None:
            raise PeerError(f"invalid function to lscc: {name}")
        return Response(status=OK, payload=await function(call, name))

    # Changing

    async def _install(self, call: SystemCall, function: str) -> bytes:
        if len(call.args) < 2:
            raise _arguments(call)
        self._check(call, function, "Install", "")
        data = bytes(call.args[1])
        package = describe_deployment(data)
        _check_name(package.name, package.version)
        if package.name in SYSTEM_CHAINCODES:
            raise PackageError(f"cannot install: {package.name} is the name of a system chaincode")
        ccid = f"{package.name}:{package.version}"
        exists = f"error installing chaincode code {ccid}(chaincode {ccid} exists)"
        if self._packages.deployment(ccid) is not None:
            raise PackageError(exists)
        try:
            await self._packages.install_package(data)
        except AlreadyInstalled as exc:
            raise PackageError(exists) from exc
        return b"OK"

    async def _deploy(self, call: SystemCall, function: str) -> bytes:
        place, wanted = self._deployment(call)
        name = wanted.package.name
        if state.read_chaincode_data(place.simulator, name) is not None:
            raise PeerError(f"chaincode with name '{name}' already exists")
        policy = _instantiation_policy(place, wanted.package)
        _check_instantiation(place, policy)
        return _write(place, wanted, policy)

    async def _upgrade(self, call: SystemCall, function: str) -> bytes:
        place, wanted = self._deployment(call)
        name = wanted.package.name
        former = state.read_chaincode_data(place.simulator, name)
        if former is None:
            raise PeerError(f"could not find chaincode with name '{name}'")
        if former.version == wanted.package.version:
            raise PeerError(f"version already exists for chaincode with name '{name}'")
        if former.instantiation_policy is None:
            raise PeerError("instantiation policy missing")
        _check_instantiation(place, encode(former.instantiation_policy))
        policy = _instantiation_policy(place, wanted.package)
        _check_instantiation(place, policy)
        if wanted.collections and "V1_2" not in place.capabilities:
            raise PeerError(
                "as V1_2 capability is not enabled, collection upgrades are not allowed"
            )
        written = _write(place, wanted, policy)
        payload = encode(LifecycleEvent(chaincode_name=name))
        call.event = ChaincodeEvent(event_name=UPGRADE, payload=payload)
        return written

    def _deployment(self, call: SystemCall) -> tuple[_Place, _Wanted]:
        """Check what any deployment needs, and return where and what it is."""
        if len(call.args) < 3:
            raise _arguments(call)
        channel_id = bytes(call.args[1]).decode(errors="replace")
        channel, simulator = self._channel(channel_id), call.params.simulator
        # The other channel's members would decide on what is written to this one.
        if channel is None or simulator is None or channel_id != call.channel_id:
            raise PeerError(f"invalid channel name: {channel_id}")
        application = channel.bundle.application
        if channel.has_new_lifecycle or application is None:
            raise PeerError(
                f"Channel '{channel_id}' has been migrated to the new lifecycle, LSCC is now "
                "read-only"
            )
        capabilities = application.capabilities
        if len(call.args) > (7 if "V1_2" in capabilities else 6):
            raise PeerError(
                "as V1_2 or later capability is not enabled, private channel collections and data "
                "are not available"
            )
        _, _, spec, policy, escc, vscc, collection, *_ = *map(bytes, call.args), *[b""] * 4
        name, version = _named(spec)
        _check_name(name, version)
        package = self._packages.deployment(f"{name}:{version}")
        if package is None:
            raise PackageError(f"cannot get package for chaincode ({name}:{version})")
        if not policy:
            members = standard.signed_by_any(standard.Role.MEMBER, _members(channel))
            policy = encode(members)
        wanted = _Wanted(package, escc or b"escc", vscc or b"vscc", policy, collection)
        place = _Place(channel, capabilities, simulator, call.params.signed_proposal)
        return place, wanted

    # Looking

    async def _get_id(self, call: SystemCall, function: str) -> bytes:
        name, _ = self._stored(call, function, "ChaincodeExists")
        return name.encode()

    async def _get_data(self, call: SystemCall, function: str) -> bytes:
        return self._stored(call, function, "GetChaincodeData")[1]

    async def _get_deployment_spec(self, call: SystemCall, function: str) -> bytes:
        name, stored = self._stored(call, function, "GetDeploymentSpec")
        data = _read_data(name, stored)
        ccid = f"{data.name}:{data.version}"
        check_deployment(self._packages.deployment(ccid), data)
        path = (await self._packages.find(ccid)).path
        return deployment_spec(await trio.to_thread.run_sync(path.read_bytes))

    async def _get_chaincodes(self, call: SystemCall, function: str) -> bytes:
        if len(call.args) != 1:
            raise _arguments(call)
        self._check(call, function, "GetInstantiatedChaincodes", call.channel_id)
        found = self._simulator(call).get_state_range(self.name, "", "")
        chaincodes = []
        try:
            while records := await found.take(_AT_ONCE):
                chaincodes += [
                    self._info(_read_data(record.key, record.value))
                    for record in records
                    if not record.key.endswith(COLLECTION_KEY)
                ]
        finally:
            found.close()
        return encode(ChaincodeQueryResponse(chaincodes=chaincodes))

    async def _get_installed(self, call: SystemCall, function: str) -> bytes:
        if len(call.args) != 1:
            raise _arguments(call)
        self._check(call, function, "GetInstalledChaincodes", "")
        found = [self._packages.deployment(each.ccid) for each in self._packages.list()]
        chaincodes = [
            ChaincodeInfo(name=each.name, version=each.version, path=each.path, id=each.id)
            for each in found
            if each is not None
        ]
        return encode(ChaincodeQueryResponse(chaincodes=chaincodes))

    async def _get_collections(self, call: SystemCall, function: str) -> bytes:
        if len(call.args) < 2:
            raise _arguments(call)
        self._check(call, function, "GetCollectionsConfig", call.channel_id)
        name = bytes(call.args[1]).decode(errors="replace")
        self._get(call, name)
        key = state.collections_key(name)
        package = self._simulator(call).get_state(self.name, key)
        if package is None:
            raise PeerError(f"collections config not defined for chaincode {name}")
        return package

    def _stored(self, call: SystemCall, function: str, resource: str) -> tuple[str, bytes]:
        """Return the name a call asks about, and its definition as stored."""
        if len(call.args) != 3:
            raise _arguments(call)
        channel_id, name = (bytes(arg).decode(errors="replace") for arg in call.args[1:])
        self._check(call, function, resource, channel_id)
        return name, self._get(call, name)

    def _get(self, call: SystemCall, name: str) -> bytes:
        found = self._simulator(call).get_state(self.name, name)
        if found is None:
            raise PeerError(f"could not find chaincode with name '{name}'")
        return found

    def _info(self, data: ChaincodeData) -> ChaincodeInfo:
        installed = self._packages.deployment(f"{data.name}:{data.version}")
        return ChaincodeInfo(
            name=data.name,
            version=data.version,
            path=installed.path if installed is not None else "",
            escc=data.escc,
            vscc=data.vscc,
        )

    def _check(self, call: SystemCall, function: str, resource: str, channel_id: str) -> None:
        try:
            resource = f"{self.name}/{resource}"
            self._access.check(resource, channel_id, call.params.signed_proposal)
        except AccessDenied as exc:
            where = f"[{function}][{channel_id}]" if channel_id else f"[{function}]"
            raise AccessDenied(f"access denied for {where}: {exc}") from exc

    @staticmethod
    def _simulator(call: SystemCall) -> TxSimulator:
        if call.params.simulator is None:
            raise PeerError(f"invalid channel name: {call.channel_id}")
        return call.params.simulator


def _arguments(call: SystemCall) -> PeerError:
    return PeerError(f"invalid number of arguments to lscc: {len(call.args)}")


def _check_name(name: str, version: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidDefinition(
            name,
            f"invalid chaincode name '{name}'. Names must start with an alphanumeric character and "
            "can only consist of alphanumerics, '_', and '-'",
        )
    if not VERSION.fullmatch(version):
        raise InvalidDefinition(
            name,
            f"invalid chaincode version '{version}'. Versions must not be empty and can only "
            "consist of alphanumerics, '_',  '-', '+', and '.'",
        )


def _named(spec: bytes) -> tuple[str, str]:
    """Return name and version that a deployment spec is about."""
    try:
        chaincode = decode(ChaincodeDeploymentSpec, spec).chaincode_spec
    except DecodeError as exc:
        raise PackageError(f"error unmarshalling ChaincodeDeploymentSpec: {exc}") from exc
    if chaincode is None or chaincode.chaincode_id is None:
        raise PackageError("invalid deployment spec: it names no chaincode")
    return chaincode.chaincode_id.name, chaincode.chaincode_id.version


def _read_data(name: str, stored: bytes) -> ChaincodeData:
    try:
        return decode(ChaincodeData, stored)
    except DecodeError as exc:
        raise PeerError(f"failed to get chaincode data for '{name}': {exc}") from exc


def _members(channel: Channel) -> list[str]:
    application = channel.bundle.application
    return [each.msp_id for each in application.organisations.values()] if application else []


def _instantiation_policy(place: _Place, package: Deployment) -> bytes:
    """Return who may deploy a package: whom its owners named, or any administrator."""
    if package.instantiation_policy:
        return package.instantiation_policy
    return encode(standard.signed_by_any(standard.Role.ADMIN, _members(place.channel)))


def _check_instantiation(place: _Place, policy: bytes) -> None:
    try:
        decided = place.channel.bundle.policies.signature_policy(policy)
        decided.evaluate([signed_data(place.proposal)])
    except PolicyError as exc:
        raise AccessDenied(f"instantiation policy violation: {exc}") from exc


def _write(place: _Place, wanted: _Wanted, instantiation_policy: bytes) -> bytes:
    """Write a definition, and the collections that come with it."""
    package = wanted.package
    # Policies go into the state as the bytes that were signed over, whatever wrote them.
    data = b"".join(
        _field(number, content)
        for number, content in enumerate(
            (
                package.name.encode(),
                package.version.encode(),
                wanted.escc,
                wanted.vscc,
                wanted.policy,
                package.data,
                package.id,
                instantiation_policy,
            ),
            start=1,
        )
    )
    _check_policy(package, data)
    place.simulator.set_state(state.LSCC, package.name, data)
    if wanted.collections:
        _check_collections(place, package, wanted.collections)
        key = state.collections_key(package.name)
        place.simulator.set_state(state.LSCC, key, wanted.collections)
    return data


def _field(number: int, content: bytes) -> bytes:
    return varint_bytes(number << 3 | 2) + varint_bytes(len(content)) + content if content else b""


def _check_policy(package: Deployment, data: bytes) -> None:
    """Refuse what nobody could read again: it would stand in the state for ever."""
    try:
        decode(ChaincodeData, data)
    except DecodeError as exc:
        raise InvalidDefinition(package.name, f"invalid endorsement policy: {exc}") from exc


def _check_collections(place: _Place, package: Deployment, content: bytes) -> None:
    """Check what `lscc` checks; the committing peers check more.

    Source: `checkCollectionMemberPolicy`, core/scc/lscc/lscc.go (release-2.5).
    """
    invalid = f"invalid collection configuration supplied for chaincode {package.name}:"
    invalid += package.version
    try:
        found = decode(CollectionConfigPackage, content)
    except DecodeError as exc:
        raise InvalidDefinition(package.name, f"{invalid}: {exc}") from exc
    for each in collections.static_collections(package.name, found):
        try:
            policy = collections.member_principals(each)
            _check_principals(place, each.name, policy)
        except (DecodeError, ValueError) as exc:
            raise InvalidDefinition(
                package.name,
                f"collection member policy check failed: collection-name: {each.name} -- {exc}",
            ) from exc


def _check_principals(place: _Place, collection: str, policy: SignaturePolicyEnvelope) -> None:
    for principal in policy.identities:
        if principal.principal_classification not in _PRINCIPALS:
            kind = int(principal.principal_classification)
            raise ValueError(f"principal type {kind} is not supported")
        organisation = collections.organisation_of(principal)
        if organisation not in place.channel.bundle.msps.msps:
            log.warning("collection %s: %s is no member of the channel", collection, organisation)
