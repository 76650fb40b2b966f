"""What can be done with a ledger that nobody has open.

Room:      peer.ledger   (re-exported by the package; used by cli)
Loop:      Trio; files are read and removed in worker threads
Lifetime:  none
Fabric:    core/ledger/kvledger/{rebuild_dbs,reset,rollback,pause_resume,unjoin_channel}.go
           (release-2.5)

Blocks are only ever cut off once the databases that know them are gone. So a cut that did not come
to its end leaves a whole ledger, whose last block is the old one, the new one or one between.
Private data stay; when the blocks come again, they find theirs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from peer.errors import LedgerError, LedgerStorageError, UnknownChannel
from peer.ledger import durable
from peer.ledger.api import Version
from peer.ledger.birth import read_birth
from peer.ledger.blockfile import BlockFiles, Position
from peer.ledger.blocks import header_of
from peer.ledger.database import locked, open_reader, translated
from peer.ledger.home import BLOCKS, CHANNEL_ID, DATABASE, LOCK_NAME, ledger_home

PAUSED = "paused"
"""File in the home of a ledger that the peer leaves alone."""

PUBLIC_STATE = """
    SELECT namespace, key, value, metadata, block, tx FROM state
    WHERE instr(namespace, '$$p') = 0 ORDER BY namespace, key
"""


class StateRow(NamedTuple):
    """One row of the state, for who compares states."""

    namespace: str
    key: bytes
    value: bytes
    metadata: bytes
    version: Version


def ledger_ids(directory: Path) -> list[str]:
    """Return the channels that have a ledger, sorted; none where there is no such directory.

    Raises:
        LedgerStorageError: the directory cannot be read.
    """
    try:
        return sorted(
            path.name
            for path in directory.iterdir()
            if CHANNEL_ID.fullmatch(path.name) and path.is_dir()
        )
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise LedgerStorageError(str(directory), str(exc)) from exc


async def rebuild_databases(directory: Path, *channel_ids: str) -> None:
    """Drop state, history and index of ledgers; the next opening makes them again from the blocks.

    Raises:
        UnknownChannel: there is no ledger of one of them, and nothing was changed.
        LedgerError: one began with a snapshot, and nothing was changed.
        LedgerLocked: a peer has one open, and nothing was changed.
        LedgerStorageError: files cannot be removed.
    """
    with _held(directory, channel_ids) as homes:
        _refuse_born(homes, "rebuild databases")
        for home in homes:
            await trio.to_thread.run_sync(_drop_databases, home)


async def rollback(directory: Path, channel_id: str, number: int) -> None:
    """Make a block the last one of a ledger, and drop state and history as `rebuild_databases`.

    Raises:
        LedgerError: the block is not below the last one, or the ledger began with a snapshot, and
            nothing was changed.
        UnknownChannel, LedgerLocked, LedgerStorageError: as there.

    Cancellation: before anything is changed; then it is finished.
    """
    with _held(directory, [channel_id]) as [home]:
        _refuse_born([home], "rollback")
        cut, last = await trio.to_thread.run_sync(_find_cut, home, number)
        if cut is None:
            raise LedgerError(
                f"target block number [{number}] should be less than the biggest block number "
                f"[{last}]"
            )
        await trio.to_thread.run_sync(_cut, home, cut)


async def reset(directory: Path) -> list[str]:
    """Roll every ledger back to its first block; return the channels.

    Raises:
        LedgerError: one began with a snapshot, and nothing was changed.
        LedgerLocked: a peer has one open, and nothing was changed.
        LedgerStorageError: files cannot be read or removed.

    Cancellation: between two ledgers.
    """
    channel_ids = ledger_ids(directory)
    with _held(directory, channel_ids) as homes:
        _refuse_born(homes, "reset")
        for home in homes:
            cut, _ = await trio.to_thread.run_sync(_find_cut, home, 0)
            if cut is not None:
                await trio.to_thread.run_sync(_cut, home, cut)
    return channel_ids


async def pause(directory: Path, channel_id: str) -> None:
    """Let the next start of the peer leave a channel alone; pausing twice is fine.

    Raises:
        UnknownChannel, LedgerLocked, LedgerStorageError: as for `rebuild_databases`.
    """
    with _held(directory, [channel_id]) as [home], _as_storage_error(home):
        (home / PAUSED).touch()
        await trio.to_thread.run_sync(durable.sync_directory, home)


async def resume(directory: Path, channel_id: str) -> None:
    """Let the next start of the peer open a channel again; what was not paused stays open.

    Raises:
        UnknownChannel, LedgerLocked, LedgerStorageError: as for `rebuild_databases`.
    """
    with _held(directory, [channel_id]) as [home], _as_storage_error(home):
        (home / PAUSED).unlink(missing_ok=True)
        await trio.to_thread.run_sync(durable.sync_directory, home)


def is_paused(directory: Path, channel_id: str) -> bool:
    """Tell whether the peer leaves a channel alone."""
    return (directory / channel_id / PAUSED).exists()


async def unjoin(directory: Path, channel_id: str) -> None:
    """Remove a ledger with everything in it, private data too.

    Raises:
        UnknownChannel, LedgerLocked, LedgerStorageError: as for `rebuild_databases`.

    Cancellation: before anything is changed; then it is finished.
    """
    with _held(directory, [channel_id]) as [home], _as_storage_error(home):
        await trio.to_thread.run_sync(_remove, directory, home)


def public_state(directory: Path, channel_id: str) -> Iterator[StateRow]:
    """Yield the state every peer of a channel has, by namespace and key.

    That is all but private values; their hashes are in namespaces of their own.

    Raises:
        LedgerStorageError: it cannot be read.
    """
    path = directory / channel_id / DATABASE
    with translated(path), closing(open_reader(path)) as reader:
        for namespace, key, value, metadata, block, tx in reader.execute(PUBLIC_STATE):
            yield StateRow(namespace, key, value, metadata, Version(block, tx))


@contextmanager
def _held(directory: Path, channel_ids: Sequence[str]) -> Iterator[list[Path]]:
    """Keep everybody else out of ledgers, all at once; yield where they live."""
    known = ledger_ids(directory)
    for channel_id in channel_ids:
        if channel_id not in known:
            raise UnknownChannel(channel_id, known)
    with ExitStack() as stack:
        homes = [ledger_home(directory, channel_id) for channel_id in channel_ids]
        for home in homes:
            stack.enter_context(locked(home / LOCK_NAME))
        yield homes


def _refuse_born(homes: Sequence[Path], what: str) -> None:
    """Refuse what would need the blocks that a snapshot stands for.

    Raises:
        LedgerError: a ledger began with one.
    """
    born = [home.name for home in homes if read_birth(home) is not None]
    if born:
        raise LedgerError(
            f"cannot {what} because the peer contains channel(s) [{' '.join(born)}] that were "
            "bootstrapped from snapshot; remove a channel with `node unjoin` and join it again"
        )


@contextmanager
def _as_storage_error(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise LedgerStorageError(str(home), str(exc)) from exc


def _remove(directory: Path, home: Path) -> None:
    """Take the name of a ledger away first: what is left of it then is no ledger any more."""
    leaving = directory / f".{home.name}.unjoined"
    if leaving.exists():  # of an earlier time, which did not come to its end
        shutil.rmtree(leaving)
    home.rename(leaving)
    durable.sync_directory(directory)
    shutil.rmtree(leaving)


def _drop_databases(home: Path) -> None:
    try:
        # The main file first: without it, what is in the log counts for nothing.
        for suffix in ("", "-wal", "-shm"):
            (home / f"{DATABASE}{suffix}").unlink(missing_ok=True)
            durable.sync_directory(home)
    except OSError as exc:
        raise LedgerStorageError(str(home), str(exc)) from exc


def _find_cut(home: Path, number: int) -> tuple[Position | None, int]:
    """Return where a block ends, None unless another one follows; and the last block read."""
    end, last = None, -1
    for record in BlockFiles(home / BLOCKS).scan():
        last = header_of(record.block).number
        if end is not None:
            return end, last
        if last == number:
            end = record.end
    return None, last


def _cut(home: Path, end: Position) -> None:
    _drop_databases(home)
    files = BlockFiles(home / BLOCKS)
    try:
        files.resume(end)
    finally:
        files.close()
