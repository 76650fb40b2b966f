"""One channel's state, history and index of blocks in one SQLite file.

Room:      peer.ledger   (imports snapshot, indexes, peer.errors; used by history, commit, kvledger)
Loop:      none; reads are made inline on the event loop's thread, `write_block` in a worker thread
Lifetime:  as long as the ledger is open; a `Snapshot` until its last user released it
Fabric:    core/ledger/kvledger/txmgmt/{statedb,privacyenabledstate}, .../history (release-2.5)

Write-ahead logging gives snapshot isolation: a read transaction sees the state of its begin,
however many commits follow, and delays none of them. Every simulation that begins between two
commits sees the same state, so they share one connection and one read transaction; after the next
commit, later ones begin on another connection.

Everything here follows from the block files and the private store, and can be made from them again.
So no block waits for the disk here: a machine that fails loses the last ones, in their order, and
they are made again when the ledger opens.

Namespaces follow Fabric: the private values of a collection live in ``<chaincode>$$p<collection>``,
the public hashes in ``<chaincode>$$h<collection>`` under the hash of the key. Keys are stored as
UTF-8 bytes, which makes their order the byte order and allows U+0000.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from peer.errors import LedgerStorageError
from peer.ledger import indexes
from peer.ledger.api import Timestamp, Version
from peer.ledger.blockfile import Position
from peer.ledger.database import (
    failure,
    insert_all,
    open_reader,
    open_writer,
    transaction,
    translated,
)
from peer.ledger.snapshot import GET, Snapshot, Stored, height_of, stored

SCHEMA_VERSION = 7
REMEDY = "make it again from the blocks with `node rebuild-dbs`"
SCHEMA = """
CREATE TABLE blocks (
    number INTEGER PRIMARY KEY,
    hash   BLOB NOT NULL UNIQUE,
    file   INTEGER NOT NULL,        -- -1: a snapshot stands for this one and those before
    offset INTEGER NOT NULL
);

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
CREATE INDEX marked ON state (namespace) WHERE metadata != x'';

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

CREATE TABLE collections (           -- as they were defined, one row for each time
    chaincode TEXT NOT NULL,
    block     INTEGER NOT NULL,
    package   BLOB NOT NULL,
    PRIMARY KEY (chaincode, block)
) WITHOUT ROWID;

CREATE TABLE inherited_transactions (-- of blocks that a snapshot stands for
    tx_id TEXT PRIMARY KEY
) WITHOUT ROWID;

CREATE TABLE inherited_keys (        -- of such blocks: hashes that expire
    block      INTEGER NOT NULL,
    namespace  TEXT NOT NULL,
    collection TEXT NOT NULL,
    key_hash   BLOB NOT NULL,
    PRIMARY KEY (block, namespace, collection, key_hash)
) WITHOUT ROWID;

CREATE TABLE history (
    namespace TEXT NOT NULL,
    key       BLOB NOT NULL,
    block     INTEGER NOT NULL,
    tx        INTEGER NOT NULL,
    value     BLOB,                 -- NULL: deleted
    PRIMARY KEY (namespace, key, block, tx)
);                                  -- by rowid, so values are appended and only keys are sorted
"""
SCHEMA += indexes.SCHEMA
SCHEMA += """
CREATE TABLE owed (                 -- what a server of documents has not got yet
    namespace TEXT NOT NULL,
    key       BLOB NOT NULL,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID;

CREATE TABLE documents (            -- one row, where there is such a server
    height INTEGER NOT NULL         -- blocks it had when nothing was owed
);
"""

MAX_IDLE_CONNECTIONS = 8
CHECKPOINT_BYTES = 4 * 1024 * 1024
"""What goes into the write-ahead log before a commit first moves it into the main file. The log's
file tells nothing: it is written over from its start and never shrinks."""
PAGE_BYTES = 4096

HISTORY = """
    SELECT h.block, h.tx, t.tx_id, h.value, t.seconds, t.nanos
    FROM history h JOIN transactions t USING (block, tx)
    WHERE h.namespace = ? AND h.key = ? AND (h.block, h.tx) < (?, ?)
    ORDER BY h.block DESC, h.tx DESC LIMIT ?
"""


KEY_OF_HASH = "SELECT key FROM state WHERE namespace = ? AND key_hash = ?"
OWED = """
    SELECT o.namespace, o.key, s.value, s.metadata, s.block, s.tx
    FROM owed o LEFT JOIN state s USING (namespace, key) LIMIT ?
"""
OWE_EVERYTHING = """
    INSERT OR IGNORE INTO owed SELECT namespace, key FROM state
    WHERE namespace != '' AND instr(namespace, '$$h') = 0
"""
PUT = "INSERT OR REPLACE INTO state SELECT ?, column1, column2, x'', column3, column4, NULL"
PUT_MARKED = PUT.replace("x''", "column5")
PUT_PRIVATE = PUT.replace("NULL", "column5")
PUT_PAST = "INSERT INTO history SELECT column1, column2, ?, column3, column4"
SAVEPOINT = """
    SELECT b.number, coalesce(max(t.tx), 0) FROM blocks b LEFT JOIN transactions t
    ON t.block = b.number WHERE b.number = (SELECT max(number) FROM blocks)
"""
FIND_TRANSACTION = """
    SELECT block, tx, code FROM transactions WHERE tx_id = ? ORDER BY block, tx LIMIT 1
"""


class HistoryRow(NamedTuple):
    """One past write of a key; a value of None is a delete."""

    version: Version
    tx_id: str
    value: bytes | None
    timestamp: Timestamp


class BlockRow(NamedTuple):
    """Where a block is."""

    number: int
    hash: bytes
    position: Position


class TransactionRow(NamedTuple):
    """One transaction of a block, valid or not."""

    tx_id: str
    code: int
    timestamp: Timestamp


class StateChanges(NamedTuple):
    """What one block changes in the state.

    Attributes:
        state: by namespace and key, in their order; no value is a key to delete.
        private: namespaces of private values; their rows have the hashes of the keys.
        purged: namespace and key hash of private values to delete.
    """

    state: Mapping[str, Mapping[bytes, Stored]]
    private: Collection[str]
    purged: Sequence[tuple[str, bytes]]


class OwedRow(NamedTuple):
    """A row that a server of documents has not got yet; a value of None is no row any more."""

    namespace: str
    key: bytes
    value: bytes | None
    metadata: bytes
    version: Version


class Savepoint(NamedTuple):
    """The last transaction of the last block; the block is -1 where there is none."""

    block: int
    tx: int


class PastWrites(NamedTuple):
    """What one transaction writes in one namespace; an empty value is a delete."""

    namespace: str
    tx: int
    values: Mapping[bytes, bytes]


class BlockRows(NamedTuple):
    """Everything one block adds."""

    block: BlockRow
    transactions: Sequence[TransactionRow]
    changes: StateChanges
    history: Sequence[PastWrites]
    collections: Mapping[str, bytes]


class Store:
    """An open SQLite file. One thread reads; what writes runs in another, one call at a time.

    Raises:
        LedgerStorageError: from every method, when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        self._current: Snapshot | None = None
        self._closed = False
        self._owes_documents = False
        self._logged_bytes = 0  # about: a page for each changed row, and the values
        self._moved_frames = 0
        with self._translated(), ExitStack() as opened:
            self._writer = open_writer(path, SCHEMA, SCHEMA_VERSION, REMEDY)
            opened.callback(self._writer.close)
            self._writer.execute("PRAGMA synchronous = NORMAL")
            self._writer.execute("PRAGMA wal_autocheckpoint = 0")
            self._writer.execute(f"PRAGMA journal_size_limit = {16 * CHECKPOINT_BYTES}")
            self._reader = open_reader(path)
            opened.callback(self._reader.close)
            self.height = height_of(self._reader)
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
                connection = self._idle.pop() if self._idle else open_reader(self.path)
                current = self._current = Snapshot(connection, self.path, self.retire)
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

    def find_transaction(self, tx_id: str) -> tuple[Version, int] | None:
        """Return place and verdict of the first transaction of an id, valid or not."""
        try:
            row = self._reader.execute(FIND_TRANSACTION, (tx_id,)).fetchone()
        except sqlite3.Error as exc:
            raise failure(self.path, exc) from exc
        return None if row is None else (Version(row[0], row[1]), row[2])

    def is_inherited(self, tx_id: str) -> bool:
        """Tell whether a block that a snapshot stands for held a transaction of this id."""
        query = "SELECT 1 FROM inherited_transactions WHERE tx_id = ?"
        with self._translated():
            return self._reader.execute(query, (tx_id,)).fetchone() is not None

    def inherited_keys(self, block: int, namespace: str, collection: str) -> list[bytes]:
        """Return the hashes that such a block wrote and that expire. For the writing thread."""
        query = (
            "SELECT key_hash FROM inherited_keys WHERE (block, namespace, collection) = (?, ?, ?)"
        )
        with self._translated():
            found = self._writer.execute(query, (block, namespace, collection)).fetchall()
        return [key_hash for (key_hash,) in found]

    def find_block(self, number: int) -> BlockRow | None:
        """Return where a block is; None when it is not there."""
        return self._find_block(self._reader, "number", number)

    def find_block_by_hash(self, header_hash: bytes) -> BlockRow | None:
        """Return where the block of a hash is; None when there is none."""
        return self._find_block(self._reader, "hash", header_hash)

    def stored_block(self, number: int) -> BlockRow | None:
        """Return where a block is. For the writing thread."""
        return self._find_block(self._writer, "number", number)

    def _find_block(
        self, connection: sqlite3.Connection, column: str, value: int | bytes
    ) -> BlockRow | None:
        query = f"SELECT number, hash, file, offset FROM blocks WHERE {column} = ? AND file >= 0"
        with self._translated():
            row = connection.execute(query, (value,)).fetchone()
        return None if row is None else BlockRow(row[0], row[1], Position(row[2], row[3]))

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

    def get_latest(self, namespace: str, key: bytes) -> Stored | None:
        """Return what the last block left under a key. For the writing thread."""
        with self._translated():
            return stored(self._writer.execute(GET, (namespace, key)).fetchone())

    def write_block(self, rows: BlockRows) -> None:
        """Write one block; after an error nothing of it is there."""
        with self._writing():
            is_followed = self._owes_documents or indexes.are_defined(self._writer)
            touched = self._touched(rows.changes) if is_followed else []
            with indexes.reindexed(self._writer, touched):
                self._write_rows(rows)
            if self._owes_documents:
                self._writer.executemany("INSERT OR IGNORE INTO owed VALUES (?, ?)", touched)
        self._logged_bytes += sum(
            len(stored.value)
            for changed in rows.changes.state.values()
            for stored in changed.values()
        )

    def set_indexes(self, chaincode: str, wanted: Mapping[str, Iterable[str]]) -> None:
        """Make these the indexes of a chaincode; see `peer.ledger.indexes.define`.

        For the writing thread.
        """
        with self._writing():
            indexes.define(self._writer, chaincode, wanted)

    def owe_documents(self, owes: bool) -> None:
        """Choose whether changes are owed to a server of documents from now on; if not, none are.

        For the writing thread, as is all that follows.
        """
        self._owes_documents = owes
        if not owes and self.confirmed() is not None:
            with self._writing():
                self._writer.execute("DELETE FROM owed")
                self._writer.execute("DELETE FROM documents")

    def owe_everything(self) -> None:
        """Owe every row that can be a document."""
        with self._writing():
            self._writer.execute(OWE_EVERYTHING)

    def owed(self, limit: int) -> list[OwedRow]:
        """Return up to `limit` rows that are owed."""
        with self._translated():
            found = self._writer.execute(OWED, (limit,)).fetchall()
        return [
            OwedRow(namespace, key, value, metadata or b"", Version(block or 0, tx or 0))
            for namespace, key, value, metadata, block, tx in found
        ]

    def settle(self, rows: Sequence[OwedRow], height: int | None) -> None:
        """Strike rows off; with a height, note that nothing of so many blocks is owed."""
        with self._writing():
            delete = "DELETE FROM owed WHERE (namespace, key) = (?, ?)"
            self._writer.executemany(delete, (row[:2] for row in rows))
            if height is not None:
                self._writer.execute("DELETE FROM documents")
                self._writer.execute("INSERT INTO documents VALUES (?)", (height,))

    def confirmed(self) -> int | None:
        """Return the height at which nothing was owed last; None where no server is known."""
        with self._translated():
            row = self._writer.execute("SELECT height FROM documents").fetchone()
        return None if row is None else int(row[0])

    def savepoint(self) -> Savepoint:
        """Return the place of the last transaction."""
        with self._translated():
            block, tx = self._writer.execute(SAVEPOINT).fetchone()
        return Savepoint(-1 if block is None else block, tx)

    def _touched(self, changes: StateChanges) -> list[tuple[str, bytes]]:
        """Return namespace and key of every row that a block changes; not those of hashes."""
        namespaces = [name for name in changes.state if name and "$$h" not in name]
        touched = {(name, key) for name in namespaces for key in changes.state[name]}
        for where in changes.purged:
            found = self._writer.execute(KEY_OF_HASH, where)
            touched |= {(where[0], key) for (key,) in found}
        return sorted(touched)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._translated():
            changed = self._writer.total_changes
            with transaction(self._writer):
                yield
            self._logged_bytes += PAGE_BYTES * (self._writer.total_changes - changed)

    def _write_rows(self, rows: BlockRows) -> None:
        number, write = rows.block.number, self._writer.executemany
        state, private, purged = rows.changes
        self._writer.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)",
            (number, rows.block.hash, *rows.block.position),
        )
        write(
            "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?)",
            (
                (number, tx, row.tx_id, row.code, *row.timestamp)
                for tx, row in enumerate(rows.transactions)
            ),
        )
        for namespace, changed in state.items():
            write(
                "DELETE FROM state WHERE namespace = ? AND key = ?",
                ((namespace, key) for key, stored in changed.items() if not stored.value),
            )
            plain = (
                (bytearray(key), bytearray(value), *version)
                for key, (value, metadata, version) in changed.items()
                if value and not metadata
            )
            marked = (
                (bytearray(key), bytearray(value), *version, bytearray(metadata))
                for key, (value, metadata, version) in changed.items()
                if value and metadata
            )
            if namespace in private:
                hashed = ((*row, bytearray(sha256(row[0]).digest())) for row in plain)
                insert_all(self._writer, PUT_PRIVATE, hashed, namespace, width=5)
            else:
                insert_all(self._writer, PUT, plain, namespace, width=4)
                insert_all(self._writer, PUT_MARKED, marked, namespace, width=5)
        write("DELETE FROM state WHERE namespace = ? AND key_hash = ?", purged)
        past = (
            (namespace, bytearray(key), tx, bytearray(values[key]) or None)
            for namespace, tx, values in rows.history
            for key in sorted(values)
        )
        insert_all(self._writer, PUT_PAST, past, number, width=4)
        write(
            "INSERT INTO collections VALUES (?, ?, ?)",
            ((chaincode, number, package) for chaincode, package in rows.collections.items()),
        )

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self.path)
