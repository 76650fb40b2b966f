"""The peer as a library user sees it.

Room:      peer.library   (imports chaincode, ledger, lifecycle, endorser; made by app)
Loop:      Trio
Lifetime:  peer
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry

from fabric_protos.stream import ChaincodeEvent, ChaincodeInput
from peer import logs
from peer.chaincode.support import ChaincodeSupport, Execution
from peer.chaincode.transactions import TransactionParams
from peer.endorser.proposal import (
    PreparedProposal,
    SigningIdentity,
    prepare_args,
    prepare_proposal,
)
from peer.errors import AlreadyInstalled, PackageInUse, UnknownChannel
from peer.ledger.api import CommittingTransaction, Ledger, Timestamp, ValidationCode
from peer.lifecycle.builds import BuildRegistry
from peer.lifecycle.definitions import (
    ChaincodeDefinition,
    DefinitionStore,
    check_name,
    check_version,
)
from peer.lifecycle.directories import InstalledPackage

ERROR_THRESHOLD = 400
"""Responses from here on are not endorsed, so nothing of them is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one call.

    Attributes:
        status: 200 is success; from 400 on nothing is committed.
        validation_code: verdict of the commit; None when nothing was to be committed.
    """

    tx_id: str
    status: int
    message: str
    payload: bytes
    event: ChaincodeEvent | None
    validation_code: ValidationCode | None = None

    @property
    def committed(self) -> bool:
        """The writes of this call are part of the ledger."""
        return self.validation_code is ValidationCode.VALID


class Peer:
    """An open peer; made by `open_peer`.

    Attributes:
        chaincode: launches and runs chaincodes; most callers need `invoke` and `query` only.
        packages: what is installed, and builds it; most callers need `install` only.
    """

    def __init__(
        self,
        *,
        chaincode: ChaincodeSupport,
        packages: BuildRegistry,
        definitions: DefinitionStore,
        ledgers: dict[str, Ledger],
        open_ledger: Callable[[str], Awaitable[Ledger]],
        identity: SigningIdentity,
        metrics: CollectorRegistry,
    ) -> None:
        self.chaincode = chaincode
        self.packages = packages
        self._definitions = definitions
        self._ledgers = ledgers
        self._open_ledger = open_ledger
        self._identity = identity
        self._metrics = metrics

    @property
    def creator(self) -> bytes:
        """What chaincodes see as the creator of calls made here: ``msp.SerializedIdentity``."""
        return self._identity.creator

    @property
    def metrics(self) -> CollectorRegistry:
        """What this peer counts and times, for `prometheus_client.generate_latest` and the like."""
        return self._metrics

    @property
    def channels(self) -> list[str]:
        """Ids of the channels this peer has joined."""
        return sorted(self._ledgers)

    def ledger(self, channel_id: str) -> Ledger:
        """
        Raises:
            UnknownChannel: not joined.
        """
        try:
            return self._ledgers[channel_id]
        except KeyError:
            raise UnknownChannel(channel_id, self.channels) from None

    async def join_channel(self, channel_id: str) -> None:
        """Open a channel's ledger, empty if it is new; joining twice is fine.

        Raises:
            LedgerError: the id is not valid, or the ledger cannot be opened.
        """
        if channel_id not in self._ledgers:
            self._ledgers[channel_id] = await self._open_ledger(channel_id)

    async def install(
        self,
        source: str | os.PathLike[str],
        *,
        name: str = "",
        version: str = "1.0",
        channels: Sequence[str] = (),
        init_required: bool = False,
        collections: Collection[str] = (),
    ) -> InstalledPackage:
        """Install chaincode, build it and define it on channels; nothing is started yet.

        Installing again under the same name replaces the definition; if the code changed, the next
        call launches the new code, and the process of the old one is stopped. What was built of a
        directory as it was before is removed; an older package file stays until `uninstall`.

        Args:
            source: a directory of code, a lifecycle package (``.tar.gz``) or a deployment spec.
            name: what it is invoked as; the package's label if empty. A directory takes it as its
                label, so the same code under two names runs as two processes.
            version: changing it asks for another init where one is required.
            channels: where; every joined channel if empty.
            collections: names of private data collections.

        Raises:
            InvalidDefinition: the name or version cannot be defined. A name that is the package's
                label is known, and refused, once the package is installed.
            PackageError: `source` cannot be used, or cannot be built within
                ``chaincode.installTimeout``.
            UnknownChannel: a channel is not joined.

        Cancellation: ends the build; nothing is installed or defined.
        """
        check_version(name, version)
        if name:
            check_name(name)
        chosen = list(channels) or self.channels
        for channel_id in chosen:
            self.ledger(channel_id)
        try:
            package = await self.packages.install(Path(source), name)
        except AlreadyInstalled as exc:
            package = await self.packages.find(exc.ccid)
        name = name or package.label
        check_name(name)
        former = self._definitions.ccids()
        for channel_id in chosen:
            definition = ChaincodeDefinition(
                name=name,
                version=version,
                ccid=package.ccid,
                init_required=init_required,
                collections=frozenset(collections),
            )
            self._definitions.define(channel_id, definition)
        for ccid in former - self._definitions.ccids():
            if self.packages.is_directory(ccid):
                await self._remove(ccid)
            else:
                await self.chaincode.stop(ccid)
        return package

    async def uninstall(self, name: str) -> None:
        """Undo `install`: stop a chaincode and remove its package with everything built of it.

        What was committed stays in the ledgers.

        Args:
            name: of a chaincode; its definitions go, on every channel, and its packages, unless
                another chaincode runs them. Or the id of a package.

        Raises:
            NotInstalled: there is neither.
            PackageInUse: it is the id of a package that chaincodes run.

        Cancellation: before it has begun; then it is finished, within the limits of a stop.
        """
        await trio.lowlevel.checkpoint()
        if names := self._definitions.names_of(name):
            raise PackageInUse(name, names)
        ccids = self._definitions.remove(name)
        if not ccids:
            self.packages.check_installed(name)
            ccids = {name}
        with trio.CancelScope(shield=True):
            for ccid in ccids - self._definitions.ccids():
                await self._remove(ccid)

    async def _remove(self, ccid: str) -> None:
        """Stop what runs of a package and remove it."""
        await self.chaincode.stop(ccid)
        await self.packages.uninstall(ccid)
        await self.chaincode.stop(ccid)  # a call may have launched it once more
        await self.packages.prune()

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

        Cancellation: nothing is committed, unless the commit has begun; that is finished.
        """
        payload = ChaincodeInput(args=prepare_args(args), is_init=is_init)
        return await self._call(channel_id, name, payload, transient or {}, commits=True)

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
        return await self._call(channel_id, name, payload, transient or {}, commits=False)

    async def _call(
        self,
        channel_id: str,
        name: str,
        payload: ChaincodeInput,
        transient: Mapping[str, bytes],
        *,
        commits: bool,
    ) -> Result:
        proposal = prepare_proposal(self._identity, channel_id, name, payload, transient)
        with logs.bind(channel=channel_id, tx=proposal.tx_id):
            if not channel_id:
                params = TransactionParams(
                    channel_id="",
                    tx_id=proposal.tx_id,
                    namespace=name,
                    signed_proposal=proposal.signed,
                )
                return _result(proposal, await self.chaincode.execute(params, name, payload))
            return await self._simulate(channel_id, name, payload, proposal, commits=commits)

    async def _simulate(
        self,
        channel_id: str,
        name: str,
        payload: ChaincodeInput,
        proposal: PreparedProposal,
        *,
        commits: bool,
    ) -> Result:
        ledger = self.ledger(channel_id)
        simulator = ledger.new_tx_simulator(proposal.tx_id)
        try:
            params = TransactionParams(
                channel_id=channel_id,
                tx_id=proposal.tx_id,
                namespace=name,
                signed_proposal=proposal.signed,
                simulator=simulator,
                history=ledger.new_history_query_executor() if ledger.has_history else None,
                collections=self._definitions,
            )
            execution = await self.chaincode.execute(params, name, payload)
            if not commits or execution.response.status >= ERROR_THRESHOLD:
                return _result(proposal, execution)
            results = simulator.get_tx_simulation_results()
        finally:
            simulator.done()
        [code] = await ledger.commit(
            [
                CommittingTransaction(
                    tx_id=proposal.tx_id,
                    timestamp=Timestamp(proposal.timestamp.seconds, proposal.timestamp.nanos),
                    results=results,
                )
            ]
        )
        return _result(proposal, execution, code)


def _result(
    proposal: PreparedProposal, execution: Execution, code: ValidationCode | None = None
) -> Result:
    response = execution.response
    return Result(
        tx_id=proposal.tx_id,
        status=response.status,
        message=response.message,
        payload=response.payload,
        event=execution.event,
        validation_code=code,
    )
