"""One identity's calls: proposal, endorsement, order, commit.

Room:      peer.client   (imports channels, endorser; used by library and cli)
Loop:      Trio
Lifetime:  peer
Fabric:    internal/pkg/gateway (release-2.5) and the client libraries
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from fabric_protos.codec import decode
from fabric_protos.protos import ChaincodeAction, ProposalResponse, ProposalResponsePayload
from fabric_protos.stream import ChaincodeEvent, ChaincodeInput, SignedProposal
from peer import logs
from peer.channels import Channels
from peer.endorser.endorser import ERROR_THRESHOLD, OK
from peer.endorser.proposal import PreparedProposal, prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.errors import (
    CommitTimeout,
    EndorsementsDiffer,
    InvalidDefinition,
    PeerError,
    SimulationFailed,
)
from peer.ledger.api import ValidationCode
from peer.msp.identity import SigningIdentity

COMMIT_WAIT_S = 60.0
"""How long a block may take, from the ordering service to its verdicts, beyond the time it waits
for more transactions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one call.

    Attributes:
        status: 200 is success; from 400 on nothing is committed.
        validation_code: verdict of the commit; None when nothing was to be committed, or nobody
            asked for it.
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


class Endorser(Protocol):
    """A peer that endorses: this one, or another."""

    async def endorse(self, signed: SignedProposal) -> ProposalResponse:
        """Return the answer to a proposal; its status may be any.

        Raises:
            PeerError: there is none.
        """
        ...


class Orderer(Protocol):
    """Where transactions go to be ordered."""

    async def broadcast(self, data: bytes) -> None:
        """
        Raises:
            BroadcastRefused: the envelope is not taken.
        """
        ...


Verdict = Callable[[], Awaitable[ValidationCode]]


class Verdicts(Protocol):
    """Who tells what became of a transaction."""

    def watch(self, channel_id: str, tx_id: str) -> AbstractAsyncContextManager[Verdict]:
        """Look out for a transaction; what is yielded waits for its verdict.

        Raises:
            UnknownChannel, CallFailed, DeliverRefused: nobody will tell.
            CommitTimeout: nobody tells in time, or from the wait, no block has brought it.
        """
        ...


class Client:
    """Calls chaincodes as one identity.

    Args:
        endorsers: all of them endorse what is submitted; the first one answers queries.
        verdicts: None: a transaction that was taken by the ordering service is left to itself.
        orderer: finds the ordering service of a channel.
    """

    def __init__(
        self,
        identity: SigningIdentity,
        *,
        endorsers: Sequence[Endorser],
        verdicts: Verdicts | None,
        orderer: Callable[[str], Orderer],
    ) -> None:
        self.identity = identity
        self._endorsers = endorsers
        self._verdicts = verdicts
        self._orderer = orderer

    async def evaluate(
        self,
        channel_id: str,
        name: str,
        payload: ChaincodeInput,
        transient: Mapping[str, bytes] | None = None,
    ) -> Result:
        """Run a chaincode and drop what it wrote.

        Args:
            channel_id: empty for a system chaincode that needs no channel.

        Raises:
            UnknownChannel, UnknownChaincode, InvalidInvocation: the call makes no sense here.
            ProposalRefused: the identity may not make it.
            LaunchError: the chaincode could not be started.
            ExecuteError: it gave no response. A response of any status is a result.
        """
        proposal = self._propose(channel_id, name, payload, transient)
        with logs.bind(channel=channel_id, tx=proposal.tx_id):
            return _result(proposal, await _endorsed(self._endorsers[0], proposal))

    async def submit(
        self,
        channel_id: str,
        name: str,
        payload: ChaincodeInput,
        transient: Mapping[str, bytes] | None = None,
    ) -> Result:
        """Run a chaincode and, if it succeeds, commit what it wrote; otherwise like `evaluate`.

        Raises:
            EndorsementsDiffer: the endorsers do not agree on what came of it; of those that fail,
                the first one's answer is the result instead.
            BroadcastRefused: the ordering service does not take the transaction.
            CommitTimeout: it did, and no block has brought the transaction in time.

        Cancellation: once the ordering service has the transaction it will be committed, whether
        or not anybody waits.
        """
        proposal = self._propose(channel_id, name, payload, transient)
        if self._verdicts is None:
            return await self._submit(channel_id, proposal, None)
        async with self._verdicts.watch(channel_id, proposal.tx_id) as verdict:
            return await self._submit(channel_id, proposal, verdict)

    async def define(
        self, channel_id: str, lifecycle: str, name: str, args: Sequence[bytes]
    ) -> None:
        """Let a system chaincode change what is defined under a name, and see it committed.

        Args:
            lifecycle: ``_lifecycle`` or ``lscc``; `args` are for it.

        Raises:
            InvalidDefinition: it refuses on one of the peers, or those that judge its transaction
                do.
        """
        try:
            result = await self.submit(channel_id, lifecycle, ChaincodeInput(args=list(args)))
        except EndorsementsDiffer as exc:
            raise InvalidDefinition(name, str(exc)) from exc
        if result.status != OK:
            raise InvalidDefinition(name, result.message)
        if not result.committed:
            assert result.validation_code is not None  # it was submitted
            function = bytes(args[0]).decode()
            raise InvalidDefinition(name, f"{function}: {result.validation_code.name}")

    async def _submit(
        self, channel_id: str, proposal: PreparedProposal, verdict: Verdict | None
    ) -> Result:
        with logs.bind(channel=channel_id, tx=proposal.tx_id):
            responses = await self._endorse(proposal)
            first = _result(proposal, responses[0])
            if not OK <= first.status < ERROR_THRESHOLD:
                return first
            envelope = signed_transaction(proposal.signed, responses, self.identity)
            await self._orderer(channel_id).broadcast(envelope)
            return _result(proposal, responses[0], verdict and await verdict())

    def _propose(
        self,
        channel_id: str,
        name: str,
        payload: ChaincodeInput,
        transient: Mapping[str, bytes] | None,
    ) -> PreparedProposal:
        return prepare_proposal(self.identity, channel_id, name, payload, transient or {})

    async def _endorse(self, proposal: PreparedProposal) -> list[ProposalResponse]:
        """Let all endorse, at once; the first that cannot ends it."""
        responses: dict[int, ProposalResponse] = {}
        failures: list[PeerError] = []

        async def endorse(index: int, endorser: Endorser) -> None:
            try:
                responses[index] = await _endorsed(endorser, proposal)
            except PeerError as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()

        if len(self._endorsers) == 1:
            return [await _endorsed(self._endorsers[0], proposal)]
        async with trio.open_nursery() as nursery:
            for index, endorser in enumerate(self._endorsers):
                nursery.start_soon(endorse, index, endorser)
        if failures:
            raise failures[0]
        return [responses[index] for index in sorted(responses)]


async def _endorsed(endorser: Endorser, proposal: PreparedProposal) -> ProposalResponse:
    try:
        return await endorser.endorse(proposal.signed)
    except SimulationFailed as exc:
        raise exc.cause from None


class OwnVerdicts:
    """Those of this peer, for the channels it has joined."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    @asynccontextmanager
    async def watch(self, channel_id: str, tx_id: str) -> AsyncIterator[Verdict]:
        """Look out for a transaction; see `Verdicts.watch`."""
        joined = self._channels.get(channel_id)
        orderer = joined.channel.bundle.orderer
        limit_s = COMMIT_WAIT_S + (orderer.batch_timeout_s if orderer is not None else 0)

        async def wait() -> ValidationCode:
            with trio.move_on_after(limit_s):
                return (await joined.statuses.wait(tx_id)).code
            raise CommitTimeout(channel_id, tx_id, limit_s)

        yield wait


def _result(
    proposal: PreparedProposal, endorsed: ProposalResponse, code: ValidationCode | None = None
) -> Result:
    response = endorsed.response
    assert response is not None  # an endorser always answers with one
    event = None
    if endorsed.payload:
        payload = decode(ProposalResponsePayload, endorsed.payload)
        action = decode(ChaincodeAction, payload.extension)
        event = ChaincodeEvent.decode(action.events) if action.events else None
    return Result(
        tx_id=proposal.tx_id,
        status=response.status,
        message=response.message,
        payload=response.payload,
        event=event,
        validation_code=code,
    )
