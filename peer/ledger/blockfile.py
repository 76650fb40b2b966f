"""Keep blocks in append-only files of Fabric's format, and read those of any peer.

Room:      peer.ledger   (imports fabric_protos; used by kvledger and whoever audits a ledger)
Loop:      none; everything blocks, so it runs in a worker thread
Lifetime:  as long as the ledger is open
Fabric:    common/ledger/blkstorage/{blockfile_mgr,block_serialization}.go (release-2.5)

A chain is a directory of files ``blockfile_000000``, ``blockfile_000001``, …, each a sequence of
records: the length of a block as a varint, then the block. A block never spans files. What follows
the last whole record of the last file is a torn tail, left by a peer that was killed while it
wrote; it is cut off when the peer continues.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import NamedTuple

from fabric_protos.common import Block, BlockData, BlockHeader, BlockMetadata
from fabric_protos.errors import DecodeError
from fabric_protos.wire import varint, varint_bytes
from peer.errors import LedgerCorrupt, LedgerFull, LedgerStorageError
from peer.ledger import durable
from peer.ledger.blocks import envelopes_of, header_of

FILE_NAME = re.compile(r"blockfile_(\d{6,})")
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_VARINT_BYTES = 10


class Position(NamedTuple):
    """A place between two records."""

    file: int
    offset: int


class Record(NamedTuple):
    """A block and where it is stored."""

    start: Position
    end: Position
    block: Block


BEGINNING = Position(0, 0)


class BlockFiles:
    """The block files of one chain. Opening reads nothing and creates nothing.

    Args:
        path: their directory, or a single block file, which is then a chain of its own.
        max_file_bytes: a block that would make a file longer goes into the next one.

    Raises:
        LedgerStorageError: from every method: the files cannot be read or written.
        LedgerCorrupt: likewise: they are damaged elsewhere than at the very end.
    """

    def __init__(self, path: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.path = path
        self._max_file_bytes = max_file_bytes
        self._end: Position | None = None
        self._descriptor = -1

    def scan(self, start: Position = BEGINNING) -> Iterator[Record]:
        """Yield the blocks from a position on, in order, up to the end or a torn tail."""
        numbers = self._numbers()
        for number in numbers:
            if number < start.file:
                continue
            offset = start.offset if number == start.file else 0
            yield from self._scan_file(number, offset, may_be_torn=number == numbers[-1])

    def read(self, start: Position) -> Record:
        """Return the block that is stored at a position.

        Raises:
            LedgerCorrupt: there is no whole record.
        """
        for record in self._scan_file(start.file, start.offset, may_be_torn=False):
            return record
        raise LedgerCorrupt(str(self._file(start.file)), f"no block at byte {start.offset}")

    def torn_bytes(self, end: Position) -> int:
        """Return how much follows a position, such as the end of the last record scanned."""
        with self._translated():
            sizes = {number: self._file(number).stat().st_size for number in self._numbers()}
        return sum(
            size - (end.offset if number == end.file else 0)
            for number, size in sizes.items()
            if number >= end.file
        )

    def resume(self, end: Position) -> None:
        """Make a position the end, cutting off whatever follows it, and get ready to append."""
        if self.path.is_file():
            raise LedgerStorageError(str(self.path), "a single block file is only read")
        with self._translated():
            for number in reversed(self._numbers()):
                if number > end.file:
                    self._file(number).unlink()
                    # The next one must not be gone before it, or there would be a gap.
                    durable.sync_directory(self.path)
            self._open(end.file)
            durable.sync_directory(self.path)
            durable.sync_directory(self.path.parent)
            self._cut(end)

    def append(self, block: Block) -> Position:
        """Append a block and return its position when it is on disk.

        Raises:
            LedgerFull: there is no room; nothing was appended and it can be tried again.
            LedgerStorageError: likewise. Where the file may hold something of the block, every
                further call is refused until the ledger is opened again.
        """
        content = encode_block(block)
        record = varint_bytes(len(content)) + content
        start = self._take_end()
        with self._translated():
            if start.offset and start.offset + len(record) > self._max_file_bytes:
                start = Position(start.file + 1, 0)
                self._open(start.file)
                durable.sync_directory(self.path)
            try:
                _write(self._descriptor, record)
            except OSError:
                self._cut(start)
                raise
            durable.sync(self._descriptor)
        self._end = Position(start.file, start.offset + len(record))
        return start

    def cut(self, end: Position) -> None:
        """Take back the last `append`, which began at `end`."""
        self._take_end()
        with self._translated():
            self._cut(end)

    def close(self) -> None:
        """Close what `resume` opened. Idempotent."""
        self._end = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take_end(self) -> Position:
        """Return the end; until something succeeded, nobody knows where the next one is."""
        end, self._end = self._end, None
        if end is None:
            reason = "closed, or a write failed half way; open the ledger again"
            raise LedgerStorageError(str(self.path), reason)
        return end

    def _cut(self, end: Position) -> None:
        os.ftruncate(self._descriptor, end.offset)
        durable.sync(self._descriptor)
        self._end = end

    def _open(self, number: int) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._file(number), flags, 0o600)
        self.close()
        self._descriptor = descriptor

    def _file(self, number: int) -> Path:
        return self.path if self.path.is_file() else self.path / f"blockfile_{number:06}"

    def _numbers(self) -> list[int]:
        """Return the numbers of the files there are, which must have no gap."""
        if self.path.is_file():
            return [0]
        with self._translated():
            names = [FILE_NAME.fullmatch(name) for name in os.listdir(self.path)]
        numbers = sorted(int(name[1]) for name in names if name)
        for expected, number in enumerate(numbers):
            if number != expected:
                raise LedgerCorrupt(str(self._file(expected)), "the file is missing")
        return numbers

    def _scan_file(self, number: int, offset: int, *, may_be_torn: bool) -> Iterator[Record]:
        path = self._file(number)
        with self._translated(), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            while offset < size:
                head = file.read(MAX_VARINT_BYTES)
                # A file system may have made the file longer without its content.
                if may_be_torn and not any(head) and not any(file.read()):
                    return
                try:
                    length, begin = _length(head)
                    end = offset + begin + length
                    if end > size:
                        if may_be_torn:
                            return
                        raise DecodeError("cut short")
                    file.seek(offset + begin)
                    block = decode_block(file.read(length))
                except DecodeError as exc:
                    raise LedgerCorrupt(
                        str(path), f"what is at byte {offset} is no block: {exc}"
                    ) from exc
                yield Record(Position(number, offset), Position(number, end), block)
                file.seek(end)
                offset = end

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.errno in (ENOSPC, EDQUOT):
                reason = f"{exc.strerror}; free some space and commit again"
                raise LedgerFull(str(self.path), reason) from exc
            raise LedgerStorageError(str(self.path), str(exc)) from exc


def encode_block(block: Block) -> bytes:
    """Return the stored form of a block, which is not its protobuf encoding."""
    header = header_of(block)
    metadata = [] if block.metadata is None else block.metadata.metadata
    parts = [varint_bytes(header.number)]
    _add(parts, header.data_hash, header.previous_hash)
    for entries in (envelopes_of(block), metadata):
        parts.append(varint_bytes(len(entries)))
        _add(parts, *entries)
    return b"".join(parts)


def decode_block(data: bytes) -> Block:
    """Return a block from its stored form.

    Raises:
        DecodeError: the bytes are no block, or more than one.
    """
    try:
        number, at = _varint(data, 0)
        data_hash, at = _bytes(data, at)
        previous_hash, at = _bytes(data, at)
        envelopes, at = _list(data, at)
        metadata, at = _list(data, at)
    except IndexError:
        raise DecodeError("the block is cut short") from None
    if at != len(data):
        raise DecodeError(f"{len(data) - at} bytes follow the block")
    return Block(
        header=BlockHeader(number=number, previous_hash=previous_hash, data_hash=data_hash),
        data=BlockData(data=envelopes),
        metadata=BlockMetadata(metadata=metadata),
    )


def _add(parts: list[bytes], *values: bytes) -> None:
    for value in values:
        parts += (varint_bytes(len(value)), value)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    return (first, at + 1) if first < 0x80 else varint(first, data, at + 1)


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _varint(data, at)
    if at + size > len(data):
        raise IndexError
    return data[at : at + size], at + size


def _list(data: bytes, at: int) -> tuple[list[bytes], int]:
    count, at = _varint(data, at)
    if count > len(data) - at:  # each takes a byte at least
        raise IndexError
    values = []
    for _ in range(count):
        value, at = _bytes(data, at)
        values.append(value)
    return values, at


def _length(head: bytes) -> tuple[int, int]:
    """Return a record's length and the size of the varint that tells it."""
    try:
        return _varint(head, 0)
    except IndexError:  # the varint itself is cut short
        return sys.maxsize, 0


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
