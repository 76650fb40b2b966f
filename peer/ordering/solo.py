"""The embedded ordering service of one channel: one orderer, no consensus to reach.

Room:      peer.ordering   (imports peer.channel, peer.msp; used by embedded and node)
Loop:      Trio; one task cuts and writes, however many broadcast
Lifetime:  as long as the peer, or the orderer, serves the channel
Fabric:    orderer/consensus/solo/consensus.go (release-2.2), orderer/common/broadcast (release-2.5)
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple, Protocol

import trio

from fabric_protos.codec import encode
from fabric_protos.common import (
    Block,
    ConfigEnvelope,
    Envelope,
    Header,
    HeaderType,
    Payload,
    Status,
)
from fabric_protos.stream import ChannelHeader, SignatureHeader
from peer.channel import configtx
from peer.channel.bundle import Bundle, Orderer
from peer.errors import (
    BroadcastRefused,
    ChannelConfigRefused,
    ConfigUpdateRefused,
    LedgerFull,
    PeerError,
)
from peer.msp.identity import SigningIdentity
from peer.ordering import filters
from peer.ordering.blockcutter import Batch, BlockCutter, Limits, Message
from peer.ordering.filters import Parsed
from peer.ordering.writer import NONCE_BYTES, BlockWriter
from peer.reading import read_apart

log = logging.getLogger("peer.ordering")

QUEUE_LENGTH = 1000
QUEUE_BYTES = 64 << 20
"""Messages that may wait for the writer, and their bytes; whoever broadcasts beyond that waits."""
QUEUE_WAIT_S = 30.0
"""How long; Fabric's gateway waits as long for an orderer (``peer.gateway.broadcastTimeout``)."""
RETRY_S = 1.0
"""Between attempts to write a block for which there was no room."""


class BlockStore(Protocol):
    """Where blocks go: block files of the orderer's own, or the embedded peer's committer."""

    async def last_block(self) -> Block:
        """Return the block to continue after; a channel has its genesis block at least."""
        ...

    async def append(self, block: Block) -> None:
        """Keep a block; it is on disk when this returns.

        Raises:
            LedgerFull: there is no room; nothing was kept and it can be tried again.
            PeerError: it cannot be kept.

        Cancellation: the block is kept whole or not at all.
        """
        ...


class _Queued(NamedTuple):
    message: Parsed
    sequence: int


class _Line:
    """Messages that wait for the writer, so many, of so many bytes; first come, first served.

    A message that is larger than the limit is in line alone.
    """

    def __init__(self) -> None:
        self._messages: deque[_Queued] = deque()
        self._bytes = 0
        self._entrance = trio.Lock()
        self._filled = trio.lowlevel.ParkingLot()
        self._left = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def offer(self, queued: _Queued) -> bool:
        """Put a message in line, and tell whether there was room and nobody waiting for it.

        Raises:
            ClosedResourceError: nobody takes messages any more.
        """
        if self._entrance.locked() or self._is_full(queued):
            return False
        self._add(queued)
        return True

    async def put(self, queued: _Queued) -> None:
        """Put a message in line once there is room.

        Raises:
            ClosedResourceError: nobody takes messages any more.

        Cancellation: it is in line or it is not.
        """
        async with self._entrance:
            while self._is_full(queued):
                await self._left.park()
            self._add(queued)

    async def filled(self) -> None:
        """Return once there is a message."""
        while not self._messages:
            await self._filled.park()

    def take(self) -> _Queued | None:
        """Return the first message, if there is one."""
        if not self._messages:
            return None
        queued = self._messages.popleft()
        self._bytes -= queued.message.size
        if self._left:
            self._left.unpark_all()
        return queued

    def close(self) -> None:
        """Forget what is in line, and let nobody wait any longer."""
        self._is_closed = True
        self._messages.clear()
        self._left.unpark_all()

    def _is_full(self, queued: _Queued) -> bool:
        return bool(self._messages) and (
            len(self._messages) >= QUEUE_LENGTH or self._bytes + queued.message.size > QUEUE_BYTES
        )

    def _add(self, queued: _Queued) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError
        self._messages.append(queued)
        self._bytes += queued.message.size
        if self._filled:
            self._filled.unpark_all()


OnDropped = Callable[[str, BroadcastRefused], None]


class SoloOrderer:
    """Orders the transactions of one channel; `run` does the work.

    Args:
        bundle: the configuration as of the last block in `store`.
        signer: signs the blocks, as a member of an orderer organisation.
        on_dropped: hears of a transaction id whose message was taken and is refused after all,
            because the configuration has changed meanwhile.
    """

    def __init__(
        self,
        bundle: Bundle,
        store: BlockStore,
        signer: SigningIdentity,
        on_dropped: OnDropped = lambda tx_id, reason: None,
    ) -> None:
        self._bundle = bundle
        self._store = store
        self._signer = signer
        self._on_dropped = on_dropped
        self._line = _Line()
        self._trouble = "the ordering service has not started"

    @property
    def channel_id(self) -> str:
        """The channel it orders."""
        return self._bundle.channel_id

    @property
    def bundle(self) -> Bundle:
        """The configuration as of the last block."""
        return self._bundle

    @property
    def trouble(self) -> str:
        """Why nothing can be ordered just now, empty if it can."""
        return self._trouble

    async def broadcast(self, data: bytes) -> None:
        """Check a marshalled envelope and put it in line; it will be in a block, soon.

        A line that is full is waited for, at most `QUEUE_WAIT_S` seconds.

        Raises:
            BroadcastRefused: it will not, and why; the status is the one of the wire.

        Cancellation: it is in line or it is not; the caller cannot know.
        """
        await self.order(await read_apart(filters.parse, data, len(data)))

    async def order(self, message: Parsed) -> None:
        """Do what `broadcast` does with an envelope that has been read."""
        if self._trouble:
            raise BroadcastRefused(Status.SERVICE_UNAVAILABLE, self._trouble)
        if message.channel_id != self.channel_id:
            raise BroadcastRefused(Status.BAD_REQUEST, f"channel {message.channel_id} is unknown")
        filters.check(self._bundle, self._orderer, message)
        if message.is_config_update:
            self._make_config(message)
        queued = _Queued(message, self._bundle.sequence)
        problem = f"the line has been full for {QUEUE_WAIT_S:g} s"
        try:
            if self._line.offer(queued):
                await trio.lowlevel.checkpoint()
                return
            with trio.move_on_after(QUEUE_WAIT_S):
                await self._line.put(queued)
                return
        except trio.ClosedResourceError:
            problem = "the orderer is closing"
        raise BroadcastRefused(Status.SERVICE_UNAVAILABLE, problem)

    async def run_apart(
        self,
        on_end: Callable[[BroadcastRefused], None] = lambda reason: None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Do what `run` does; if it breaks, refuse everything and leave other channels alone.

        Args:
            on_end: hears of it.
        """
        try:
            await self.run(task_status=task_status)
        except Exception as exc:
            log.exception("channel %s is not ordered any more", self.channel_id)
            self._trouble = f"not ordered any more: {exc}"
            reason = f"channel {self.channel_id} is {self._trouble}"
            on_end(BroadcastRefused(Status.SERVICE_UNAVAILABLE, reason))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Cut and write blocks until cancelled; what is in line then is not ordered.

        Raises:
            PeerError: a block cannot be kept, and not for want of room.
        """
        writer = BlockWriter(self._signer, await self._store.last_block())
        cutter = BlockCutter()
        deadline = math.inf
        self._trouble = ""
        task_status.started()
        with closing(self._line):
            while True:
                with trio.move_on_at(deadline):
                    await self._line.filled()
                while trio.current_time() < deadline and (queued := self._line.take()):
                    if self._still_holds(queued):
                        await self._order(writer, cutter, queued.message)
                    if not cutter.is_pending:
                        deadline = math.inf
                    elif deadline == math.inf:
                        deadline = trio.current_time() + self._orderer.batch_timeout_s
                if trio.current_time() >= deadline:
                    await self._write(writer, cutter.cut())
                    deadline = math.inf

    async def _order(self, writer: BlockWriter, cutter: BlockCutter, message: Parsed) -> None:
        """Take the next message, and write the blocks it completes."""
        if message.is_config_update:
            if cutter.is_pending:
                await self._write(writer, cutter.cut())
            await self._write_config(writer, message)
            return
        limits = Limits(self._orderer.max_message_count, self._orderer.preferred_max_bytes)
        envelope = encode(message.envelope)  # peers refuse other encodings
        for batch in cutter.ordered(Message(envelope, message.size), limits):
            await self._write(writer, batch)

    @property
    def _orderer(self) -> Orderer:
        orderer = self._bundle.orderer
        assert orderer is not None  # a channel without one has no orderer to begin with
        return orderer

    def _still_holds(self, queued: _Queued) -> bool:
        """Check again what was checked under an older configuration."""
        if queued.sequence == self._bundle.sequence:
            return True
        try:
            filters.check(self._bundle, self._orderer, queued.message)
        except BroadcastRefused as exc:
            log.warning("a message in line is refused by the new configuration: %s", exc)
            self._on_dropped(queued.message.tx_id, exc)
            return False
        return True

    def _make_config(self, message: Parsed) -> tuple[ConfigEnvelope, Bundle]:
        try:
            config = configtx.next_config(self._bundle, message.envelope)
            assert config.config is not None
            return config, self._bundle.updated(config.config)
        except (ConfigUpdateRefused, ChannelConfigRefused) as exc:
            raise BroadcastRefused(
                Status.BAD_REQUEST, f"error applying config update to channel: {exc}"
            ) from exc

    async def _write_config(self, writer: BlockWriter, message: Parsed) -> None:
        """Put an update into a block of its own; one that another has overtaken is dropped."""
        try:
            config, bundle = self._make_config(message)
        except BroadcastRefused as exc:
            log.warning("a configuration update in line is refused: %s", exc)
            self._on_dropped(message.tx_id, exc)
            return
        await self._write(writer, [self._config_envelope(config)], is_config=True)
        self._bundle = bundle

    def _config_envelope(self, config: ConfigEnvelope) -> bytes:
        channel = ChannelHeader(type=HeaderType.CONFIG, channel_id=self.channel_id)
        nonce = os.urandom(NONCE_BYTES)
        creator = SignatureHeader(creator=self._signer.creator, nonce=nonce)
        header = Header(channel_header=channel.encode(), signature_header=creator.encode())
        payload = encode(Payload(header=header, data=encode(config)))
        return encode(Envelope(payload=payload, signature=self._signer.sign(payload)))

    async def _write(self, writer: BlockWriter, batch: Batch, *, is_config: bool = False) -> None:
        """Write one block; without room for it, refuse new messages until there is."""
        block = writer.next_block(batch, is_config=is_config)
        while True:
            try:
                await self._store.append(block)
            except LedgerFull as exc:
                self._trouble = str(exc)
                log.error("%s; trying again", exc)
                await trio.sleep(RETRY_S)
                continue
            except PeerError as exc:
                self._trouble = str(exc)
                raise
            self._trouble = ""
            writer.written(block)
            return
