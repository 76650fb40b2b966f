"""Read the past values of a key.

Room:      peer.ledger   (opened by kvledger)
Loop:      Trio
Lifetime:  one execution
Fabric:    core/ledger/kvledger/history/query_executer.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from peer.ledger.api import KeyModification, Version
from peer.ledger.store import HistoryRow, Store

CHUNK_ROWS = 1000


class HistoryIterator:
    """Writes of one key, newest first. A later commit adds nothing to it."""

    def __init__(self, store: Store, namespace: str, key: str) -> None:
        self._store = store
        self._namespace = namespace
        self._key = key.encode()
        self._before = Version(store.height, 0)

    async def take(self, count: int) -> Sequence[KeyModification]:
        """Return the next `count` writes; fewer only when there are no more.

        Cancellation: nothing was taken.
        """
        rows: list[HistoryRow] = []
        before, is_exhausted = self._before, False
        while len(rows) < count and not is_exhausted:
            await trio.lowlevel.checkpoint()
            wanted = min(CHUNK_ROWS, count - len(rows))
            found = self._store.history(self._namespace, self._key, before, wanted)
            rows += found
            is_exhausted = len(found) < wanted
            if found:
                before = found[-1].version
        self._before = before
        return [
            KeyModification(row.tx_id, row.value or b"", row.timestamp, row.value is None)
            for row in rows
        ]

    def bookmark(self) -> str:
        """Return nothing: history has no pages."""
        return ""

    def close(self) -> None:
        """Do nothing: nothing is held between two calls."""


class HistoryQueryExecutor:
    """Past values of keys; not part of any read set."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get_history_for_key(self, namespace: str, key: str) -> HistoryIterator:
        """Return every committed write and delete of a key, newest first."""
        return HistoryIterator(self._store, namespace, key)
