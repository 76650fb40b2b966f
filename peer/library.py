"""The peer as a library user sees it.

Room:      peer.library   (imports chaincode, channels, client, lifecycle; made by assembly)
Loop:      Trio
Lifetime:  peer
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import trio

from fabric_protos.common import Block
from fabric_protos.protos import CollectionConfigPackage
from fabric_protos.stream import ChaincodeInput
from peer.chaincode.support import ChaincodeSupport
from peer.channel.channel import Channel
from peer.channels import Channels
from peer.client import deployments
from peer.client.calls import Client
from peer.client.calls import Result as Result
from peer.client.collections import collections_of
from peer.client.definitions import WantedDefinition, define, withdraw
from peer.client.deployments import WantedDeployment
from peer.endorser.endorser import Endorser
from peer.endorser.proposal import prepare_args
from peer.errors import (
    AlreadyInstalled,
    ChannelExists,
    InvalidDefinition,
    PackageError,
    PackageInUse,
)
from peer.ledger.api import Ledger
from peer.lifecycle import state
from peer.lifecycle.builds import BuildRegistry
from peer.lifecycle.definitions import Definitions, check_name, check_version
from peer.lifecycle.directories import InstalledPackage, type_of
from peer.lifecycle.legacy import pack_deployment, spec_type
from peer.metrics import Registry
from peer.msp.dsl import parse_policy
from peer.ordering.service import Ordering, OrderingState


class Peer:
    """An open peer; made by `open_peer`.

    Attributes:
        chaincode: launches and runs chaincodes; most callers need `invoke` and `query` only.
        packages: what is installed, and builds it; most callers need `install` only.
        endorser: processes proposals that were signed elsewhere.
        joined: the channels, for their blocks and events.
    """

    def __init__(
        self,
        *,
        chaincode: ChaincodeSupport,
        packages: BuildRegistry,
        definitions: Definitions,
        endorser: Endorser,
        joined: Channels,
        ordering: Ordering,
        client: Client,
        admin: Client,
        metrics: Registry,
        address: str = "",
        orderer_address: str = "",
        operations_address: str = "",
    ) -> None:
        self._address = address
        self._orderer_address = orderer_address
        self.chaincode = chaincode
        self.packages = packages
        self.endorser = endorser
        self.joined = joined
        self._operations_address = operations_address
        self._metrics = metrics
        self._definitions = definitions
        self._ordering = ordering
        self._client = client
        self._admin = admin

    @property
    def address(self) -> str:
        """``host:port`` of its gRPC services, empty if it does not listen."""
        return self._address

    @property
    def orderer_address(self) -> str:
        """``host:port`` of the ordering service of its own network, empty if that is not served."""
        return self._orderer_address

    @property
    def operations_address(self) -> str:
        """``host:port`` of the operations endpoint, empty if there is none."""
        return self._operations_address

    @property
    def creator(self) -> bytes:
        """What chaincodes see as the creator of calls made here: ``msp.SerializedIdentity``."""
        return self._client.identity.creator

    @property
    def metrics(self) -> Registry:
        """What this peer counts and times: `text` is for Prometheus, `value` for programs."""
        return self._metrics

    @property
    def channels(self) -> list[str]:
        """Ids of the channels this peer has joined."""
        return self.joined.ids

    def ledger(self, channel_id: str) -> Ledger:
        """
        Raises:
            UnknownChannel: not joined.
        """
        return self.joined.get(channel_id).ledger

    async def join(self, block: Block) -> None:
        """Join a channel of others by its genesis block, and follow its ordering service.

        Raises:
            ChannelExists: it is joined already.
            ChannelConfigRefused, ConfigUpdateRefused: the block is none to join by.
            LedgerError: the ledger cannot be made.
        """
        await self._ordering.join(block)

    def ordering(self, channel_id: str) -> OrderingState:
        """Tell where the blocks of a channel come from at this moment.

        Raises:
            UnknownChannel: not joined.
        """
        return self._ordering.state(channel_id)

    async def join_channel(self, channel_id: str, *, capability: str = "") -> None:
        """Join a channel of the peer's own network, made if it is new; joining twice is fine.

        Args:
            capability: of a new channel's application section: ``V2_0``, ``V2_5``, or ``V1_4_2``,
                where chaincode is instantiated and upgraded. If empty, that of the network.

        Raises:
            ConfigError: the id is not valid, or there is no such capability.
            ChannelExists: the channel was made without this capability.
            LedgerError: the ledger cannot be opened.
        """
        if channel_id not in self.channels:
            await self._ordering.create_channel(channel_id, capability)
        elif capability and capability not in _required(self.joined.get(channel_id).channel):
            raise ChannelExists(channel_id)

    async def install(
        self,
        source: str | os.PathLike[str],
        *,
        name: str = "",
        version: str = "1.0",
        channels: Sequence[str] = (),
        init_required: bool = False,
        collections: Collection[str] | CollectionConfigPackage = (),
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> InstalledPackage:
        """Install chaincode, build it and define it on channels; nothing is started yet.

        Where no channel has the new lifecycle nothing is defined: `instantiate` and `upgrade` do
        that. A directory becomes a deployment spec of name and version then.

        Installing again under the same name replaces the definition; if the code changed, the next
        call launches the new code, and the process of the old one is stopped. What was built of a
        directory as it was before is removed; an older package file stays until `uninstall`.

        Args:
            source: a directory of code, a lifecycle package (``.tar.gz``) or a deployment spec.
            name: what it is invoked as; the package's label if empty. A directory takes it as its
                label, so the same code under two names runs as two processes.
            version: changing it asks for another init where one is required.
            channels: where; if empty every joined channel, or of these every one with the new
                lifecycle if there are any.
            collections: names of private data collections, of which every organisation is a member;
                or what defines them.
            command: runs a directory in place of what its type says: a program that is executed
                there, and its arguments. ``{peer.address}`` in them becomes the address to dial.
            env: variables that what runs of a directory finds.

        Raises:
            InvalidDefinition: the name or version cannot be defined, or the channel does not agree.
                A name that is the package's label is known, and refused, once the package is
                installed. Or some of `channels` have the new lifecycle and some have not.
            PackageError: `source` cannot be used, or cannot be built within
                ``chaincode.installTimeout``.
            UnknownChannel: a channel is not joined.

        Cancellation: ends the build; nothing is installed. Later, what was defined stays.
        """
        check_version(name, version)
        if name:
            check_name(name)
        chosen = self._chosen(name, channels)
        if chosen:
            package = await self._install(Path(source), name, command=command, env=env)
        elif command or env:
            raise PackageError("a deployment spec brings its own command; these channels want one")
        else:
            package = await self._install_deployment(Path(source), name, version)
        if not chosen:
            return package
        name = name or package.label
        check_name(name)
        former = self._ccids(name)
        for channel in chosen:
            wanted = WantedDefinition(
                name=name,
                version=version,
                package_id=package.ccid,
                init_required=init_required,
                collections=collections_of(channel, collections),
            )
            await define(self._admin, channel, wanted)
        for ccid in former - self._ccids(name):
            if self.packages.is_directory(ccid) and not await self._names_of(ccid):
                await self._remove(ccid)
            else:
                await self.chaincode.stop(ccid)
        return package

    async def instantiate(
        self,
        channel_id: str,
        name: str,
        version: str,
        args: Sequence[bytes | str] = (),
        *,
        policy: str = "",
        collections: Collection[str] = (),
    ) -> None:
        """Deploy installed chaincode on a channel of the old lifecycle, without V2_0.

        One transaction writes the definition and what Init of the chaincode writes; if Init fails
        there is none.

        Args:
            name, version: of a deployment spec that is installed.
            args: what Init is called with; text is sent as UTF-8.
            policy: who must endorse its transactions, ``AND('Org1MSP.peer','Org2MSP.peer')`` for
                example; any member of the channel if empty.
            collections: names of private data collections; every organisation is a member.

        Raises:
            UnknownChannel: the channel is not joined.
            NotInstalled: there is no such package.
            PolicySyntaxError: `policy` is none.
            InvalidDefinition: it is instantiated already, the channel has the new lifecycle, or its
                members do not agree.
            LaunchError, ExecuteError: Init could not be run, or failed.
            BroadcastRefused, CommitTimeout: the transaction is not ordered, or not in time.

        Cancellation: once the ordering service has the transaction it will be committed.
        """
        wanted = await self._deployment(channel_id, name, version, args, policy, collections)
        await deployments.instantiate(self._admin, channel_id, wanted)

    async def upgrade(
        self,
        channel_id: str,
        name: str,
        version: str,
        args: Sequence[bytes | str] = (),
        *,
        policy: str = "",
        collections: Collection[str] = (),
    ) -> None:
        """Replace instantiated chaincode by another version of it; otherwise like `instantiate`.

        Its state stays, and the new Init runs on it. From then on calls reach the new version; the
        process of the old one is stopped, unless another channel runs it. Its package stays until
        `uninstall`.

        Args:
            policy: not kept from before: any member of the channel if empty.
            collections: must hold those there are; if empty, these stay.

        Raises:
            InvalidDefinition: it is not instantiated, or is of this version already; or for a
                reason of `instantiate`.
        """
        wanted = await self._deployment(channel_id, name, version, args, policy, collections)
        former = self._ccids(name)
        await deployments.upgrade(self._admin, channel_id, wanted)
        for ccid in former - self._ccids(name):
            await self.chaincode.stop(ccid)

    async def uninstall(self, name: str) -> None:
        """Stop a chaincode and remove its package with everything built of it.

        What was committed stays in the ledgers, the definition, too; that this peer's organisation
        has no package for it any more is committed as well.

        Args:
            name: of a chaincode, whose packages go, unless another chaincode runs them. Or the id
                of a package.

        Raises:
            NotInstalled: there is neither.
            PackageInUse: it is the id of a package that chaincodes run.

        Cancellation: before or after the package is removed. Withdrawing it from the channels may
        be left undone then; uninstalling again goes on.
        """
        ccids = self._ccids(name)
        if not ccids:
            self.packages.check_installed(name)
            if names := await self._names_of(name):
                raise PackageInUse(name, names)
            ccids = {name}
        for ccid in ccids:
            if set(await self._names_of(ccid)) <= {name}:
                with trio.CancelScope(shield=True):
                    await self._remove(ccid)
        for channel_id in self.channels:
            deployed = self._definitions.deployed(channel_id, name)
            if deployed is not None and deployed.ccid:
                await withdraw(self._admin, self.joined.get(channel_id).channel, name)

    async def invoke(
        self,
        channel_id: str,
        name: str,
        args: Sequence[bytes | str],
        *,
        transient: Mapping[str, bytes] | None = None,
        is_init: bool = False,
    ) -> Result:
        """Run a chaincode, launching it if need be, and commit what it wrote.

        Args:
            args: function name first; text is sent as UTF-8.
            transient: reaches the chaincode, never the ledger.

        Raises:
            UnknownChannel, UnknownChaincode, InvalidInvocation: the call makes no sense here.
            LaunchError: the chaincode could not be started.
            ExecuteError: it gave no response. A response of any status is a result.
            BroadcastRefused: the ordering service does not take the transaction.
            CallFailed: it is on other machines, and none of its orderers is there to take it.
            CommitTimeout: it did, and no block has brought the transaction in time.

        Cancellation: nothing is committed, unless the ordering service has the transaction.
        """
        payload = ChaincodeInput(args=prepare_args(args), is_init=is_init)
        return await self._client.submit(channel_id, name, payload, transient)

    async def query(
        self,
        channel_id: str,
        name: str,
        args: Sequence[bytes | str],
        *,
        transient: Mapping[str, bytes] | None = None,
    ) -> Result:
        """Run a chaincode and drop what it wrote; otherwise like `invoke`.

        A system chaincode may be asked without a channel (``""``).
        """
        payload = ChaincodeInput(args=prepare_args(args))
        return await self._client.evaluate(channel_id, name, payload, transient)

    def _chosen(self, name: str, channel_ids: Sequence[str]) -> list[Channel]:
        """Return the channels to define a chaincode on; none if all have the old lifecycle."""
        chosen = [self.joined.get(each).channel for each in (channel_ids or self.channels)]
        new = [each for each in chosen if each.has_new_lifecycle]
        if channel_ids and new and new != chosen:
            raise InvalidDefinition(
                name,
                "some of these channels define chaincode through _lifecycle and some through "
                "lscc: install for each kind by itself",
            )
        return new

    async def _install(
        self,
        source: Path,
        name: str,
        *,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> InstalledPackage:
        try:
            return await self.packages.install(source, name, command=command, env=env)
        except AlreadyInstalled as exc:
            return await self.packages.find(exc.ccid)

    async def _install_deployment(self, source: Path, name: str, version: str) -> InstalledPackage:
        if not await trio.Path(source).is_dir():
            return await self._install(source, name)
        try:
            data = await trio.to_thread.run_sync(_packed, source, name, version)
            return await self.packages.install_package(data)
        except AlreadyInstalled as exc:
            return await self.packages.find(exc.ccid)

    async def _deployment(
        self,
        channel_id: str,
        name: str,
        version: str,
        args: Sequence[bytes | str],
        policy: str,
        collections: Collection[str],
    ) -> WantedDeployment:
        channel = self.joined.get(channel_id).channel
        package = await self.packages.find(f"{name}:{version}")
        return WantedDeployment(
            name=name,
            version=version,
            type=spec_type(package.type),
            args=prepare_args(args),
            policy=parse_policy(policy) if policy else None,
            collections=collections_of(channel, collections),
        )

    def _ccids(self, name: str) -> set[str]:
        """Return the packages that this peer runs a chaincode by, on any channel."""
        found = (self._definitions.deployed(channel_id, name) for channel_id in self.channels)
        return {
            deployed.ccid
            for deployed in found
            if deployed is not None
            and deployed.ccid
            # Nothing in a channel of the old lifecycle tells that the package is not here.
            and (deployed.legacy is None or self.packages.is_installed(deployed.ccid))
        }

    async def _names_of(self, ccid: str) -> list[str]:
        """Return the chaincodes that a package runs, on any channel."""
        names = set()
        for channel_id in self.channels:
            reader = self.ledger(channel_id).new_query_executor()
            try:
                defined = await state.defined_names(reader)
                defined += await state.legacy_names(reader)
            finally:
                reader.done()
            names |= {name for name in defined if ccid in self._ccids(name)}
        return sorted(names)

    async def _remove(self, ccid: str) -> None:
        """Stop what runs of a package and remove it."""
        await self.chaincode.stop(ccid)
        await self.packages.uninstall(ccid)
        await self.chaincode.stop(ccid)  # a call may have launched it once more
        await self.packages.prune()


def _required(channel: Channel) -> frozenset[str]:
    """Return the capabilities that the application section of a channel names."""
    application = channel.bundle.application
    return frozenset() if application is None else application.capabilities.required


def _packed(directory: Path, name: str, version: str) -> bytes:
    return pack_deployment(directory, type_of(directory), name or directory.resolve().name, version)
