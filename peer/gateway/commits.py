"""What became of transactions, and the events of those that were valid.

Room:      peer.gateway   (imports channels, events, scc; used by gateway)
Loop:      Trio
Lifetime:  peer
Fabric:    internal/pkg/gateway/{commitstatus,chaincodeevents}.go (release-2.5)
"""

from __future__ import annotations

from contextlib import aclosing

from fabric_protos.codec import decode
from fabric_protos.errors import DecodeError
from fabric_protos.gateway import (
    ChaincodeEventsRequest,
    ChaincodeEventsResponse,
    CommitStatusRequest,
    CommitStatusResponse,
    SignedChaincodeEventsRequest,
    SignedCommitStatusRequest,
)
from fabric_protos.orderer import SeekPosition
from fabric_protos.protos import TxValidationCode
from peer import logs
from peer.channels import Channels
from peer.errors import AccessDenied, CallRefused, Code, LedgerError, PeerError
from peer.events.chaincode import chaincode_events
from peer.gateway.deadlines import in_time
from peer.msp.policies import SignedData
from peer.scc.access import AccessControl
from peer.services.api import Caller, Requests, Send


class Commits:
    """Answers signed questions about the transactions of this peer's channels."""

    def __init__(self, channels: Channels, access: AccessControl) -> None:
        self._channels = channels
        self._access = access

    async def commit_status(
        self, signed: SignedCommitStatusRequest, caller: Caller
    ) -> CommitStatusResponse:
        """Return what became of a transaction, once a block has brought it.

        One that nobody knows is waited for as long as the caller waits.

        Raises:
            CallRefused: who asks may not, or it is known that no block will come.
        """
        if not signed.request:
            raise _invalid("a commit status request is required")
        try:
            request = decode(CommitStatusRequest, signed.request)
        except DecodeError as exc:
            raise _invalid(f"invalid status request: {exc}") from exc
        for value, problem in (
            (request.identity, "no identity provided"),
            (request.channel_id, "no channel ID provided"),
            (request.transaction_id, "transaction ID should not be empty"),
        ):
            if not value:
                raise _invalid(problem)
        channel_id, tx_id = request.channel_id, request.transaction_id
        with logs.bind(channel=channel_id, tx=tx_id):
            data = SignedData(signed.request, request.identity, signed.signature)
            self._check_access("gateway/CommitStatus", channel_id, data)
            statuses = self._channels.get(channel_id).statuses
            with in_time("context deadline exceeded"):
                try:
                    found = await statuses.wait(tx_id)
                except PeerError as exc:
                    raise CallRefused(Code.ABORTED, str(exc)) from exc
        return CommitStatusResponse(result=TxValidationCode(found.code), block_number=found.block)

    async def chaincode_events(self, requests: Requests, send: Send, caller: Caller) -> None:
        """Send the events of a chaincode, block by block, until the caller goes.

        A block without any is passed over. Nothing is read ahead of the caller.

        Raises:
            CallRefused: who asks may not, cannot start there, or blocks cannot be read any more.
        """
        signed = await anext(aiter(requests), SignedChaincodeEventsRequest())
        if not signed.request:
            raise _invalid("a chaincode events request is required")
        try:
            request = decode(ChaincodeEventsRequest, signed.request)
        except DecodeError as exc:
            raise _invalid(f"invalid chaincode events request: {exc}") from exc
        channel_id = request.channel_id
        with logs.bind(channel=channel_id):
            data = SignedData(signed.request, request.identity, signed.signature)
            self._check_access("gateway/ChaincodeEvents", channel_id, data)
            events = chaincode_events(
                self._channels.get(channel_id).ledger,
                request.chaincode_id,
                start=_start(request.start_position),
                after=request.after_transaction_id,
            )
            try:
                async with aclosing(events):
                    async for each in events:
                        await send(
                            ChaincodeEventsResponse(events=each.events, block_number=each.block)
                        )
            except LedgerError as exc:
                raise CallRefused(Code.ABORTED, str(exc)) from exc

    def _check_access(self, resource: str, channel_id: str, data: SignedData) -> None:
        """
        Raises:
            CallRefused: who asks may not, or this peer has not joined the channel.
        """
        try:
            self._access.check_data(resource, channel_id, data)
        except AccessDenied as exc:
            raise CallRefused(Code.PERMISSION_DENIED, str(exc)) from exc


def _start(position: SeekPosition | None) -> int | None:
    """Return the block to start at, None for the next one."""
    if position is None or position.next_commit is not None:
        return None
    if position.specified is not None:
        return position.specified.number
    for name in ("newest", "oldest"):
        if getattr(position, name) is not None:
            raise _invalid(f"invalid start position type: *orderer.SeekPosition_{name.title()}")
    return None


def _invalid(text: str) -> CallRefused:
    return CallRefused(Code.INVALID_ARGUMENT, text)
