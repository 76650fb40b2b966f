"""Choose an index for a query, and read documents through it.

Room:      peer.ledger   (imports indexes, queries, snapshot; used by simulator)
Loop:      none; `IndexedScan` is called by queries, between their turns
Lifetime:  a query of an execution
Fabric:    CouchDB's src/mango/src/{mango_idx,mango_cursor_view}.erl (3.x)

An index only tells which documents need not be looked at. What a query finds, and in which order,
is the same with and without it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from peer.ledger.indexes import Index, StoredIndex
from peer.ledger.mango import Bounds, Selector
from peer.ledger.queries import DocumentScan, Query
from peer.ledger.snapshot import DocumentRow, Snapshot

KEYS_AT_ONCE = 2000
MAX_KEYS = 100_000


def plan(held: Callable[[], Snapshot], namespace: str, query: Query) -> tuple[Query, DocumentScan]:
    """Return how to run a query: what it asks for, and what reads the documents.

    It asks for more than it said only where it names a partial index: then for what that holds.

    Args:
        held: returns the snapshot, or raises once it was given back.
    """
    indexes = held().find_indexes(namespace)
    chosen = _choose(indexes, query)
    if chosen is None:
        return query, lambda *where: held().scan_documents(namespace, *where)
    partial = chosen.definition.partial
    if partial is not None:
        query = query._replace(selector=_both(query.selector, partial))
    _, bounds = chosen.definition.reach(query.selector)
    return query, IndexedScan(held, namespace, chosen.id, bounds)


class IndexedScan:
    """Reads a namespace until the keys in a range of an index are known, from then on only those.

    Keys come in the order of the index, and are needed in their own. Reading the namespace
    meanwhile costs little and may be enough: where the range is wide, matches are close together.
    """

    def __init__(
        self, held: Callable[[], Snapshot], namespace: str, index: int, bounds: Bounds
    ) -> None:
        self._held = held
        self._namespace = namespace
        self._index = index
        self._bounds = bounds
        self._next = (bounds.low, b"")
        self._keys: list[bytes] = []
        self._is_complete = False

    def __call__(self, start: bytes, literal: str, limit: int) -> list[DocumentRow]:
        """Return the next documents; see `peer.ledger.queries.DocumentScan`."""
        snapshot = self._held()
        if not self._is_complete and len(self._keys) < MAX_KEYS:
            self._collect(snapshot)
        if not self._is_complete:
            return snapshot.scan_documents(self._namespace, start, literal, limit)
        first = bisect_left(self._keys, start)
        rows = []
        for key in self._keys[first : first + limit]:
            found = snapshot.get(self._namespace, key)
            assert found is not None, "an index has rows of what is there"
            rows.append(DocumentRow(key, found.value, *found.version))
        return rows

    def _collect(self, snapshot: Snapshot) -> None:
        found = snapshot.index_keys(self._index, self._next, self._bounds.high, KEYS_AT_ONCE)
        self._keys += (key for _, key in found)
        if len(found) < KEYS_AT_ONCE:
            self._keys.sort()
            self._is_complete = True
        else:
            position, key = found[-1]
            self._next = position, key + b"\0"


def _choose(indexes: Sequence[StoredIndex], query: Query) -> StoredIndex | None:
    """Return the index that leaves the fewest documents, as far as one can tell without looking."""
    usable = [each for each in indexes if _is_usable(each.definition, query)]
    named = [each for each in usable if _is_named(each.definition, query.use_index)]
    others = [each for each in usable if each.definition.partial is None]
    best = max(
        named or others,
        key=lambda each: (each.definition.reach(query.selector)[0], -len(each.definition.fields)),
        default=None,
    )
    if best is None:
        return None
    is_narrow = best.definition.partial is not None or best.definition.reach(query.selector)[0] > 0
    return best if is_narrow else None


def _is_usable(index: Index, query: Query) -> bool:
    """Tell whether an index holds everything that a query finds, but for its partial selector."""
    return query.selector.present | set(query.sort) >= set(index.fields)


def _is_named(index: Index, use_index: tuple[str, ...]) -> bool:
    return bool(use_index) and (index.design, index.name)[: len(use_index)] == use_index


def _both(one: Selector, other: Selector) -> Selector:
    return one._replace(matches=lambda document: one.matches(document) and other.matches(document))
