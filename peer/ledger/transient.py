"""Hold the private data of endorsed transactions until a block brings them.

Room:      peer.ledger   (written by the endorser through the ledger, read by commit)
Loop:      none; `get` is a point read, the rest runs in a worker thread
Lifetime:  as long as the ledger is open
Fabric:    core/transientstore (release-2.5)

What is in here may be lost with the machine: other members have it too, and the block is committed
either way. So nothing waits for the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from threading import Lock

from peer.ledger.database import open_reader, open_writer, transaction, translated

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE transient (tx_id TEXT NOT NULL, height INTEGER NOT NULL, private BLOB NOT NULL);
CREATE INDEX transient_tx_id ON transient (tx_id);
CREATE INDEX transient_height ON transient (height);
"""
MAX_BLOCK_RETENTION = 1000
"""After so many blocks a transaction that no block brought is given up."""


class TransientStore:
    """An open transient store.

    Raises:
        LedgerStorageError: from every method, when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = Lock()
        with self._translated(), ExitStack() as opened:
            self._writer = open_writer(path, SCHEMA, SCHEMA_VERSION)
            opened.callback(self._writer.close)
            self._writer.execute("PRAGMA synchronous = NORMAL")
            self._reader = open_reader(path)
            opened.callback(self._reader.close)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def persist(self, tx_id: str, height: int, private: bytes) -> None:
        """Keep a transaction's ``TxPvtReadWriteSet``, endorsed at some height."""
        with self._writing, self._translated():
            self._writer.execute("INSERT INTO transient VALUES (?, ?, ?)", (tx_id, height, private))

    def get(self, tx_id: str) -> list[bytes]:
        """Return all that was kept for a transaction, oldest first."""
        query = "SELECT private FROM transient WHERE tx_id = ? ORDER BY rowid"
        with self._translated():
            return [private for (private,) in self._reader.execute(query, (tx_id,))]

    def purge(self, tx_ids: Iterable[str], height: int) -> None:
        """Drop what a new height makes useless: committed transactions, and now and then old ones.

        Fabric's rule for the old ones: every `MAX_BLOCK_RETENTION` blocks, all that are as old.
        """
        with self._writing, self._translated():
            if self._writer.execute("SELECT 1 FROM transient LIMIT 1").fetchone() is None:
                return
            with transaction(self._writer):
                self._writer.executemany(
                    "DELETE FROM transient WHERE tx_id = ?", ((tx_id,) for tx_id in tx_ids)
                )
                if height % MAX_BLOCK_RETENTION == 0:
                    oldest = height - MAX_BLOCK_RETENTION
                    self._writer.execute("DELETE FROM transient WHERE height < ?", (oldest,))

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._path)
