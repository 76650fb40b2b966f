"""The calls after which something is on disk.

Room:      peer.ledger   (used by blockfile and database)
Loop:      none; they block, so they run in a worker thread
Lifetime:  none

Everything durable in a ledger becomes so in here and nowhere else, so that a test can end the
process before and after each of these points.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


def sync(descriptor: int) -> None:
    """Wait until what was written to a file is on disk."""
    os.fsync(descriptor)


def sync_directory(directory: Path) -> None:
    """Wait until the names of new and removed files are on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def commit(connection: sqlite3.Connection) -> None:
    """End a transaction; with ``synchronous = FULL`` it is on disk afterwards."""
    connection.execute("COMMIT")
