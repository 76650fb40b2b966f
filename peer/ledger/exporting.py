"""Write a snapshot of a ledger, while the ledger goes on.

Room:      peer.ledger   (used by requests)
Loop:      none; runs in a worker thread
Lifetime:  one snapshot
Fabric:    core/ledger/kvledger/snapshot.go, .../txmgmt/privacyenabledstate/snapshot.go,
           common/ledger/blkstorage/blockindex.go, core/ledger/confighistory/mgr.go (release-2.5)

What it reads is one read transaction that began after its block and before the next one, so no
commit waits for it, and none is seen.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fabric_protos.codec import encode
from fabric_protos.privacyenabledstate import SnapshotRecord
from peer.ledger import durable
from peer.ledger.api import Version
from peer.ledger.blocks import version_bytes
from peer.ledger.commit import Tip
from peer.ledger.database import open_reader, translated
from peer.ledger.snapshot import height_of
from peer.ledger.snapshot_files import (
    COLLECTIONS,
    DATA,
    METADATA,
    PRIVATE_HASHES,
    PUBLIC_STATE,
    TX_IDS,
    SnapshotMetadata,
    SnapshotWriter,
    write_metadata,
    writing,
)

STATE = """
    SELECT namespace, key, value, metadata, block, tx FROM state
    WHERE instr(namespace, '$$p') = 0 ORDER BY namespace, key
"""
TRANSACTIONS = """
    SELECT tx_id FROM
        (SELECT tx_id FROM transactions UNION ALL SELECT tx_id FROM inherited_transactions)
    ORDER BY length(CAST(tx_id AS BLOB)), tx_id
"""
DEFINED = "SELECT chaincode, block, package FROM collections"
ROWS_BETWEEN_CHECKS = 1000


class Pinned(NamedTuple):
    """A ledger as it was after a block; close the connection in the end."""

    path: Path
    connection: sqlite3.Connection
    last: Tip


def pin(path: Path, last: Tip) -> Pinned:
    """Hold the databases as they are now, after their last block.

    Raises:
        LedgerStorageError: they cannot be read.
    """
    with translated(path), ExitStack() as opened:
        connection = open_reader(path)
        opened.callback(connection.close)
        connection.execute("BEGIN")
        # The read transaction begins with the first read.
        assert height_of(connection) == last.number + 1
        opened.pop_all()
    return Pinned(path, connection, last)


def export(
    pinned: Pinned, channel_id: str, directory: Path, check: Callable[[], None] = lambda: None
) -> None:
    """Write a snapshot into an empty directory; on disk afterwards.

    Args:
        check: called now and then; may raise to end it.

    Raises:
        LedgerStorageError: the ledger cannot be read.
        OSError: the files cannot be written.
    """
    hashes: dict[str, str] = {}
    with translated(pinned.path):
        _export_transactions(pinned.connection, directory, hashes, check)
        _export_collections(pinned.connection, directory, hashes)
        _export_state(pinned.connection, directory, hashes, check)
    write_metadata(directory, SnapshotMetadata(channel_id, pinned.last, hashes))
    durable.sync_directory(directory)


@dataclass(slots=True)
class _Part:
    """A file of data, opened with its first entry."""

    directory: Path
    name: str
    stack: ExitStack
    writer: SnapshotWriter | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def open(self) -> SnapshotWriter:
        if self.writer is None:
            opening = writing(self.directory / (self.name + DATA))
            self.writer = self.stack.enter_context(opening)
        return self.writer


def _export_state(
    connection: sqlite3.Connection,
    directory: Path,
    hashes: dict[str, str],
    check: Callable[[], None],
) -> None:
    with ExitStack() as stack:
        public = _Part(directory, PUBLIC_STATE, stack)
        private = _Part(directory, PRIVATE_HASHES, stack)
        for namespace, key, value, metadata, block, tx in _rows(connection, STATE, check):
            part = private if "$$h" in namespace else public
            version = version_bytes(Version(block, tx))
            record = SnapshotRecord(key=key, value=value, metadata=metadata, version=version)
            part.open().add_bytes(encode(record))
            part.counts[namespace] = part.counts.get(namespace, 0) + 1
    for part in (public, private):
        if part.writer is None:
            continue
        with writing(directory / (part.name + METADATA)) as writer:
            writer.add_number(len(part.counts))
            for namespace, count in part.counts.items():
                writer.add_bytes(namespace.encode())
                writer.add_number(count)
        hashes |= {part.name + DATA: part.writer.digest, part.name + METADATA: writer.digest}


def _export_transactions(
    connection: sqlite3.Connection,
    directory: Path,
    hashes: dict[str, str],
    check: Callable[[], None],
) -> None:
    def unique() -> Iterator[bytes]:
        last = ""  # what has no id at all is left out
        for (tx_id,) in _rows(connection, TRANSACTIONS, check):
            if tx_id != last:
                last = tx_id
                yield tx_id.encode()

    _export_counted(directory, TX_IDS, unique(), hashes)


def _export_collections(
    connection: sqlite3.Connection, directory: Path, hashes: dict[str, str]
) -> None:
    entries = sorted(
        (collections_key(chaincode, block), package)
        for chaincode, block, package in connection.execute(DEFINED)
    )
    parts = (part for entry in entries for part in entry)
    _export_counted(directory, COLLECTIONS, parts, hashes, bytes_each=2)


def collections_key(chaincode: str, block: int) -> bytes:
    """Return the key that the history of collections has for a chaincode; later blocks first."""
    return f"slscc\0{chaincode}~collection".encode() + (2**64 - 1 - block).to_bytes(8, "big")


def _export_counted(
    directory: Path,
    name: str,
    entries: Iterable[bytes],
    hashes: dict[str, str],
    *,
    bytes_each: int = 1,
) -> None:
    """Write entries of one or more byte strings each, and how many there are."""
    count = 0
    with ExitStack() as stack:
        part = _Part(directory, name, stack)
        for entry in entries:
            part.open().add_bytes(entry)
            count += 1
    if part.writer is None:
        return
    with writing(directory / (name + METADATA)) as writer:
        writer.add_number(count // bytes_each)
    hashes |= {name + DATA: part.writer.digest, name + METADATA: writer.digest}


def _rows(
    connection: sqlite3.Connection, query: str, check: Callable[[], None]
) -> Iterator[tuple[Any, ...]]:
    for index, row in enumerate(connection.execute(query)):
        if index % ROWS_BETWEEN_CHECKS == 0:
            check()
        yield row
