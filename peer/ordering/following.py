"""Follow the ordering service of one channel: its blocks, from whichever orderer has them.

Room:      peer.ordering   (imports peer.channels, peer.remote; used by remote)
Loop:      Trio
Lifetime:  as long as the peer is joined to the channel
Fabric:    internal/pkg/peer/blocksprovider/{deliverer,bft_deliverer}.go (release-2.5, 3.1)

What an orderer sends is believed only as far as the channel's policy over its signatures goes. One
that sends anything else, ends the stream, or keeps back what others have is left for the next.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from fabric_protos.common import Block, Status
from fabric_protos.orderer import SeekPosition
from peer.channel.bundle import Bundle
from peer.channel.verification import verify_signatures
from peer.channels import Joined
from peer.errors import (
    BlockRefused,
    BroadcastRefused,
    CallFailed,
    DeliverRefused,
    LedgerFull,
    PeerError,
)
from peer.events.requests import FOREVER, NEWEST, at, seek_request
from peer.ledger.blocks import header_of
from peer.msp.identity import SigningIdentity
from peer.ordering.calls import DELIVER, next_block
from peer.ordering.endpoints import Routes
from peer.remote import Call, Dial, Endpoint

log = logging.getLogger("peer.ordering")

FIRST_PAUSE_S = 0.1
PAUSE_GROWTH = 1.2
_MOST_GROWTH = 100  # above what any limit leaves, below what a float holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a source of blocks is waited for.

    Attributes:
        longest_pause_s: between two attempts; the first pause is 0.1 s, each a fifth longer.
        silence_s: after so long without a block another orderer is asked whether it has one; after
            as long again the source is left.
    """

    longest_pause_s: float = 3600.0
    silence_s: float = 30.0


class Follower:
    """Brings the blocks of one channel; `run` does the work.

    Args:
        identity: the peer's; requests for blocks are signed by it.
        on_change: is called when the configuration names other orderers than before.

    Attributes:
        source: address of the orderer that is being read from, empty while there is none.
        trouble: why there is none, empty if there is one.
    """

    def __init__(
        self,
        joined: Joined,
        identity: SigningIdentity,
        dial: Dial,
        routes: Routes,
        patience: Patience,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = ""
        self.trouble = "no orderer has been asked yet"
        self._joined = joined
        self._identity = identity
        self._dial = dial
        self._routes = routes
        self._patience = patience
        self._on_change = on_change
        self._told: set[str] = set()

    async def run(self) -> None:
        """Bring blocks until cancelled, however often sources fail.

        Raises:
            PeerError: a block that the ordering service has signed cannot be committed here.

        Cancellation: a block is committed or it is not.
        """
        channel_id = self._joined.channel.channel_id
        line: list[Endpoint] = []
        failures = 0
        while True:
            named = self._endpoints()
            height = self._joined.ledger.height
            if not named:
                self.trouble = "the configuration names no orderer"
                log.warning("channel %s: %s", channel_id, self.trouble)
                await self._joined.ledger.reached(height + 1)
                continue
            line = [each for each in line if each in named] or random.sample(named, len(named))
            source = line.pop()
            try:
                await self._receive(source)
                failures = 0
                continue
            except (CallFailed, BroadcastRefused, BlockRefused, LedgerFull) as exc:
                self._fail(source, exc)
            finally:
                self.source = ""
            if self._joined.ledger.height > height:
                failures = 0
            pause_s = FIRST_PAUSE_S * PAUSE_GROWTH ** min(failures, _MOST_GROWTH)
            await trio.sleep(min(pause_s, self._patience.longest_pause_s))
            failures += 1

    @property
    def _bundle(self) -> Bundle:
        return self._joined.channel.bundle

    def _endpoints(self) -> list[Endpoint]:
        return [each.endpoint for each in self._routes.named(self._bundle)]

    async def _receive(self, source: Endpoint) -> None:
        """Commit what an orderer sends, until the configuration names other orderers."""
        ledger, committer = self._joined.ledger, self._joined.committer
        bundle, named = self._bundle, self._endpoints()
        async with self._dial(source) as connection, connection.stream(DELIVER) as call:
            await call.send(self._request(source, at(ledger.height), FOREVER))
            self._reached(source)
            while bundle is self._bundle or named == self._endpoints():
                bundle = self._bundle
                block = await self._next_block(call, source, named)
                await committer.commit_block(block)
                self._told.clear()
        log.info("channel %s: the configuration names other orderers", bundle.channel_id)
        self._on_change()

    async def _next_block(self, call: Call, source: Endpoint, named: Sequence[Endpoint]) -> Block:
        others = [each for each in named if each != source]
        suspicions = 0
        while True:
            with trio.move_on_after(self._patience.silence_s):
                return await next_block(call)
            if suspicions:
                number = self._joined.ledger.height
                text = f"it keeps back block {number}, which another orderer has"
                raise DeliverRefused(Status.SERVICE_UNAVAILABLE, text)
            if others and await self._has_more(random.choice(others)):
                suspicions += 1

    async def _has_more(self, other: Endpoint) -> bool:
        """Tell whether an orderer shows that there are blocks this peer has not."""
        with trio.move_on_after(self._patience.silence_s):
            try:
                async with self._dial(other) as connection, connection.stream(DELIVER) as call:
                    await call.send(self._request(other, NEWEST, NEWEST, headers_only=True))
                    newest = await next_block(call)
                verify_signatures(self._bundle, newest)
                return header_of(newest).number >= self._joined.ledger.height
            except PeerError as exc:
                log.debug("%s tells nothing of its newest block: %s", other, exc)
        return False

    def _request(
        self,
        orderer: Endpoint,
        start: SeekPosition,
        stop: SeekPosition,
        *,
        headers_only: bool = False,
    ) -> bytes:
        return seek_request(
            self._identity,
            self._bundle.channel_id,
            start,
            stop,
            headers_only=headers_only,
            tls_hash=orderer.tls.certificate_hash if orderer.tls is not None else b"",
        )

    def _reached(self, source: Endpoint) -> None:
        self.source, self.trouble = source.address, ""
        channel_id, height = self._bundle.channel_id, self._joined.ledger.height
        log.info("channel %s: follows %s from block %d on", channel_id, source, height)

    def _fail(self, source: Endpoint, exc: PeerError) -> None:
        """Keep the reason, and tell it once for each until a block comes."""
        self.trouble = f"{source}: {exc}"
        level = logging.DEBUG if self.trouble in self._told else logging.WARNING
        log.log(level, "channel %s: no blocks from %s", self._bundle.channel_id, self.trouble)
        self._told.add(self.trouble)
