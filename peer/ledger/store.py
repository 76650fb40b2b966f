"""One channel's state, private data, history and transaction ids in one SQLite file.

Room:      peer.ledger   (imports peer.errors; used by simulator, history, validation, kvledger)
Loop:      none; reads are made inline on the event loop's thread, `write_block` in a worker thread
Lifetime:  as long as the ledger is open; a `Snapshot` until its last user released it
Fabric:    core/ledger/kvledger/txmgmt/{statedb,privacyenabledstate}, .../history (release-2.5)

Write-ahead logging gives snapshot isolation: a read transaction sees the state of its begin,
however many commits follow, and delays none of them. Every simulation that begins between two
commits sees the same state, so they share one connection and one read transaction; after the next
commit, later ones begin on another connection.

Namespaces follow Fabric: the private values of a collection live in ``<chaincode>$$p<collection>``,
the public hashes in ``<chaincode>$$h<collection>`` under the hash of the key. Keys are stored as
UTF-8 bytes, which makes their order the byte order and allows U+0000.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from peer.errors import LedgerCorrupt, LedgerFull, LedgerLocked, LedgerStorageError
from peer.ledger.api import Timestamp, Version

SCHEMA_VERSION = 1
SCHEMA = f"""
CREATE TABLE ledger (height INTEGER NOT NULL);
INSERT INTO ledger VALUES (0);

CREATE TABLE state (
    namespace TEXT NOT NULL,
    key       BLOB NOT NULL,
    value     BLOB NOT NULL,
    metadata  BLOB NOT NULL,
    block     INTEGER NOT NULL,
    tx        INTEGER NOT NULL,
    key_hash  BLOB,                 -- of private values only: what a purge knows them by
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID;
CREATE INDEX private_value ON state (namespace, key_hash) WHERE key_hash IS NOT NULL;

CREATE TABLE transactions (
    block   INTEGER NOT NULL,
    tx      INTEGER NOT NULL,
    tx_id   TEXT NOT NULL,
    code    INTEGER NOT NULL,
    seconds INTEGER NOT NULL,
    nanos   INTEGER NOT NULL,
    PRIMARY KEY (block, tx)
) WITHOUT ROWID;
CREATE INDEX tx_id ON transactions (tx_id);

CREATE TABLE history (
    namespace TEXT NOT NULL,
    key       BLOB NOT NULL,
    block     INTEGER NOT NULL,
    tx        INTEGER NOT NULL,
    value     BLOB,                 -- NULL: deleted
    PRIMARY KEY (namespace, key, block, tx)
) WITHOUT ROWID;

PRAGMA user_version = {SCHEMA_VERSION};
"""

MAX_IDLE_CONNECTIONS = 8
LOCK_WAIT_S = 5.0
CHECKPOINT_BYTES = 4 * 1024 * 1024
"""What goes into the write-ahead log before a commit first moves it into the main file. The log's
file tells nothing: it is written over from its start and never shrinks."""
PAGE_BYTES = 4096

GET = "SELECT value, metadata, block, tx FROM state WHERE namespace = ? AND key = ?"
SCAN = "SELECT key, value, block, tx FROM state WHERE namespace = ? AND key >= ?"
SCAN_TO_THE_LAST = f"{SCAN} ORDER BY key LIMIT ?"
SCAN_TO_END = f"{SCAN} AND key < ? ORDER BY key LIMIT ?"
HISTORY = """
    SELECT h.block, h.tx, t.tx_id, h.value, t.seconds, t.nanos
    FROM history h JOIN transactions t USING (block, tx)
    WHERE h.namespace = ? AND h.key = ? AND (h.block, h.tx) < (?, ?)
    ORDER BY h.block DESC, h.tx DESC LIMIT ?
"""


class Stored(NamedTuple):
    """What the state holds under a key."""

    value: bytes
    metadata: bytes
    version: Version


class ScannedRow(NamedTuple):
    """One row of a range, with the bytes its key is ordered by."""

    key: bytes
    value: bytes
    block: int
    tx: int

    @property
    def version(self) -> Version:
        """Who wrote it."""
        return Version(self.block, self.tx)


class HistoryRow(NamedTuple):
    """One past write of a key; a value of None is a delete."""

    version: Version
    tx_id: str
    value: bytes | None
    timestamp: Timestamp


class StateRow(NamedTuple):
    """One row to write; a value of None deletes the key."""

    namespace: str
    key: bytes
    value: bytes | None
    metadata: bytes
    version: Version


class TransactionRow(NamedTuple):
    """One transaction of a block, valid or not."""

    tx_id: str
    code: int
    timestamp: Timestamp


class BlockRows(NamedTuple):
    """Everything one block adds. `history` holds (namespace, key, tx, value or None)."""

    number: int
    transactions: Sequence[TransactionRow]
    state: Sequence[StateRow]
    private: Sequence[tuple[StateRow, bytes]]
    purged: Sequence[tuple[str, bytes]]
    history: Sequence[tuple[str, bytes, int, bytes | None]]


def private_namespace(namespace: str, collection: str) -> str:
    """Return the namespace of a collection's values."""
    return f"{namespace}$$p{collection}"


def hash_namespace(namespace: str, collection: str) -> str:
    """Return the namespace of a collection's hashes."""
    return f"{namespace}$$h{collection}"


class Snapshot:
    """The state at one height, shared by everyone who began there."""

    def __init__(self, store: Store, connection: sqlite3.Connection) -> None:
        self._store = store
        self.connection = connection
        self.users = 0
        connection.execute("BEGIN")
        try:
            # The read transaction begins with the first read, so this pins the height.
            self.height = _height(connection)
        except BaseException:
            connection.close()
            raise

    def get(self, namespace: str, key: bytes) -> Stored | None:
        """Return what is stored under a key, None when it does not exist."""
        try:
            row = self.connection.execute(GET, (namespace, key)).fetchone()
        except sqlite3.Error as exc:
            raise self._store.failure(exc) from exc
        return None if row is None else Stored(row[0], row[1], Version(row[2], row[3]))

    def scan(self, namespace: str, start: bytes, end: bytes, limit: int) -> list[ScannedRow]:
        """Return up to `limit` rows with start <= key < end; an empty end is no bound."""
        try:
            if end:
                cursor = self.connection.execute(SCAN_TO_END, (namespace, start, end, limit))
            else:
                cursor = self.connection.execute(SCAN_TO_THE_LAST, (namespace, start, limit))
            rows = cursor.fetchall()
        except sqlite3.Error as exc:
            raise self._store.failure(exc) from exc
        return list(map(ScannedRow._make, rows))

    def release(self) -> None:
        """Give up one use; the last one ends the read transaction of an outdated snapshot."""
        self.users -= 1
        self._store.retire(self)


class Store:
    """An open SQLite file. One thread reads; `write_block` and `checkpoint` run in another.

    Raises:
        LedgerStorageError: from every method, when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        self._current: Snapshot | None = None
        self._closed = False
        self._logged_bytes = 0  # about: a page for each changed row, and the values
        self._moved_frames = 0
        with self._translated(), ExitStack() as opened:
            self._writer = _connect(path, LOCK_WAIT_S)
            opened.callback(self._writer.close)
            self._prepare()
            self._reader = _connect_reader(path)
            opened.callback(self._reader.close)
            self.height = _height(self._reader)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close every connection; one in use goes when its snapshot is released.

        The last to close empties the write-ahead log.
        """
        self._closed = True
        self.renew()
        while self._idle:
            self._idle.pop().close()
        self._opened.close()

    def snapshot(self) -> Snapshot:
        """Return the state of the last commit. Each call needs one `Snapshot.release`."""
        current = self._current
        if current is None:
            if self._closed:
                raise LedgerStorageError(str(self.path), "closed")
            with self._translated():
                connection = self._idle.pop() if self._idle else _connect_reader(self.path)
                current = self._current = Snapshot(self, connection)
        current.users += 1
        return current

    def renew(self) -> None:
        """Make the next snapshot begin afresh; those in use stay as they are."""
        outdated, self._current = self._current, None
        if outdated is not None:
            self.retire(outdated)

    def retire(self, snapshot: Snapshot) -> None:
        """End a snapshot's read transaction once nobody uses it and nobody can begin to."""
        if snapshot.users or snapshot is self._current:
            return
        snapshot.connection.execute("ROLLBACK")
        if self._closed or len(self._idle) == MAX_IDLE_CONNECTIONS:
            snapshot.connection.close()
        else:
            self._idle.append(snapshot.connection)

    def history(self, namespace: str, key: bytes, before: Version, limit: int) -> list[HistoryRow]:
        """Return up to `limit` writes of a key older than `before`, newest first."""
        with self._translated():
            rows = self._reader.execute(HISTORY, (namespace, key, *before, limit)).fetchall()
        return [
            HistoryRow(Version(block, tx), tx_id, value, Timestamp(seconds, nanos))
            for block, tx, tx_id, value, seconds, nanos in rows
        ]

    def has_transaction(self, tx_id: str) -> bool:
        """Tell whether a block holds the transaction, valid or not."""
        with self._translated():
            row = self._reader.execute(
                "SELECT 1 FROM transactions WHERE tx_id = ? LIMIT 1", (tx_id,)
            ).fetchone()
        return row is not None

    def checkpoint_is_due(self) -> bool:
        """Tell whether the write-ahead log has grown enough to be worth moving."""
        return self._logged_bytes > CHECKPOINT_BYTES

    def checkpoint(self) -> None:
        """Move the write-ahead log into the main file, as far as running simulations allow."""
        with self._translated():
            _, frames, _ = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        # The next write starts the log over, unless a simulation reads it: then try again soon.
        if frames < self._moved_frames:
            self._logged_bytes = 0
        self._moved_frames = frames

    def write_block(self, rows: BlockRows) -> None:
        """Write one block and return when it is durable; after an error nothing of it is there."""
        with self._translated():
            changed = self._writer.total_changes
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._write_rows(rows)
                self._writer.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after some errors, such as a full disk.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            self._logged_bytes += PAGE_BYTES * (self._writer.total_changes - changed)
            self._logged_bytes += sum(len(row.value) for row in rows.state if row.value is not None)

    def _prepare(self) -> None:
        """Choose the journal and create the tables of a new file."""
        writer = self._writer
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute(f"PRAGMA journal_size_limit = {16 * CHECKPOINT_BYTES}")
        (version,) = writer.execute("PRAGMA user_version").fetchone()
        if version == 0:
            writer.executescript(f"BEGIN IMMEDIATE;{SCHEMA}COMMIT;")
        elif version != SCHEMA_VERSION:
            raise LedgerCorrupt(
                str(self.path), f"its schema has version {version}, this peer's {SCHEMA_VERSION}"
            )

    def _write_rows(self, rows: BlockRows) -> None:
        number, write = rows.number, self._writer.executemany
        write(
            "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?)",
            (
                (number, tx, row.tx_id, row.code, *row.timestamp)
                for tx, row in enumerate(rows.transactions)
            ),
        )
        write(
            "DELETE FROM state WHERE namespace = ? AND key = ?",
            (row[:2] for row in rows.state if row.value is None),
        )
        write(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, NULL)",
            ((*row[:4], *row.version) for row in rows.state if row.value is not None),
        )
        write(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((*row[:4], *row.version, key_hash) for row, key_hash in rows.private),
        )
        write("DELETE FROM state WHERE namespace = ? AND key_hash = ?", rows.purged)
        write(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?)",
            ((namespace, key, number, tx, value) for namespace, key, tx, value in rows.history),
        )
        self._writer.execute("UPDATE ledger SET height = ?", (number + 1,))

    def failure(self, exc: sqlite3.Error) -> LedgerStorageError:
        """Return the peer's error for one of SQLite's."""
        return _failure(self.path, exc)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise self.failure(exc) from exc


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, made with its directory; the kernel frees it however the process ends.

    Raises:
        LedgerLocked: someone else holds it.
        LedgerStorageError: it cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise LedgerStorageError(str(path), str(exc)) from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerLocked(str(path.parent), "in use by another peer") from None
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path, wait_s: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)


def _connect_reader(path: Path) -> sqlite3.Connection:
    # No wait: a reader runs on the event loop, and a writer never blocks it.
    connection = _connect(path, 0)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _height(connection: sqlite3.Connection) -> int:
    (height,) = connection.execute("SELECT height FROM ledger").fetchone()
    return int(height)


def _failure(path: Path, exc: sqlite3.Error) -> LedgerStorageError:
    # Python raises without a code for its own refusals, such as a closed connection.
    code = getattr(exc, "sqlite_errorcode", None)
    name = getattr(exc, "sqlite_errorname", None)
    reason = f"{exc} ({name})" if name else str(exc)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return LedgerFull(str(path), f"{reason}; free some space and commit again")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return LedgerCorrupt(str(path), f"{reason}; restore the file")
        case sqlite3.SQLITE_BUSY:
            return LedgerLocked(str(path), f"{reason} for {LOCK_WAIT_S:g} s by another program")
        case _:
            if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # what a full disk is called while opening
                reason += "; the disk is probably full"
            return LedgerStorageError(str(path), reason)
