"""Make a ledger of a snapshot: verify it, take it in, and only then let the ledger exist.

Room:      peer.ledger   (re-exported by the package; used by channels)
Loop:      Trio; everything that blocks runs in worker threads
Lifetime:  one joining
Fabric:    core/ledger/kvledger/snapshot.go `CreateFromSnapshot` (release-2.5)

A ledger is built under a name that is none, so whatever ends the joining leaves nothing that a peer
would open.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import trio

from fabric_protos.codec import DecodeError, decode
from fabric_protos.privacyenabledstate import SnapshotRecord
from fabric_protos.protos import CollectionConfigPackage
from peer.errors import LedgerError, LedgerStorageError, SnapshotRefused
from peer.ledger import durable, private, store
from peer.ledger.birth import write_birth
from peer.ledger.blocks import read_version
from peer.ledger.database import open_writer, transaction, translated
from peer.ledger.exporting import collections_key
from peer.ledger.home import BLOCKS, DATABASE, PRIVATE, ledger_home
from peer.ledger.snapshot import GET
from peer.ledger.snapshot_files import (
    COLLECTIONS,
    DATA,
    METADATA,
    PRIVATE_HASHES,
    PUBLIC_STATE,
    TX_IDS,
    SnapshotMetadata,
    read_metadata,
    reading,
    verify_files,
)
from peer.ledger.validation import CHANNEL_CONFIG_KEY

log = logging.getLogger(__name__)

STAGED = ".joining"
BATCH_ROWS = 1000
COLLECTION_SUFFIX = "~collection"

Row = tuple[Any, ...]


class StagedLedger(NamedTuple):
    """A ledger that is complete and does not exist yet.

    Attributes:
        config: the ``common.ConfigEnvelope`` it begins with.
    """

    channel_id: str
    config: bytes
    directory: Path

    async def publish(self) -> None:
        """Let the ledger exist; it can be opened then.

        Raises:
            LedgerError: there is one already.
            LedgerStorageError: it cannot be given its name.

        Cancellation: before anything is changed; then it is finished.
        """
        await trio.to_thread.run_sync(_publish, self.directory, self.channel_id)


@asynccontextmanager
async def staged_ledger(directory: Path, snapshot: Path) -> AsyncIterator[StagedLedger]:
    """Make a ledger of a snapshot, and hold it until it is published or given up.

    Args:
        directory: where ledgers live.
        snapshot: the directory of the snapshot, which is only read.

    Raises:
        SnapshotRefused: a file is missing, damaged, or says what can be in no snapshot.
        LedgerStorageError: the ledger cannot be written.

    Cancellation: nothing is left of it.
    """
    metadata = await trio.to_thread.run_sync(read_metadata, snapshot)
    staged = _staged_home(directory, metadata.channel_id)
    try:
        make = partial(_make, snapshot, metadata, staged, trio.from_thread.check_cancelled)
        config = await trio.to_thread.run_sync(make)
        yield StagedLedger(metadata.channel_id, config, directory)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, staged, ignore_errors=True))


def remove_staged(directory: Path) -> None:
    """Remove what a peer left that was killed while it joined by a snapshot."""
    for path in directory.glob(f".*{STAGED}"):
        log.warning("%s: removed what is left of joining by a snapshot", path)
        shutil.rmtree(path, ignore_errors=True)


def _staged_home(directory: Path, channel_id: str) -> Path:
    return ledger_home(directory, channel_id).with_name(f".{channel_id}{STAGED}")


def _publish(directory: Path, channel_id: str) -> None:
    home = ledger_home(directory, channel_id)
    try:
        if home.exists():  # of a peer that was killed while it joined by block 0
            if any(path.stat().st_size for path in (home / BLOCKS).glob("*")):
                raise LedgerError(f"there is a ledger of channel {channel_id} already")
            shutil.rmtree(home)
        _staged_home(directory, channel_id).rename(home)
        durable.sync_directory(directory)
    except OSError as exc:
        raise LedgerStorageError(str(home), str(exc)) from exc


def _make(
    snapshot: Path, metadata: SnapshotMetadata, home: Path, check: Callable[[], None]
) -> bytes:
    """Build the ledger, and return the configuration in it."""
    verify_files(snapshot, metadata, check)
    try:
        if home.exists():
            shutil.rmtree(home)
        (home / BLOCKS).mkdir(mode=0o700, parents=True)
        home.chmod(0o700)
        config = _take_in(snapshot, metadata, home, check)
        write_birth(home, metadata.last)
        durable.sync_directory(home)
    except OSError as exc:
        raise LedgerStorageError(str(home), str(exc)) from exc
    return config


def _take_in(
    snapshot: Path, metadata: SnapshotMetadata, home: Path, check: Callable[[], None]
) -> bytes:
    last = metadata.last
    with (
        _database(home / DATABASE, store.SCHEMA, store.SCHEMA_VERSION) as state,
        _database(home / PRIVATE, private.SCHEMA, private.SCHEMA_VERSION) as expiry,
    ):
        into = _Into(snapshot, state, check)
        into.add("blocks", [(last.number, last.hash, -1, -1)], "what it begins with")
        into.add("inherited_transactions", _transactions(into.part(TX_IDS), metadata), TX_IDS)
        into.add("collections", _collections(into.part(COLLECTIONS), metadata), COLLECTIONS)
        into.add("state", _state(into.part(PUBLIC_STATE), metadata, is_public=True), PUBLIC_STATE)
        hashes = _state(into.part(PRIVATE_HASHES), metadata, is_public=False)
        into.add("state", hashes, PRIVATE_HASHES)
        _inherit_expiry(state, expiry, check)
        found = state.execute(GET, ("", CHANNEL_CONFIG_KEY.encode())).fetchone()
        if found is None:
            raise SnapshotRefused(str(snapshot), "it has no channel configuration")
        return bytes(found[0])


class _Part(NamedTuple):
    """The two files of a part; neither is there where it has no entry."""

    data: Path
    metadata: Path


class _Into(NamedTuple):
    """The database that a snapshot goes into."""

    snapshot: Path
    connection: sqlite3.Connection
    check: Callable[[], None]

    def part(self, name: str) -> _Part:
        return _Part(self.snapshot / (name + DATA), self.snapshot / (name + METADATA))

    def add(self, table: str, rows: Iterable[Row], name: str) -> None:
        rest = iter(rows)
        while batch := list(islice(rest, BATCH_ROWS)):
            self.check()
            marks = ", ".join("?" * len(batch[0]))
            try:
                with transaction(self.connection):
                    self.connection.executemany(f"INSERT INTO {table} VALUES ({marks})", batch)
            except sqlite3.IntegrityError as exc:
                raise SnapshotRefused(
                    str(self.snapshot / name), f"an entry is there twice: {exc}"
                ) from exc


def _transactions(part: _Part, metadata: SnapshotMetadata) -> Iterator[Row]:
    if part.data.name not in metadata.hashes:
        return
    with reading(part.metadata) as counts, reading(part.data) as data:
        for _ in range(counts.read_number()):
            yield (data.read_text(),)
        counts.end()
        data.end()


def _collections(part: _Part, metadata: SnapshotMetadata) -> Iterator[Row]:
    if part.data.name not in metadata.hashes:
        return
    with reading(part.metadata) as counts, reading(part.data) as data:
        for _ in range(counts.read_number()):
            key, package = data.read_bytes(), data.read_bytes()
            name = key[:-8].partition(b"\0")[2].decode(errors="replace")
            chaincode = name.removesuffix(COLLECTION_SUFFIX)
            block = 2**64 - 1 - int.from_bytes(key[-8:], "big")
            if key != collections_key(chaincode, block) or block > metadata.last.number:
                raise data.refused(f"{key!r} is no key of a chaincode's collections")
            try:
                decode(CollectionConfigPackage, package)
            except DecodeError as exc:
                raise data.refused(f"the collections of {chaincode} cannot be read: {exc}") from exc
            yield chaincode, block, package
        counts.end()
        data.end()


def _state(part: _Part, metadata: SnapshotMetadata, *, is_public: bool) -> Iterator[Row]:
    if part.data.name not in metadata.hashes:
        return
    with reading(part.metadata) as counts, reading(part.data) as data:
        for _ in range(counts.read_number()):
            namespace, count = counts.read_text(), counts.read_number()
            if ("$$h" in namespace) is is_public or "$$p" in namespace:
                raise data.refused(f"namespace {namespace} has no place in it")
            for _ in range(count):
                try:
                    record = decode(SnapshotRecord, data.read_bytes())
                    version = read_version(record.version)
                    if is_public:
                        record.key.decode()
                except (DecodeError, IndexError, UnicodeDecodeError) as exc:
                    raise data.refused(f"a record of {namespace} cannot be read: {exc}") from exc
                if not record.value or version.block > metadata.last.number:
                    raise data.refused(f"a record of {namespace} is of no block before")
                yield namespace, record.key, record.value, record.metadata, *version, None
        counts.end()
        data.end()


def _inherit_expiry(
    state: sqlite3.Connection, expiry: sqlite3.Connection, check: Callable[[], None]
) -> None:
    """Note which hashes expire, and when."""
    for chaincode, collection, lifetime in _lifetimes(state):
        check()
        where = (f"{chaincode}$$h{collection}",)
        with transaction(state), transaction(expiry):
            state.execute(
                "INSERT INTO inherited_keys SELECT block, ?, ?, key FROM state WHERE namespace = ?",
                (chaincode, collection, *where),
            )
            found = state.execute("SELECT DISTINCT block FROM state WHERE namespace = ?", where)
            for (block,) in found:
                expires = block + lifetime + 1
                if expires < 1 << 63:
                    expiry.execute("INSERT OR IGNORE INTO blocks VALUES (?)", (block,))
                    row = (expires, block, chaincode, collection)
                    expiry.execute("INSERT INTO expiry VALUES (?, ?, ?, ?)", row)


def _lifetimes(state: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """Return chaincode, name and lifetime of the collections of which that is not for ever."""
    found = state.execute(
        "SELECT chaincode, package, max(block) FROM collections GROUP BY chaincode"
    )
    return [
        (chaincode, static.name, static.block_to_live)
        for chaincode, package, _ in found
        for each in decode(CollectionConfigPackage, package).config
        if (static := each.static_collection_config) is not None and static.block_to_live
    ]


@contextmanager
def _database(path: Path, schema: str, version: int) -> Iterator[sqlite3.Connection]:
    """Hold a new database open that needs not survive a crash before it is closed."""
    with translated(path):
        with closing(open_writer(path, schema, version)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            yield connection
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("rb") as file:
            durable.sync(file.fileno())
