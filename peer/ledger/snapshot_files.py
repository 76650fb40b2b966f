"""The files of a snapshot: Fabric's names, formats and hashes.

Room:      peer.ledger   (used by exporting and joining)
Loop:      none; runs in a worker thread
Lifetime:  none
Fabric:    common/ledger/snapshot/file.go, core/ledger/kvledger/snapshot.go (release-2.5)

A file begins with a byte that tells its format; numbers are varints, bytes follow their length.
What has no entry has no file. One JSON file names channel, last block and the hash of every file,
so its own hash stands for the whole: two peers at the same block have the same one.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fabric_protos.wire import varint_bytes
from peer.errors import SnapshotRefused
from peer.ledger import durable
from peer.ledger.commit import Tip
from peer.ledger.home import CHANNEL_ID

PUBLIC_STATE = "public_state"
PRIVATE_HASHES = "private_state_hashes"
TX_IDS = "txids"
COLLECTIONS = "confighistory"
PARTS = (PUBLIC_STATE, PRIVATE_HASHES, TX_IDS, COLLECTIONS)
DATA, METADATA = ".data", ".metadata"
SIGNABLE = "_snapshot_signable_metadata.json"
ADDITIONAL = "_snapshot_additional_metadata.json"

FORMAT = b"\x01"
STATE_DB_TYPE = "SimpleKeyValueDB"
HASH_BYTES = 32
CHUNK_BYTES = 1 << 20
MAX_METADATA_BYTES = 1 << 20
MAX_NUMBER_BYTES = 10


class SnapshotMetadata(NamedTuple):
    """What a snapshot says of itself.

    Attributes:
        last: the last block it stands for.
        hashes: file name to SHA-256, of every file but those of the metadata.
    """

    channel_id: str
    last: Tip
    hashes: Mapping[str, str]


class SnapshotWriter:
    """Writes one file, and its hash; opened by `writing`.

    Attributes:
        digest: SHA-256 as hexadecimal, once the file is complete.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = sha256()
        self.digest = ""
        self._write(FORMAT)

    def add_number(self, number: int) -> None:
        """Append a number."""
        self._write(varint_bytes(number))

    def add_bytes(self, data: bytes) -> None:
        """Append bytes."""
        self._write(varint_bytes(len(data)) + data)

    def finish(self) -> None:
        """Wait until everything is on disk."""
        self._file.flush()
        durable.sync(self._file.fileno())
        self.digest = self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)


@contextmanager
def writing(path: Path) -> Iterator[SnapshotWriter]:
    """Hold a new file open for writing; it is on disk afterwards.

    Raises:
        OSError: it exists, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o444), "wb", CHUNK_BYTES) as file:
        writer = SnapshotWriter(file)
        yield writer
        writer.finish()


class SnapshotReader:
    """Reads one file; opened by `reading`.

    Raises:
        SnapshotRefused: from every method: the file holds something else.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._left = os.fstat(file.fileno()).st_size
        if self._take(1) != FORMAT:
            raise self.refused("its format is unknown")

    def read_number(self) -> int:
        """Read a number."""
        value = 0
        for shift in range(0, 7 * MAX_NUMBER_BYTES, 7):
            (byte,) = self._take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise self.refused("a number is too long")
        return value

    def read_bytes(self) -> bytes:
        """Read bytes."""
        return self._take(self.read_number())

    def read_text(self) -> str:
        """Read bytes that are UTF-8."""
        try:
            return self.read_bytes().decode()
        except UnicodeDecodeError as exc:
            raise self.refused(f"a name is no text: {exc}") from exc

    def end(self) -> None:
        """Check that nothing follows."""
        if self._left:
            raise self.refused(f"{self._left} bytes follow the last entry")

    def refused(self, reason: str) -> SnapshotRefused:
        """Return the error that the file is not what it must be."""
        return SnapshotRefused(str(self._path), reason)

    def _take(self, size: int) -> bytes:
        if size > self._left:
            raise self.refused("it is cut short")
        self._left -= size
        return self._file.read(size)


@contextmanager
def reading(path: Path) -> Iterator[SnapshotReader]:
    """Hold a file open for reading.

    Raises:
        SnapshotRefused: it cannot be read, or its format is unknown.
    """
    try:
        file = path.open("rb")
    except OSError as exc:
        raise SnapshotRefused(str(path), str(exc)) from exc
    with file:
        yield SnapshotReader(path, file)


def write_metadata(directory: Path, metadata: SnapshotMetadata) -> None:
    """Write both files of the metadata; on disk afterwards.

    Raises:
        OSError: they cannot be written.
    """
    last = metadata.last
    signable = _json(
        {
            "channel_name": metadata.channel_id,
            "last_block_number": last.number,
            "last_block_hash": last.hash.hex(),
            "previous_block_hash": last.previous_hash.hex(),
            "snapshot_files_raw_hashes": dict(sorted(metadata.hashes.items())),
            "state_db_type": STATE_DB_TYPE,
        }
    )
    additional = _json(
        {
            "snapshot_hash": sha256(signable).hexdigest(),
            "last_block_commit_hash": last.commit_hash.hex(),
        }
    )
    for name, content in ((SIGNABLE, signable), (ADDITIONAL, additional)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(directory / name, flags, 0o444), "wb") as file:
            file.write(content)
            file.flush()
            durable.sync(file.fileno())


def read_metadata(directory: Path) -> SnapshotMetadata:
    """Return what a snapshot says of itself, checked as far as it goes without its other files.

    Raises:
        SnapshotRefused: there is no such snapshot, or its metadata are damaged.
    """
    signable_json, signable = _read(directory / SIGNABLE)
    _, additional = _read(directory / ADDITIONAL)
    path = str(directory / SIGNABLE)
    try:
        if sha256(signable_json).hexdigest() != additional["snapshot_hash"]:
            raise SnapshotRefused(path, f"its hash is not the one in {ADDITIONAL}")
        last = Tip(
            operator.index(signable["last_block_number"]),
            bytes.fromhex(signable["last_block_hash"]),
            bytes.fromhex(signable["previous_block_hash"]),
            bytes.fromhex(additional["last_block_commit_hash"]),
        )
        hashes = dict(signable["snapshot_files_raw_hashes"])
        metadata = SnapshotMetadata(str(signable["channel_name"]), last, hashes)
    except (KeyError, TypeError, ValueError) as exc:
        raise SnapshotRefused(path, f"what it must tell is missing or malformed: {exc!r}") from exc
    _check(directory, metadata)
    return metadata


def verify_files(
    directory: Path, metadata: SnapshotMetadata, check: Callable[[], None] = lambda: None
) -> None:
    """Compare every file with its hash.

    Args:
        check: called now and then; may raise to end it.

    Raises:
        SnapshotRefused: one is missing or differs.
    """
    for name, expected in metadata.hashes.items():
        path, digest = directory / name, sha256()
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    check()
        except OSError as exc:
            raise SnapshotRefused(str(path), exc.strerror or str(exc)) from exc
        if digest.hexdigest() != expected:
            reason = f"hash mismatch: expected {expected}, actual {digest.hexdigest()}"
            raise SnapshotRefused(str(path), reason)


def _check(directory: Path, metadata: SnapshotMetadata) -> None:
    """
    Raises:
        SnapshotRefused: the metadata tell of something that can be no snapshot.
    """
    last, path = metadata.last, str(directory / SIGNABLE)
    if not CHANNEL_ID.fullmatch(metadata.channel_id):
        raise SnapshotRefused(path, f"{metadata.channel_id!r} is no channel")
    if not 0 <= last.number < 1 << 63:
        raise SnapshotRefused(path, f"{last.number!r} is no block")
    lengths = (len(last.hash), len(last.previous_hash), len(last.commit_hash))
    if lengths[0] != HASH_BYTES or not {*lengths[1:]} <= {0, HASH_BYTES}:
        raise SnapshotRefused(path, "a hash has another length than 32 bytes")
    known = {part + suffix for part in PARTS for suffix in (DATA, METADATA)}
    told = set(metadata.hashes)
    if unknown := told - known:
        raise SnapshotRefused(path, f"{min(unknown)} is no file of a snapshot")
    for part in PARTS:
        pair = {part + DATA, part + METADATA}
        if 0 < len(pair & told) < len(pair):
            raise SnapshotRefused(path, f"it names only one of {' and '.join(sorted(pair))}")
    for name in sorted(known - told):
        if (directory / name).exists():
            raise SnapshotRefused(str(directory / name), "the metadata do not name it")


def _read(path: Path) -> tuple[bytes, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_METADATA_BYTES + 1)
        if len(content) > MAX_METADATA_BYTES:
            raise SnapshotRefused(str(path), "it is too large")
        return content, json.loads(content)
    except OSError as exc:
        raise SnapshotRefused(str(path), exc.strerror or str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise SnapshotRefused(str(path), f"it is no JSON: {exc}") from exc


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, indent=4).encode()
