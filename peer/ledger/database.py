"""Open the SQLite files of a ledger and name what is wrong with them.

Room:      peer.ledger   (imports peer.errors; used by store, private and transient)
Loop:      none
Lifetime:  a connection as long as whoever opened it
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from peer.errors import LedgerCorrupt, LedgerFull, LedgerLocked, LedgerStorageError
from peer.ledger import durable

LOCK_WAIT_S = 5.0
ROWS_AT_ONCE = 50
"""Rows that one statement inserts where there are many."""


def open_writer(path: Path, schema: str, version: int, remedy: str = "") -> sqlite3.Connection:
    """Open a file for writing, with its tables; every commit is on disk when it returns.

    Args:
        remedy: what to do where it has the tables of another version.

    Raises:
        LedgerCorrupt: the file has the tables of another version.
        sqlite3.Error: SQLite refuses.
    """
    connection = _connect(path, LOCK_WAIT_S)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            connection.executescript(
                f"BEGIN IMMEDIATE;{schema};PRAGMA user_version = {version};COMMIT;"
            )
        elif found != version:
            reason = f"its schema has version {found}, this peer's {version}"
            reason += f"; {remedy}" if remedy else ""
            raise LedgerCorrupt(str(path), reason)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a file for reading on the event loop, where a writer never blocks it."""
    connection = _connect(path, 0)
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all or nothing; on disk afterwards where the connection is synchronous."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        durable.commit(connection)
    except BaseException:
        # SQLite has already rolled back after some errors, such as a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def insert_all(
    connection: sqlite3.Connection,
    statement: str,
    rows: Iterable[tuple[Any, ...]],
    *shared: object,
    width: int,
) -> None:
    """Insert many rows, in half the time that one statement for each takes.

    Bytes are best given as `bytearray`: Python looks for an adapter of each value of `bytes`.

    Args:
        statement: INSERT from SELECT, up to FROM; the values of a row are ``column1`` and so on.
        shared: what all rows have in common, for the placeholders of the statement.
        width: values of one row.
    """
    row = f"({', '.join('?' * width)})"
    size, values = width * ROWS_AT_ONCE, chain.from_iterable(rows)
    while len(batch := tuple(islice(values, size))) == size:
        many = ", ".join([row] * ROWS_AT_ONCE)
        connection.execute(f"{statement} FROM (VALUES {many})", (*shared, *batch))
    rest = ((*shared, *each) for each in zip(*[iter(batch)] * width, strict=True))
    connection.executemany(f"{statement} FROM (VALUES {row})", rest)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise the peer's errors for SQLite's."""
    try:
        yield
    except sqlite3.Error as exc:
        raise failure(path, exc) from exc


def failure(path: Path, exc: sqlite3.Error) -> LedgerStorageError:
    """Return the peer's error for one of SQLite's."""
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
