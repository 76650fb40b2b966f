"""Summarise the results of a range query as a Merkle tree.

Room:      peer.ledger   (imports fabric_protos; used by rwset and validation)
Loop:      none
Lifetime:  one range query
Fabric:    core/ledger/kvledger/txmgmt/rwsetutil/query_results_helper.go (release-2.5)
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from hashlib import sha256

from fabric_protos.codec import decode
from fabric_protos.kvrwset import QueryReads, QueryReadsMerkleSummary
from fabric_protos.wire import delimited, varint_bytes

MAX_DEGREE = 50
"""Children of a node in the summaries that this peer records."""


class UnusableSummary(Exception):
    """A summary in a read set has a degree from which no tree can be built."""


class RangeReads:
    """Reads of one range query, in order: kept as they are up to `max_degree`, hashed beyond.

    Memory grows with the logarithm of the number of reads.

    Raises:
        UnusableSummary: `max_degree`, which a foreign read set may choose, is below 2.
    """

    def __init__(self, max_degree: int = MAX_DEGREE) -> None:
        if max_degree < 2:
            raise UnusableSummary(f"max_degree {max_degree} of a range query is below 2")
        self._max_degree = max_degree
        self._pending: list[bytes] = []  # joined, they are a `QueryReads`
        self._levels: defaultdict[int, list[bytes]] = defaultdict(list)
        self._max_level = 1

    def add(self, key: bytes, block: int, tx: int) -> None:
        """Append one read of a key, and of what this transaction wrote there."""
        read = delimited(b"\x0a", key) + version_field(block, tx)
        self._pending.append(delimited(b"\x0a", read))
        if len(self._pending) > self._max_degree:
            self._flush()

    def done(self) -> QueryReads | QueryReadsMerkleSummary:
        """Return the reads, or their summary when there are more than `max_degree`. Call once."""
        if not self._levels:
            return decode(QueryReads, b"".join(self._pending))
        if self._pending:
            self._flush()
        level = 1
        while level < self._max_level:
            self._lift(level)
            level += 1
        if len(self._levels[level]) > self._max_degree:
            self._lift(level)
            level += 1
        return QueryReadsMerkleSummary(
            max_degree=self._max_degree, max_level=level, max_level_hashes=self._levels[level]
        )

    def _flush(self) -> None:
        """Turn the pending reads into a leaf; every level that overflows becomes one node above."""
        self._levels[1].append(sha256(b"".join(self._pending)).digest())
        self._pending = []
        level = 1
        while len(self._levels[level]) > self._max_degree:
            self._lift(level)
            level += 1
        self._max_level = max(self._max_level, level)

    def _lift(self, level: int) -> None:
        """Move a level up as one node; a single hash moves unchanged, an empty level is nothing."""
        hashes = self._levels.pop(level, [])
        if len(hashes) > 1:
            hashes = [sha256(b"".join(hashes)).digest()]
        self._levels[level + 1].extend(hashes)


@lru_cache(maxsize=1024)
def version_field(block: int, tx: int) -> bytes:
    """Return the field ``version`` of a ``KVRead``; what was written together has it in common."""
    version = b"\x08" + varint_bytes(block) if block else b""
    if tx:
        version += b"\x10" + varint_bytes(tx)
    return delimited(b"\x12", version)
