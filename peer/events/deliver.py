"""Blocks in answer to a signed request: the Deliver protocol, the same for peers and orderers.

Room:      peer.events   (imports peer.channel, peer.msp; used by services)
Loop:      Trio
Lifetime:  one request; several may follow one another on a stream
Fabric:    common/deliver/deliver.go (release-2.5; blocks without data are of 3.0)
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, Protocol, TypeVar

import betterproto2

from fabric_protos.codec import decode
from fabric_protos.common import Block, Envelope, Payload, Status
from fabric_protos.errors import DecodeError
from fabric_protos.orderer import (
    SeekInfo,
    SeekInfoSeekBehavior,
    SeekInfoSeekContentType,
    SeekPosition,
)
from fabric_protos.stream import ChannelHeader, SignatureHeader
from peer.channel.bundle import Bundle
from peer.errors import DeliverRefused, IdentityRefused, PolicyNotSatisfied
from peer.ledger.blocks import is_config_block
from peer.metrics import DeliverMeters, Registry
from peer.msp.policies import SignedData

log = logging.getLogger("peer.events")

M = TypeVar("M", bound=betterproto2.Message)

TIME_WINDOW_S = 900.0
"""How far a request's clock may be from ours; `peer.authentication.timewindow`."""

BLOCK = "block"

SendBlock = Callable[[Block], Awaitable[None]]


class BlockSource(Protocol):
    """A chain of blocks that grows."""

    @property
    def height(self) -> int:
        """Number of the block that comes next."""
        ...

    @property
    def first(self) -> int:
        """Number of the oldest block there is; above 0 for a ledger born of a snapshot."""
        ...

    async def block(self, number: int) -> Block:
        """Return a block that is there."""
        ...

    async def reached(self, height: int) -> None:
        """Return once the height is at least this."""
        ...


class Chain(Protocol):
    """A channel as far as it can be delivered from."""

    @property
    def bundle(self) -> Bundle:
        """Its configuration at this moment."""
        ...

    @property
    def blocks(self) -> BlockSource:
        """Its blocks."""
        ...


class _Range(NamedTuple):
    start: int
    stop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliverer:
    """Answers requests for blocks.

    Attributes:
        find: returns a channel, None where there is none of that name.
        policy: path of the policy that a requester must satisfy.
        time_window_s: how far the clock of a request may be off.
        data_type: what is sent, as the metrics call it; of a `BLOCK` the header may be asked for.
        meters: requests and blocks are counted there.
    """

    find: Callable[[str], Chain | None]
    policy: Callable[[Bundle], str]
    time_window_s: float = TIME_WINDOW_S
    data_type: str = BLOCK
    meters: DeliverMeters = field(default_factory=lambda: DeliverMeters(Registry()))

    async def serve(self, request: Envelope, send: SendBlock, *, tls_hash: bytes = b"") -> Status:
        """Send what is asked for and return the status that ends the answer.

        Args:
            send: takes each block; its waiting is the back-pressure, so nothing is buffered.
            tls_hash: SHA-256 of the client's certificate where TLS is mutual, else empty.

        Cancellation: ends the answer.
        """
        try:
            await self._serve(request, send, tls_hash)
        except DeliverRefused as exc:
            log.info("a request for blocks is refused: %s", exc)
            return Status(exc.status)
        return Status.SUCCESS

    async def _serve(self, request: Envelope, send: SendBlock, tls_hash: bytes) -> None:
        payload = _decoded(Payload, request.payload)
        if payload.header is None:
            raise DeliverRefused(Status.BAD_REQUEST, "the request has no header")
        header, creator = _headers(payload.header.channel_header, payload.header.signature_header)
        self._check_time(header)
        if tls_hash and header.tls_cert_hash != tls_hash:
            raise DeliverRefused(Status.BAD_REQUEST, "it is bound to another TLS certificate")
        chain = self.find(header.channel_id)
        if chain is None:
            raise DeliverRefused(Status.NOT_FOUND, f"channel {header.channel_id} is not here")
        signed = SignedData(request.payload, creator, request.signature)
        with self.meters.request(header.channel_id, self.data_type) as count:
            await self._send_blocks(chain, signed, payload.data, send, count)

    async def _send_blocks(
        self,
        chain: Chain,
        signed: SignedData,
        wanted_blocks: bytes,
        send: SendBlock,
        count: Callable[[], None],
    ) -> None:
        seek = _decoded(SeekInfo, wanted_blocks)
        access = _Access(chain, self.policy, signed)
        access.check()
        wanted = _range(seek, chain.blocks)
        blocks, number = chain.blocks, wanted.start
        asks_headers = seek.content_type == SeekInfoSeekContentType.HEADER_WITH_SIG
        is_header_enough = asks_headers and self.data_type == BLOCK
        while number <= wanted.stop:
            if number >= blocks.height:
                if seek.behavior == SeekInfoSeekBehavior.FAIL_IF_NOT_READY:
                    raise DeliverRefused(Status.NOT_FOUND, f"block {number} is not there yet")
                await blocks.reached(number + 1)
            access.check()
            block = await blocks.block(number)
            await send(_without_data(block) if is_header_enough else block)
            count()
            number += 1

    def _check_time(self, header: ChannelHeader) -> None:
        stamp = header.timestamp
        if stamp is None:
            raise DeliverRefused(Status.BAD_REQUEST, "the request has no timestamp")
        if abs(stamp.seconds + stamp.nanos / 1e9 - time.time()) > self.time_window_s:
            raise DeliverRefused(Status.BAD_REQUEST, "the request's clock is too far off")


class _Access:
    """A requester's right to go on: its expiry at each block, the policy at each configuration."""

    def __init__(self, chain: Chain, policy: Callable[[Bundle], str], signed: SignedData) -> None:
        self._chain = chain
        self._policy = policy
        self._signed = signed
        self._sequence = -1
        try:
            self._expires_at = chain.bundle.msps.deserialize(signed.identity).expires_at
        except IdentityRefused as exc:
            raise DeliverRefused(Status.FORBIDDEN, str(exc)) from exc

    def check(self) -> None:
        if self._expires_at < datetime.now(UTC):
            raise DeliverRefused(Status.FORBIDDEN, "the requester's certificate has expired")
        bundle = self._chain.bundle
        if bundle.sequence == self._sequence:
            return
        path = self._policy(bundle)
        try:
            bundle.policy(path).evaluate([self._signed])
        except PolicyNotSatisfied as exc:
            raise DeliverRefused(Status.FORBIDDEN, f"{path} is not satisfied: {exc}") from exc
        self._sequence = bundle.sequence


def _without_data(block: Block) -> Block:
    """Return what is signed of a block; a configuration stays, as it tells who signs the next."""
    if is_config_block(block):
        return block
    return Block(header=block.header, metadata=block.metadata)


def _range(seek: SeekInfo, blocks: BlockSource) -> _Range:
    if seek.start is None or seek.stop is None:
        raise DeliverRefused(Status.BAD_REQUEST, "start or stop is missing")
    height = blocks.height
    start = _start(seek.start, blocks)
    if not blocks.first <= start <= height:
        raise DeliverRefused(
            Status.NOT_FOUND, f"blocks {blocks.first} to {height} can be asked for, not {start}"
        )
    stop: float
    if seek.stop.specified is not None:
        stop = seek.stop.specified.number
        if stop < start:
            raise DeliverRefused(Status.BAD_REQUEST, f"stop {stop} is before start {start}")
    elif seek.stop.newest is not None:
        stop = start if seek.start.newest is not None else height - 1
    elif seek.stop.oldest is not None:
        stop = blocks.first
    else:
        stop = math.inf  # Fabric asks for the number to be met exactly, so 0 never is
    return _Range(start, stop)


def _start(position: SeekPosition, blocks: BlockSource) -> int:
    if position.oldest is not None:
        return blocks.first
    if position.newest is not None:
        return max(blocks.height - 1, blocks.first)  # the next one, after a snapshot
    if position.next_commit is not None:
        return blocks.height
    if position.specified is not None:
        return position.specified.number
    raise DeliverRefused(Status.NOT_FOUND, "start is no position")


def _headers(channel: bytes, signature: bytes) -> tuple[ChannelHeader, bytes]:
    try:
        return ChannelHeader.decode(channel), SignatureHeader.decode(signature).creator
    except DecodeError as exc:
        raise DeliverRefused(Status.BAD_REQUEST, f"a header cannot be read: {exc}") from exc


def _decoded(cls: type[M], data: bytes) -> M:
    try:
        return decode(cls, data)
    except DecodeError as exc:
        raise DeliverRefused(Status.BAD_REQUEST, f"it cannot be read: {exc}") from exc
