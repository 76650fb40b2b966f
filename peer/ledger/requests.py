"""Keep what snapshots are asked for, and generate each when its block is the last one.

Room:      peer.ledger   (opened by kvledger)
Loop:      Trio; generating runs in a worker thread
Lifetime:  as long as the ledger is open; `run` as long as the peer is joined
Fabric:    core/ledger/kvledger/snapshot_mgmt.go (release-2.5)

Between the commit of its block and that of the next one, a snapshot only begins to read; the rest
is done while blocks go on. So a peer that is killed has lost that state if another block followed:
then the request is given up, and the log says so.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import trio

from peer.errors import LedgerCorrupt, LedgerError, LedgerStorageError, SnapshotRequestRefused
from peer.ledger import durable
from peer.ledger.commit import Chain
from peer.ledger.exporting import Pinned, export, pin

log = logging.getLogger(__name__)

REQUESTS = "snapshot_requests.json"
"""File in the home of a ledger: numbers of blocks."""
COMPLETED, TEMPORARY = "completed", "temp"


class SnapshotRequests:
    """The requests of one ledger; see `peer.ledger.api.Snapshots`.

    Args:
        home: where the ledger lives.
        root: where the snapshots of all channels go.

    Attributes:
        committer: held while a block is committed.
    """

    def __init__(self, chain: Chain, channel_id: str, home: Path, root: Path) -> None:
        self.committer = trio.Lock()
        self._chain = chain
        self._channel_id = channel_id
        self._path = home / REQUESTS
        self._root = root
        self._wanted: set[int] = set()
        self._underway: dict[int, Pinned] = {}
        self._pinned, self._to_do = trio.open_memory_channel[Pinned](math.inf)

    async def open(self) -> None:
        """Read the requests, and go on with what was interrupted.

        Raises:
            LedgerStorageError: they cannot be read.
        """
        await trio.to_thread.run_sync(self._resume)
        await self.committed()

    def pending(self) -> list[int]:
        """Return the blocks at which snapshots are asked for, in order."""
        return sorted(self._wanted)

    async def submit(self, number: int) -> None:
        """Ask for a snapshot; see `peer.ledger.api.Snapshots.submit`."""
        async with self.committer:
            last = self._chain.tip.number
            wanted = number or last
            if wanted < last:
                raise SnapshotRequestRefused(
                    f"requested snapshot for block number {wanted} cannot be less than the last "
                    f"committed block number {last}"
                )
            if wanted == last and self._completed(wanted).exists():
                raise SnapshotRequestRefused(
                    f"snapshot already generated for block number {wanted}"
                )
            if wanted in self._wanted:
                raise SnapshotRequestRefused(
                    f"duplicate snapshot request for block number {wanted}"
                )
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._save, self._wanted | {wanted})
                await self.committed()

    async def cancel(self, number: int) -> None:
        """Take a request back; see `peer.ledger.api.Snapshots.cancel`."""
        async with self.committer:
            if number in self._underway:
                raise SnapshotRequestRefused(
                    "cannot cancel the snapshot request because it is under processing"
                )
            if number not in self._wanted:
                raise SnapshotRequestRefused(
                    f"no snapshot request exists for block number {number}"
                )
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._save, self._wanted - {number})

    async def committed(self) -> None:
        """Hold what the last block left, if a snapshot is to be made of it.

        To be called before another block is committed.
        """
        last = self._chain.tip
        if last.number not in self._wanted or last.number in self._underway:
            return
        try:
            pinned = await trio.to_thread.run_sync(pin, self._chain.store.path, last)
        except LedgerStorageError as exc:
            self._failed(last.number, exc)
            self._wanted.discard(last.number)
            return
        self._underway[last.number] = pinned
        self._pinned.send_nowait(pinned)

    async def run(self) -> None:
        """Generate what is asked for, until cancelled.

        Cancellation: nothing is left of one that is not complete, and it is asked for still.
        """
        async for pinned in self._to_do:
            number = pinned.last.number
            try:
                await trio.to_thread.run_sync(self._generate, pinned)
                log.info("channel %s: snapshot at block %d", self._channel_id, number)
            except (LedgerError, OSError) as exc:
                self._failed(number, exc)
            async with self.committer:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._finish, number)

    def close(self) -> None:
        """Let go of what is held."""
        for pinned in self._underway.values():
            pinned.connection.close()
        self._underway.clear()

    def _resume(self) -> None:
        self._remove_leftovers()
        self._wanted = self._read()
        last = self._chain.tip.number
        gone = {number for number in self._wanted if number < last}
        gone |= {number for number in self._wanted if self._completed(number).exists()}
        for number in sorted(gone):
            if not self._completed(number).exists():
                log.error(
                    "channel %s: the snapshot at block %d was interrupted, and the last block is "
                    "%d now; ask for another",
                    self._channel_id,
                    number,
                    last,
                )
        if gone:
            self._save(self._wanted - gone)

    def _generate(self, pinned: Pinned) -> None:
        temporary = self._root / TEMPORARY
        temporary.mkdir(mode=0o755, parents=True, exist_ok=True)
        prefix = f"{self._channel_id}-{pinned.last.number}-"
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=temporary))
        try:
            export(pinned, self._channel_id, directory, trio.from_thread.check_cancelled)
            directory.chmod(0o755)
            target = self._completed(pinned.last.number)
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            for parent in (self._root, target.parent.parent):
                durable.sync_directory(parent)
            directory.rename(target)
            durable.sync_directory(target.parent)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def _finish(self, number: int) -> None:
        self._underway.pop(number).connection.close()
        try:
            self._save(self._wanted - {number})
        except LedgerStorageError as exc:
            log.error("channel %s: the request for a snapshot stays: %s", self._channel_id, exc)

    def _failed(self, number: int, exc: Exception) -> None:
        log.error("channel %s: no snapshot at block %d: %s", self._channel_id, number, exc)

    def _completed(self, number: int) -> Path:
        return self._root / COMPLETED / self._channel_id / str(number)

    def _remove_leftovers(self) -> None:
        name = re.compile(rf"{re.escape(self._channel_id)}-\d+-[a-z0-9_]+")
        for path in (self._root / TEMPORARY).glob("*"):
            if name.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> set[int]:
        try:
            numbers = json.loads(self._path.read_bytes())
            if all(type(number) is int for number in numbers):
                return set(numbers)
            reason = "it holds something else than numbers of blocks"
        except FileNotFoundError:
            return set()
        except OSError as exc:
            raise LedgerStorageError(str(self._path), str(exc)) from exc
        except (ValueError, TypeError) as exc:
            reason = f"it holds something else than numbers of blocks: {exc}"
        raise LedgerCorrupt(str(self._path), reason)

    def _save(self, wanted: Iterable[int]) -> None:
        """Make these the requests; on disk afterwards."""
        wanted = set(wanted)
        draft = self._path.with_suffix(".draft")
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(sorted(wanted), file)
                file.flush()
                durable.sync(file.fileno())
            draft.replace(self._path)
            durable.sync_directory(self._path.parent)
        except OSError as exc:
            raise LedgerStorageError(str(self._path), str(exc)) from exc
        self._wanted = wanted
