"""Peers and orderers on other machines, as `Client` takes them.

Room:      peer.client   (imports peer.remote, peer.events, peer.ordering; used by cli)
Loop:      Trio
Lifetime:  the connection's
Fabric:    internal/peer/chaincode/common.go, internal/peer/common/{broadcast,deliver}client.go
           (release-2.5)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

import betterproto2
import trio

from fabric_protos.codec import decode
from fabric_protos.common import Block, Status
from fabric_protos.errors import DecodeError
from fabric_protos.orderer import DeliverResponse as OrdererResponse
from fabric_protos.orderer import SeekPosition
from fabric_protos.protos import DeliverResponse as PeerResponse
from fabric_protos.protos import ProposalResponse
from fabric_protos.stream import SignedProposal
from peer.client.calls import Verdict
from peer.errors import CallFailed, Code, CommitTimeout, DeliverRefused, PeerError
from peer.events.requests import FOREVER, NEWEST, seek_request
from peer.ledger.api import ValidationCode
from peer.msp.identity import SigningIdentity
from peer.ordering.calls import DELIVER, broadcast, next_message
from peer.remote import Call, Connection

M = TypeVar("M", bound=betterproto2.Message)

PROCESS_PROPOSAL = "/protos.Endorser/ProcessProposal"
DELIVER_OF_ORDERERS = DELIVER
DELIVER_OF_PEERS = "/protos.Deliver/Deliver"
DELIVER_FILTERED = "/protos.Deliver/DeliverFiltered"


class RemoteEndorser:
    """A peer that endorses, on another machine."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def endorse(self, signed: SignedProposal) -> ProposalResponse:
        """Return the answer to a proposal; see `calls.Endorser.endorse`.

        Raises:
            CallFailed: there is none.
        """
        answer = await self._connection.unary(PROCESS_PROPOSAL, signed.encode())
        return _decoded(self._connection, ProposalResponse, answer)


class RemoteOrderer:
    """An ordering service on another machine."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def broadcast(self, data: bytes) -> None:
        """Hand over a marshalled envelope.

        Raises:
            BroadcastRefused: it is not taken.
            CallFailed: nobody knows whether it is.
        """
        await broadcast(self._connection, data)


async def fetch_block(
    connection: Connection,
    identity: SigningIdentity,
    channel_id: str,
    position: SeekPosition,
    *,
    path: str = DELIVER_OF_PEERS,
    waits: bool = False,
    best_effort: bool = False,
    tls_hash: bytes = b"",
) -> Block:
    """Return one block of a channel.

    Args:
        path: `DELIVER_OF_PEERS` or `DELIVER_OF_ORDERERS`.
        waits: until there is one.

    Raises:
        DeliverRefused: it is not there, or not for this identity.
        CallFailed: there is no answer.
    """
    kind: type[OrdererResponse | PeerResponse]
    kind = OrdererResponse if path == DELIVER_OF_ORDERERS else PeerResponse
    request = seek_request(
        identity,
        channel_id,
        position,
        position,
        waits=waits,
        best_effort=best_effort,
        tls_hash=tls_hash,
    )
    async with connection.stream(path) as call:
        await call.send(request)
        answer = _decoded(connection, kind, await next_message(call))
    if answer.block is None:
        status = answer.status or Status.UNKNOWN
        raise DeliverRefused(int(status), f"can't read the block: {status.name}")
    return answer.block


SILENCE_S = 1.0
"""After so long without its newest block a peer is asked whether it has any."""


class RemoteVerdicts:
    """What peers on other machines tell of transactions; all of them have to.

    Args:
        timeout_s: until all have sent their newest block; and again, from the order on.
        on_verdict: hears of each peer's, with the transaction and the peer's address.
    """

    def __init__(
        self,
        identity: SigningIdentity,
        peers: Sequence[Connection],
        *,
        timeout_s: float,
        on_verdict: Callable[[str, str, ValidationCode], None],
        tls_hash: bytes = b"",
    ) -> None:
        self._identity = identity
        self._peers = peers
        self._timeout_s = timeout_s
        self._on_verdict = on_verdict
        self._tls_hash = tls_hash

    @asynccontextmanager
    async def watch(self, channel_id: str, tx_id: str) -> AsyncIterator[Verdict]:
        """Look out for a transaction; see `Verdicts.watch`.

        Each peer has sent its newest block before this yields, so no later one is missed; or has
        told that it has none, as it joined by a snapshot.
        """
        async with AsyncExitStack() as stack:
            watches = [_Watch(peer, tx_id) for peer in self._peers]
            with trio.move_on_after(self._timeout_s) as opening:
                for watch in watches:
                    request = seek_request(
                        self._identity, channel_id, NEWEST, FOREVER, tls_hash=self._tls_hash
                    )
                    has_no_block = partial(self._has_no_block, watch.connection, channel_id)
                    await watch.open(stack, request, has_no_block)
            if opening.cancelled_caught:
                raise CommitTimeout(channel_id, tx_id, self._timeout_s)

            async def wait() -> ValidationCode:
                with trio.move_on_after(self._timeout_s):
                    return await self._wait(watches)
                raise CommitTimeout(channel_id, tx_id, self._timeout_s)

            yield wait

    async def _has_no_block(self, peer: Connection, channel_id: str) -> bool:
        """Tell whether a peer has joined by a snapshot, and no block has come since."""
        try:
            await fetch_block(peer, self._identity, channel_id, NEWEST, tls_hash=self._tls_hash)
        except DeliverRefused as exc:
            return exc.status == Status.NOT_FOUND
        return False

    async def _wait(self, watches: Sequence[_Watch]) -> ValidationCode:
        """Return VALID if all say so, else what the first says that does not."""
        codes: list[ValidationCode] = []
        failures: list[PeerError] = []

        async def one(watch: _Watch) -> None:
            try:
                code = await watch.verdict()
            except PeerError as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()
            else:
                codes.append(code)
                self._on_verdict(watch.tx_id, watch.address, code)

        async with trio.open_nursery() as nursery:
            for watch in watches:
                nursery.start_soon(one, watch)
        if failures:
            raise failures[0]
        return next((code for code in codes if code is not ValidationCode.VALID), codes[0])


class _Watch:
    """The filtered blocks of one peer, until one brings a transaction."""

    def __init__(self, connection: Connection, tx_id: str) -> None:
        self.address = connection.endpoint.address
        self.connection = connection
        self.tx_id = tx_id
        self._call: Call
        self._first = b""

    async def open(
        self, stack: AsyncExitStack, request: bytes, has_no_block: Callable[[], Awaitable[bool]]
    ) -> None:
        self._call = await stack.enter_async_context(self.connection.stream(DELIVER_FILTERED))
        await self._call.send(request)
        while not self._first:
            with trio.move_on_after(SILENCE_S):
                self._first = await next_message(self._call)
                return
            if await has_no_block():
                return

    async def verdict(self) -> ValidationCode:
        found = self._look_into(self._first) if self._first else None
        while found is None:
            found = self._look_into(await next_message(self._call))
        return found

    def _look_into(self, data: bytes) -> ValidationCode | None:
        answer = _decoded(self.connection, PeerResponse, data)
        if answer.filtered_block is None:
            status = answer.status or Status.UNKNOWN
            text = f"deliver completed with status ({status.name}) before txid received"
            raise DeliverRefused(int(status), text)
        for transaction in answer.filtered_block.filtered_transactions:
            if transaction.txid == self.tx_id:
                return ValidationCode(transaction.tx_validation_code)
        return None


def _decoded(connection: Connection, kind: type[M], data: bytes) -> M:
    try:
        return decode(kind, data)
    except DecodeError as exc:
        text = f"{connection.endpoint}: the answer is no {kind.__name__}: {exc}"
        raise CallFailed(Code.INTERNAL, text) from exc
