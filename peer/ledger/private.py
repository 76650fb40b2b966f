"""Keep the private data of committed transactions, which no block holds.

Room:      peer.ledger   (used by commit and recovery)
Loop:      none; everything runs in the writing thread, but `data`
Lifetime:  as long as the ledger is open
Fabric:    core/ledger/pvtdatastorage (release-2.5)

What belongs to a block is written before the block is, so it may run one block ahead of the block
files, and any number of blocks after a rollback. When a block of such a number comes, it finds here
what fits its hashes, and replaces the rest. Expiry and purges are noted with the block and take
values away from here only once the block is durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fabric_protos.codec import decode, encode
from fabric_protos.kvrwset import KvrwSet
from peer.ledger.api import MissingSet
from peer.ledger.database import open_reader, open_writer, transaction, translated

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE blocks (block INTEGER PRIMARY KEY);

CREATE TABLE data (
    block      INTEGER NOT NULL,
    tx         INTEGER NOT NULL,
    namespace  TEXT NOT NULL,
    collection TEXT NOT NULL,
    rwset      BLOB NOT NULL,
    PRIMARY KEY (block, tx, namespace, collection)
) WITHOUT ROWID;

CREATE TABLE keys (                 -- where a purge finds what a key ever held
    namespace  TEXT NOT NULL,
    collection TEXT NOT NULL,
    key_hash   BLOB NOT NULL,
    block      INTEGER NOT NULL,
    tx         INTEGER NOT NULL,
    PRIMARY KEY (namespace, collection, key_hash, block, tx)
) WITHOUT ROWID;
CREATE INDEX keys_block ON keys (block);

CREATE TABLE missing (
    block      INTEGER NOT NULL,
    tx         INTEGER NOT NULL,
    namespace  TEXT NOT NULL,
    collection TEXT NOT NULL,
    PRIMARY KEY (block, tx, namespace, collection)
) WITHOUT ROWID;

CREATE TABLE expiry (               -- kept for good: a rebuild must expire the same again
    expires    INTEGER NOT NULL,
    block      INTEGER NOT NULL,
    namespace  TEXT NOT NULL,
    collection TEXT NOT NULL,
    PRIMARY KEY (expires, block, namespace, collection)
) WITHOUT ROWID;
CREATE INDEX expiry_block ON expiry (block);

CREATE TABLE purges (               -- of blocks that may not be durable yet
    block      INTEGER NOT NULL,
    tx         INTEGER NOT NULL,
    namespace  TEXT NOT NULL,
    collection TEXT NOT NULL,
    key_hash   BLOB NOT NULL,
    PRIMARY KEY (block, tx, namespace, collection, key_hash)
) WITHOUT ROWID;
"""
BLOCK_TABLES = ("blocks", "data", "keys", "missing", "expiry", "purges")

EXPIRED = """
    WITH due AS (SELECT * FROM expiry WHERE expires > ? AND expires <= ?)
    SELECT block, namespace, collection FROM due JOIN data USING (block, namespace, collection)
    UNION
    SELECT block, namespace, collection FROM due JOIN missing USING (block, namespace, collection)
"""
WHERE_BLOCK = "block = ? AND namespace = ? AND collection = ?"
WHERE_SET = "block = ? AND tx = ? AND namespace = ? AND collection = ?"
OLDER = """
    SELECT block, tx FROM keys
    WHERE namespace = ? AND collection = ? AND key_hash = ? AND (block, tx) < (?, ?)
"""


class PrivateSet(NamedTuple):
    """One transaction's marshalled private write set in one collection."""

    tx: int
    namespace: str
    collection: str
    rwset: bytes


class Expiring(NamedTuple):
    """What a block wrote to a collection, and what a later block therefore deletes."""

    block: int
    namespace: str
    collection: str


@dataclass(slots=True)
class PrivateBatch:
    """What one block adds.

    Attributes:
        missing: tx, namespace and collection of what this peer should have and has not.
        expiry: expiring block, namespace and collection.
        purges: tx, namespace, collection and key hash.
    """

    sets: list[PrivateSet] = field(default_factory=list)
    missing: list[tuple[int, str, str]] = field(default_factory=list)
    expiry: set[tuple[int, str, str]] = field(default_factory=set)
    purges: list[tuple[int, str, str, bytes]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.sets or self.missing or self.expiry or self.purges)


class PrivateStore:
    """An open private store.

    Raises:
        LedgerStorageError: from every method, when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._translated(), ExitStack() as opened:
            self._writer = open_writer(path, SCHEMA, SCHEMA_VERSION)
            opened.callback(self._writer.close)
            self._reader = open_reader(path)
            opened.callback(self._reader.close)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def commit(self, number: int, batch: PrivateBatch) -> None:
        """Write what belongs to a block that is about to be written; durable on return."""
        with self._translated():
            left = self._writer.execute("SELECT 1 FROM blocks WHERE block = ?", (number,))
            is_there = left.fetchone() is not None
        if not is_there and not batch:
            return
        with self._translated(), transaction(self._writer):
            if is_there:
                for table in BLOCK_TABLES:
                    self._writer.execute(f"DELETE FROM {table} WHERE block = ?", (number,))
            if batch:
                self._insert(number, batch)

    def data(self, number: int) -> list[PrivateSet]:
        """Return what is held of a block. For any one thread at a time."""
        query = "SELECT tx, namespace, collection, rwset FROM data WHERE block = ?"
        with self._translated():
            return list(map(PrivateSet._make, self._reader.execute(query, (number,))))

    def missing(self, height: int) -> list[MissingSet]:
        """Return what this peer should have, of so many blocks, and has not.

        For any one thread at a time.
        """
        query = "SELECT block, tx, namespace, collection FROM missing WHERE block < ?"
        with self._translated():
            return list(map(MissingSet._make, self._reader.execute(query, (height,))))

    def expiring(self, number: int) -> list[Expiring]:
        """Return what a block deletes because its time has come."""
        query = "SELECT block, namespace, collection FROM expiry WHERE expires = ?"
        with self._translated():
            return list(map(Expiring._make, self._writer.execute(query, (number,))))

    def settle(self, number: int, *, since: int) -> None:
        """Remove what is purged, or expired after block `since`, up to a durable block."""
        with self._translated():
            purges = self._writer.execute(
                "SELECT namespace, collection, key_hash, block, tx FROM purges WHERE block <= ?",
                (number,),
            ).fetchall()
            expired = self._writer.execute(EXPIRED, (since, number)).fetchall()
        if not purges and not expired:
            return
        with self._translated(), transaction(self._writer):
            for purge in purges:
                self._purge(*purge)
            self._writer.execute("DELETE FROM purges WHERE block <= ?", (number,))
            for each in map(Expiring._make, expired):
                self._expire(each)

    def _insert(self, number: int, batch: PrivateBatch) -> None:
        write = self._writer.executemany
        self._writer.execute("INSERT INTO blocks VALUES (?)", (number,))
        write("INSERT INTO data VALUES (?, ?, ?, ?, ?)", ((number, *row) for row in batch.sets))
        write(
            "INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?)",
            (
                (row.namespace, row.collection, key_hash, number, row.tx)
                for row in batch.sets
                for key_hash in _key_hashes(row.rwset)
            ),
        )
        write("INSERT INTO missing VALUES (?, ?, ?, ?)", ((number, *row) for row in batch.missing))
        write(
            "INSERT INTO expiry VALUES (?, ?, ?, ?)",
            ((expires, number, *where) for expires, *where in batch.expiry),
        )
        write(
            "INSERT OR IGNORE INTO purges VALUES (?, ?, ?, ?, ?)",
            ((number, *row) for row in batch.purges),
        )

    def _purge(self, namespace: str, collection: str, key_hash: bytes, block: int, tx: int) -> None:
        execute, key = self._writer.execute, (namespace, collection, key_hash)
        for older in execute(OLDER, (*key, block, tx)).fetchall():
            where = (*older, namespace, collection)
            (rwset,) = execute(f"SELECT rwset FROM data WHERE {WHERE_SET}", where).fetchone()
            execute(
                f"UPDATE data SET rwset = ? WHERE {WHERE_SET}", (_without(rwset, key_hash), *where)
            )
            execute(
                "DELETE FROM keys WHERE namespace = ? AND collection = ? AND key_hash = ?"
                " AND block = ? AND tx = ?",
                (*key, *older),
            )

    def _expire(self, expired: Expiring) -> None:
        execute, (block, *where) = self._writer.execute, expired
        found = execute(f"SELECT tx, rwset FROM data WHERE {WHERE_BLOCK}", expired).fetchall()
        self._writer.executemany(
            "DELETE FROM keys WHERE namespace = ? AND collection = ? AND key_hash = ?"
            " AND block = ? AND tx = ?",
            (
                (*where, key_hash, block, tx)
                for tx, rwset in found
                for key_hash in _key_hashes(rwset)
            ),
        )
        execute(f"DELETE FROM data WHERE {WHERE_BLOCK}", expired)
        execute(f"DELETE FROM missing WHERE {WHERE_BLOCK}", expired)

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._path)


def _key_hashes(rwset: bytes) -> Iterator[bytes]:
    return (sha256(write.key.encode()).digest() for write in decode(KvrwSet, rwset).writes)


def _without(rwset: bytes, key_hash: bytes) -> bytes:
    """Return a private write set without one key, whose values nobody may have any more."""
    kept = decode(KvrwSet, rwset)
    kept.writes = [
        write for write in kept.writes if sha256(write.key.encode()).digest() != key_hash
    ]
    return encode(kept)
