"""The channels this peer has joined, from the first block on and again after every start.

Room:      peer.channels   (imports channel, events, ledger, validation;
           used by ordering, gateway, client, library and assembly)
Loop:      Trio
Lifetime:  peer; a channel stays until the peer closes
Fabric:    core/peer/peer.go `Peer.CreateChannel`, `Initialize` (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from fabric_protos.common import Block
from peer.channel.bundle import Bundle
from peer.channel.channel import Channel
from peer.channel.configblock import bundle_of, first_bundle, stored_bundle
from peer.errors import (
    BeforeSnapshot,
    CapabilityUnknown,
    ChannelConfigRefused,
    ChannelExists,
    LedgerCorrupt,
    PeerError,
    UnknownChannel,
)
from peer.events.status import CommitStatuses
from peer.ledger import is_paused, ledger_ids, remove_staged, staged_ledger
from peer.ledger.api import CommittedBlock, Ledger, ValidationCode
from peer.validation.committer import Committer

log = logging.getLogger("peer.channels")

OpenLedger = Callable[[str], AbstractAsyncContextManager[Ledger]]
OnCommit = Callable[[str, CommittedBlock], None]
Spawn = Callable[[Callable[[], Awaitable[None]]], object]
Follow = Callable[[str, CommittedBlock], Awaitable[None]]


class Joined(NamedTuple):
    """A channel, and what the peer does for it."""

    channel: Channel
    committer: Committer
    statuses: CommitStatuses

    @property
    def ledger(self) -> Ledger:
        """The channel's ledger."""
        return self.channel.ledger


class Channels:
    """All channels of one peer.

    Args:
        directory: where ledgers live, one directory each.
        open_ledger: opens the ledger of a channel.
        stack: closes what is opened here.
        on_commit: hears of each committed block with the channel's id; must not wait.
        follow: is awaited with the same, before anybody hears of the block.
        spawn: runs as long as the peer is open what makes the snapshots of a channel; there are
            none without.
    """

    def __init__(
        self,
        directory: Path,
        open_ledger: OpenLedger,
        stack: AsyncExitStack,
        on_commit: OnCommit,
        follow: Follow | None = None,
        spawn: Spawn = lambda work: None,
    ) -> None:
        self._directory = directory
        self._open_ledger = open_ledger
        self._stack = stack
        self._on_commit = on_commit
        self._spawn = spawn
        self._follow = follow
        self._joined: dict[str, Joined] = {}
        self._paused: set[str] = set()
        self._joining = trio.Lock()

    @property
    def ids(self) -> list[str]:
        """Names of the joined channels, sorted."""
        return sorted(self._joined)

    def __contains__(self, channel_id: str) -> bool:
        """It has been joined, though it may be paused."""
        return channel_id in self._joined or channel_id in self._paused

    def get(self, channel_id: str) -> Joined:
        """
        Raises:
            UnknownChannel: not joined.
        """
        try:
            return self._joined[channel_id]
        except KeyError:
            raise UnknownChannel(channel_id, self.ids) from None

    def find(self, channel_id: str) -> Channel | None:
        """Return a channel, None where it is not joined."""
        found = self._joined.get(channel_id)
        return None if found is None else found.channel

    async def open_all(self) -> None:
        """Open every channel that was joined before, but for those that are paused.

        Raises:
            LedgerStorageError: a ledger cannot be used.
        """
        await trio.to_thread.run_sync(remove_staged, self._directory)
        for channel_id in await trio.to_thread.run_sync(ledger_ids, self._directory):
            if is_paused(self._directory, channel_id):
                log.warning("channel %s is paused; `node resume` brings it back", channel_id)
                self._paused.add(channel_id)
                continue
            async with self._joining, AsyncExitStack() as opened:
                ledger = await opened.enter_async_context(self._open_ledger(channel_id))
                config = ledger.channel_config()
                if config is None:  # the peer was killed while it joined
                    log.warning("channel %s has no block yet, join it again", channel_id)
                    continue
                try:
                    bundle = await _bundle(ledger, channel_id, config)
                except CapabilityUnknown:
                    raise
                except PeerError as exc:
                    raise LedgerCorrupt(str(self._directory / channel_id), str(exc)) from exc
                self._take(ledger, bundle, opened)

    async def join(self, block: Block) -> Joined:
        """Join a channel by its genesis block.

        Raises:
            ChannelExists: it is joined already, or paused.
            ChannelConfigRefused, ConfigUpdateRefused, BlockError: the block is none to join by.
            LedgerStorageError: the ledger cannot be made.

        Cancellation: the channel is joined or it is not.
        """
        bundle = first_bundle(block)
        channel_id = bundle.channel_id
        async with self._joining, AsyncExitStack() as opened:
            self.check_new(channel_id)
            ledger = await opened.enter_async_context(self._open_ledger(channel_id))
            await ledger.commit(block, [ValidationCode.VALID])
            return self._take(ledger, bundle, opened)

    async def join_by_snapshot(self, snapshot: Path, check: Callable[[Bundle], None]) -> Joined:
        """Join a channel by a snapshot of its ledger.

        Args:
            snapshot: its directory, which is only read.
            check: raises where the channel of this configuration cannot be joined so.

        Raises:
            SnapshotRefused: a file is missing or damaged.
            ChannelExists, ChannelConfigRefused, ConfigUpdateRefused, LedgerStorageError: as of
                `join`.

        Cancellation: the channel is joined or it is not.
        """
        async with self._joining, AsyncExitStack() as opened:
            async with staged_ledger(self._directory, snapshot) as staged:
                self.check_new(staged.channel_id)
                bundle = stored_bundle(staged.channel_id, staged.config)
                if bundle.application is None:
                    raise ChannelConfigRefused("/Channel/Application", "it is no channel for peers")
                check(bundle)
                await staged.publish()
            ledger = await opened.enter_async_context(self._open_ledger(staged.channel_id))
            return self._take(ledger, bundle, opened)

    def check_new(self, channel_id: str) -> None:
        """
        Raises:
            ChannelExists: a channel is joined already, or paused.
        """
        if channel_id in self:
            raise ChannelExists(channel_id, "INACTIVE" if channel_id in self._paused else "ACTIVE")

    def _take(self, ledger: Ledger, bundle: Bundle, opened: AsyncExitStack) -> Joined:
        channel = Channel(ledger, bundle)
        statuses = CommitStatuses(ledger)
        channel_id = channel.channel_id

        committer = Committer(
            channel,
            partial(self._on_commit, channel_id),
            statuses.notify,
            follow=self._follow and partial(self._follow, channel_id),
        )
        joined = Joined(channel, committer, statuses)
        self._stack.push_async_exit(opened.pop_all())
        self._stack.callback(statuses.close)
        self._joined[channel_id] = joined
        self._spawn(ledger.snapshots.run)
        return joined


async def _bundle(ledger: Ledger, channel_id: str, config: bytes) -> Bundle:
    """Return the configuration that holds; of its block, if that is here, which names the channel.

    Raises:
        PeerError: it cannot be used.
    """
    try:
        block = await ledger.last_config_block()
    except BeforeSnapshot:
        return stored_bundle(channel_id, config)
    assert block is not None, "the state has a configuration"
    return bundle_of(channel_id, block)
