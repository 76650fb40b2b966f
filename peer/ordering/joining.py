"""Join channels by snapshots while the peer goes on, one at a time.

Room:      peer.ordering   (imports peer.channels, peer.ledger; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/ledger/ledgermgmt/ledger_mgmt.go `CreateLedgerFromSnapshot` (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from peer.channels import Channels, Joined
from peer.errors import LedgerError, PeerError
from peer.ledger.snapshot_files import read_metadata

log = logging.getLogger("peer.channels")


class SnapshotJoins:
    """Takes orders to join; see `peer.scc.cscc.SnapshotJoins`.

    Args:
        join: joins a channel by the snapshot in a directory.
        nursery: of the peer; joining goes on in it.
        on_joined: is awaited with the channel's id.

    Attributes:
        current: the directory of the snapshot that is being joined by, empty if none is.
    """

    def __init__(
        self,
        channels: Channels,
        join: Callable[[Path], Awaitable[Joined]],
        nursery: trio.Nursery,
        on_joined: Callable[[str], Awaitable[None]],
    ) -> None:
        self.current = ""
        self._channels = channels
        self._join = join
        self._nursery = nursery
        self._on_joined = on_joined

    async def begin(self, directory: str) -> None:
        """Begin to join a channel; how it ends is in the log.

        Raises:
            LedgerError: another one is being joined so.
            SnapshotRefused: there is no snapshot, or its metadata are damaged.
            ChannelExists: the channel is joined already, or paused.

        Cancellation: nothing is joined.
        """
        if self.current:
            raise LedgerError(
                f"a ledger is being created from a snapshot at {self.current}. Call ledger "
                "creation again after it is done."
            )
        self.current = directory
        try:
            metadata = await trio.to_thread.run_sync(read_metadata, Path(directory))
            self._channels.check_new(metadata.channel_id)
        except BaseException:
            self.current = ""
            raise
        self._nursery.start_soon(self._finish, Path(directory))

    async def _finish(self, snapshot: Path) -> None:
        try:
            joined = await self._join(snapshot)
            channel_id = joined.channel.channel_id
            await self._on_joined(channel_id)
            log.info("channel %s: joined by the snapshot in %s", channel_id, snapshot)
        except PeerError as exc:
            log.error("no channel is joined by the snapshot in %s: %s", snapshot, exc)
        finally:
            self.current = ""
