"""The state at one height, as whoever began there reads it.

Room:      peer.ledger   (imports indexes, peer.errors; used by store, simulator, planning, commit)
Loop:      none; reads are made inline on the event loop's thread
Lifetime:  until its last user released it
Fabric:    core/ledger/kvledger/txmgmt/statedb (release-2.5)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from peer.ledger import indexes
from peer.ledger.api import Version
from peer.ledger.database import failure, translated
from peer.ledger.indexes import StoredIndex

GET = "SELECT value, metadata, block, tx FROM state WHERE namespace = ? AND key = ?"
IS_MARKED = """
    SELECT EXISTS (SELECT 1 FROM state INDEXED BY marked WHERE namespace = ? AND metadata != x'')
"""
SCAN = "SELECT key, value, block, tx FROM state WHERE namespace = ? AND key >= ?"
SCAN_TO_THE_LAST = f"{SCAN} ORDER BY key LIMIT ?"
SCAN_TO_END = f"{SCAN} AND key < ? ORDER BY key LIMIT ?"
SCAN_DOCUMENTS = """
    SELECT key, CASE WHEN instr(value, ?) OR instr(value, x'5c') THEN value END, block, tx
    FROM state WHERE namespace = ? AND key >= ? ORDER BY key LIMIT ?
"""


class Stored(NamedTuple):
    """What the state holds under a key."""

    value: bytes
    metadata: bytes
    version: Version


ScannedRow = tuple[bytes, bytes, int, int]
"""One row of a range: the bytes its key is ordered by, the value, block and transaction."""


class DocumentRow(NamedTuple):
    """One row of a search through JSON; a value of None cannot be what is looked for."""

    key: bytes
    value: bytes | None
    block: int
    tx: int


def private_namespace(namespace: str, collection: str) -> str:
    """Return the namespace of a collection's values."""
    return f"{namespace}$$p{collection}"


def hash_namespace(namespace: str, collection: str) -> str:
    """Return the namespace of a collection's hashes."""
    return f"{namespace}$$h{collection}"


KNOWN_ROWS = 4096
KNOWN_BYTES = 1024
"""How many small rows a snapshot keeps at most, and what small is, with the key."""


class Snapshot:
    """The state at one height, shared by everyone who began there.

    What is read is kept as long as the snapshot is: a block is judged by reading most keys three
    times, and every simulation reads the definition of its chaincode.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, retire: Callable[[Snapshot], None]
    ) -> None:
        self._path = path
        self._retire = retire
        self.connection = connection
        self.users = 0
        self._known: dict[tuple[str, bytes], Stored | None] = {}
        self._marked: dict[str, bool] = {}
        connection.execute("BEGIN")
        try:
            # The read transaction begins with the first read, so this pins the height.
            self.height = height_of(connection)
        except BaseException:
            connection.close()
            raise

    def get(self, namespace: str, key: bytes) -> Stored | None:
        """Return what is stored under a key, None when it does not exist."""
        where = (namespace, key)
        if where in self._known:
            return self._known[where]
        try:
            row = self.connection.execute(GET, where).fetchone()
        except sqlite3.Error as exc:
            raise failure(self._path, exc) from exc
        found = stored(row)
        size = len(key) if found is None else len(key) + len(found.value) + len(found.metadata)
        if size <= KNOWN_BYTES:
            if len(self._known) == KNOWN_ROWS:
                self._known.clear()
            self._known[where] = found
        return found

    def scan(self, namespace: str, start: bytes, end: bytes, limit: int) -> list[ScannedRow]:
        """Return up to `limit` rows with start <= key < end; an empty end is no bound."""
        try:
            if end:
                cursor = self.connection.execute(SCAN_TO_END, (namespace, start, end, limit))
            else:
                cursor = self.connection.execute(SCAN_TO_THE_LAST, (namespace, start, limit))
            rows: list[ScannedRow] = cursor.fetchall()
        except sqlite3.Error as exc:
            raise failure(self._path, exc) from exc
        return rows

    def is_marked(self, namespace: str) -> bool:
        """Tell whether any key of a namespace has metadata; few namespaces have such keys."""
        marked = self._marked.get(namespace)
        if marked is None:
            try:
                (found,) = self.connection.execute(IS_MARKED, (namespace,)).fetchone()
            except sqlite3.Error as exc:
                raise failure(self._path, exc) from exc
            self._marked[namespace] = marked = bool(found)
        return marked

    def metadata(self, namespace: str, key: bytes) -> bytes:
        """Return the metadata of a key, empty when it does not exist."""
        found = self.get(namespace, key) if self.is_marked(namespace) else None
        return b"" if found is None else found.metadata

    def scan_documents(
        self, namespace: str, start: bytes, literal: str, limit: int
    ) -> list[DocumentRow]:
        """Return up to `limit` rows from `start` on; JSON with no such string is left out of them.

        A string stands in JSON as it is, or there is a backslash somewhere.
        """
        # A lone surrogate cannot stand as it is.
        needle = f'"{literal}"'.encode(errors="surrogatepass") if literal else b""
        arguments = (needle, namespace, start, limit)
        try:
            rows = self.connection.execute(SCAN_DOCUMENTS, arguments).fetchall()
        except sqlite3.Error as exc:
            raise failure(self._path, exc) from exc
        return list(map(DocumentRow._make, rows))

    def find_indexes(self, namespace: str) -> list[StoredIndex]:
        """Return the indexes of a namespace."""
        with translated(self._path):
            return indexes.indexes_of(self.connection, namespace)

    def index_keys(
        self, index: int, start: tuple[bytes, bytes], end: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` positions and keys of an index, in their order.

        Args:
            start: the least position and key.
            end: beyond the last position.
        """
        with translated(self._path):
            found = self.connection.execute(indexes.KEYS, (index, *start, end, limit))
            return found.fetchall()

    def release(self) -> None:
        """Give up one use; the last one ends the read transaction of an outdated snapshot."""
        self.users -= 1
        self._retire(self)


def stored(row: tuple[bytes, bytes, int, int] | None) -> Stored | None:
    """Return a row of `GET`."""
    return None if row is None else Stored(row[0], row[1], Version(row[2], row[3]))


def height_of(connection: sqlite3.Connection) -> int:
    """Return the number of blocks that a connection sees."""
    (last,) = connection.execute("SELECT max(number) FROM blocks").fetchone()
    return 0 if last is None else int(last) + 1
