"""Read what a LevelDB database holds as long as it fits into its write-ahead log.

Room:      tests

The databases of the recorded ledgers are that small: they have no tables yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fabric_protos.wire import varint

State = dict[tuple[str, bytes], tuple[bytes, bytes, bytes]]
"""Namespace and key to version, value and metadata."""

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


def read_state(ledger: Path, channel_id: str) -> State:
    """Return a channel's state in a peer's ledger directory."""
    state: State = {}
    prefix = channel_id.encode() + b"\0d"
    for key, value in read_log(ledger / "stateLeveldb").items():
        if key.startswith(prefix):
            namespace, _, key = key[len(prefix) :].partition(b"\0")
            fields = dict.fromkeys((1, 2, 3), b"") | dict(_chunks(value))
            state[namespace.decode(), key] = (fields[1], fields[2], fields[3])
    return state


def _chunks(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the fields of a message that has bytes only."""
    at = 0
    while at < len(message):
        tag, first = message[at], message[at + 1]
        size, at = varint(first, message, at + 2) if first > 0x7F else (first, at + 2)
        yield tag >> 3, message[at : at + size]
        at += size


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
