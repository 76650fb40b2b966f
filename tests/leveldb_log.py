"""Read what a LevelDB database holds as long as it fits into its write-ahead log.

Room:      tests

The databases of the recorded ledgers are that small: they have no tables yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 32 * 1024
HEADER_BYTES = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_log(directory: Path) -> dict[bytes, bytes]:
    """Return the keys and values that a database's logs leave."""
    assert not list(directory.glob("*.ldb")), "the database has tables"
    found: dict[bytes, bytes] = {}
    for path in sorted(directory.glob("*.log")):
        for batch in _records(path.read_bytes()):
            _apply(batch, found)
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log, put together of their fragments."""
    at, whole = 0, b""
    while at + HEADER_BYTES <= len(data):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if left < HEADER_BYTES or not kind:  # padding
            at += left
            continue
        at += HEADER_BYTES
        whole = data[at : at + size] if kind in (FULL, FIRST) else whole + data[at : at + size]
        at += size
        if kind in (FULL, LAST):
            yield whole


def _apply(batch: bytes, found: dict[bytes, bytes]) -> None:
    at = 12  # sequence number and count
    while at < len(batch):
        is_put = batch[at]
        key, at = _bytes(batch, at + 1)
        if is_put:
            found[key], at = _bytes(batch, at)
        else:
            found.pop(key, None)


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size = shift = 0
    while True:
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return data[at : at + size], at + size
