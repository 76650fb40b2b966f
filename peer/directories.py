"""Where a peer keeps its files.

Room:      peer.directories   (imports peer.errors; used by ground, assembly, orderer and cli)
Loop:      none
Lifetime:  peer
Fabric:    none
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from peer.errors import ConfigError, LedgerStorageError

LEDGERS = "ledgersData"
"""Name of the directory of ledgers in the data directory."""
SNAPSHOTS = "snapshots"
"""Name of the directory of snapshots there, unless it is configured."""

PREFIX = "triopeer-"
_LOCK = "lock"
_MAX_TEMPORARY_BYTES = 107 - len(f"/{PREFIX}12345678/1234567.sock")
"""The kernel takes 107 bytes as the path of a Unix socket."""


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Hold a private temporary directory, and remove those that killed peers left.

    A lock tells the one from the other: it ends with the process that holds it.

    Raises:
        ConfigError: the place for temporary files cannot be used, or its path is too long for the
            sockets of chaincodes.
    """
    try:
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) > _MAX_TEMPORARY_BYTES:
            reason = f"longer than {_MAX_TEMPORARY_BYTES} bytes, too long for sockets in it"
            raise ConfigError([f"TMPDIR {parent}: {reason}"])
        _remove_abandoned(Path(parent))
        path, lock = _create()
    except OSError as exc:
        raise ConfigError([f"TMPDIR: no temporary directory can be made: {exc}"]) from exc
    try:
        yield path
    finally:
        shutil.rmtree(path)
        os.close(lock)


def private_directory(path: Path) -> Path:
    """Return a directory, made if need be, readable by the peer's user alone.

    Raises:
        LedgerStorageError: there is none and none can be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise LedgerStorageError(str(path), f"the directory cannot be used: {exc}") from exc
    return path


def _create() -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        if _locked(lock) and os.fstat(lock).st_nlink:
            return path, lock
        os.close(lock)  # taken for abandoned in the moment before the lock, and removed


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # removed by another peer, or not ours
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid() and _locked(lock):
                    shutil.rmtree(path)
            finally:
                os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
