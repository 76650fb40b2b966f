"""Orderers in memory, well-behaved and otherwise, and a channel that takes their blocks.

Room:      tests.unit.ordering   (imports peer)
Loop:      Trio; nothing leaves the task's thread, so a mock clock may run the time
Lifetime:  one test
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, Envelope, Payload, Status
from fabric_protos.orderer import BroadcastResponse, DeliverResponse, SeekInfo
from peer.channel.bundle import Bundle
from peer.channel.verification import verify_block
from peer.channels import Joined
from peer.errors import CallFailed, Code, PeerError
from peer.events.requests import FOREVER
from peer.ledger.blocks import header_hash, header_of
from peer.ordering.calls import BROADCAST, DELIVER
from peer.remote import Endpoint


class Chain:
    """A channel of a peer, as far as a follower sees it: `Joined` with nothing behind it.

    Attributes:
        blocks: what is committed.
        bundle: the configuration at this moment.
        bundles: the configuration that a block brings, by its number.
        failures: what the next commits raise instead.
        told: what those who wait for transactions were told.
    """

    def __init__(self, bundle: Bundle, genesis: Block) -> None:
        self.blocks = [genesis]
        self.bundle = bundle
        self.bundles: dict[int, Bundle] = {}
        self.failures: list[Exception] = []
        self.told: list[PeerError] = []
        self.fail = self.told.append
        self._changed = trio.Condition()
        parts: Any = self
        self.joined = Joined(channel=parts, committer=parts, statuses=parts)

    @property
    def ledger(self) -> Chain:
        return self

    @property
    def channel_id(self) -> str:
        return self.bundle.channel_id

    @property
    def height(self) -> int:
        return len(self.blocks)

    async def reached(self, height: int) -> None:
        async with self._changed:
            while self.height < height:
                await self._changed.wait()

    async def commit_block(self, block: Block) -> None:
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        verify_block(self.bundle, block, self.height, header_hash(header_of(self.blocks[-1])))
        self.bundle = self.bundles.get(self.height, self.bundle)
        self.blocks.append(block)
        async with self._changed:
            self._changed.notify_all()


@dataclass
class FakeOrderer:
    """One orderer: it has blocks, and takes envelopes.

    Attributes:
        blocks: what it has; `grow` adds to them.
        keeps: sends no block of this number or above.
        status: it answers requests for blocks with this instead.
        is_down: nobody can connect.
        asked: first numbers of the requests for blocks from a number on.
        dialled: when somebody tried to connect.
        taken: envelopes; `refusal` is its answer to them.
    """

    blocks: list[Block]
    keeps: float = float("inf")
    status: Status | None = None
    is_down: bool = False
    refusal: tuple[Status, str] = (Status.SUCCESS, "")
    asked: list[int] = field(default_factory=list)
    dialled: list[float] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)
    open_connections: int = 0
    _grown: trio.Event = field(default_factory=trio.Event)

    def grow(self, *blocks: Block) -> None:
        self.blocks.extend(blocks)
        self._grown.set()
        self._grown = trio.Event()

    @asynccontextmanager
    async def connection(self, endpoint: Endpoint) -> AsyncIterator[FakeConnection]:
        self.dialled.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise CallFailed(Code.UNAVAILABLE, f"{endpoint}: connection refused")
        self.open_connections += 1
        try:
            yield FakeConnection(endpoint, self)
        finally:
            self.open_connections -= 1


class FakeConnection:
    """See `peer.remote.Connection`."""

    def __init__(self, endpoint: Endpoint, orderer: FakeOrderer) -> None:
        self.endpoint = endpoint
        self._orderer = orderer

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[FakeCall]:
        await trio.lowlevel.checkpoint()
        yield FakeCall(path, self._orderer)


class FakeCall:
    """See `peer.remote.Call`; the one request decides the answers."""

    def __init__(self, path: str, orderer: FakeOrderer) -> None:
        self._path = path
        self._orderer = orderer
        self._answers: list[bytes] = []
        self._next: int | None = None

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        orderer = self._orderer
        if self._path == BROADCAST:
            status, info = orderer.refusal
            if status == Status.SUCCESS:
                orderer.taken.append(message)
            self._answers.append(encode(BroadcastResponse(status=status, info=info)))
            return
        assert self._path == DELIVER
        seek = decode(SeekInfo, decode(Payload, decode(Envelope, message).payload).data)
        if orderer.status is not None:
            self._answers.append(encode(DeliverResponse(status=orderer.status)))
        elif seek.stop == FOREVER:
            assert seek.start is not None
            assert seek.start.specified is not None
            self._next = seek.start.specified.number
            orderer.asked.append(self._next)
        else:
            self._answers.append(encode(DeliverResponse(block=orderer.blocks[-1])))

    def __aiter__(self) -> FakeCall:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._answers:
            return self._answers.pop(0)
        if self._next is None:
            raise StopAsyncIteration
        while self._next >= min(len(self._orderer.blocks), self._orderer.keeps):
            await self._orderer._grown.wait()
        self._next += 1
        return encode(DeliverResponse(block=self._orderer.blocks[self._next - 1]))
