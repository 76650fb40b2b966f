"""Run rich queries: CouchDB's query language over the JSON objects of a snapshot.

Room:      peer.ledger   (imports api, mango, collation, snapshot, turns; used by simulator and
           planning)
Loop:      Trio; other tasks get their turn about every two milliseconds
Lifetime:  a query of an execution
Fabric:    core/ledger/kvledger/txmgmt/statedb/statecouchdb/statecouchdb.go (release-2.5)

Documents are read in the order of keys, and those that no index rules out are all looked at; see
planning. What SQLite can rule out without decoding it is not handed to Python.
"""

from __future__ import annotations

import heapq
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import trio

from peer.errors import QueryError
from peer.ledger.api import KV, Version
from peer.ledger.collation import (
    MAX_DEPTH,
    Json,
    Path,
    collated,
    document_at,
    is_found,
    load_object,
    parse_path,
    project,
    value_at,
)
from peer.ledger.mango import Selector, parse_selector
from peer.ledger.snapshot import DocumentRow
from peer.ledger.turns import Turn

CHUNK_ROWS = 200
RUN_ROWS = 1000

NO_BOOKMARK = "nil"
"""What CouchDB gives, and takes, where there is no bookmark."""

IGNORED = frozenset({"limit", "r", "stable", "update", "execution_stats"})
KNOWN = frozenset({"selector", "fields", "sort", "skip", "bookmark", "use_index"}) | IGNORED

DocumentScan = Callable[[bytes, str, int], list[DocumentRow]]
"""Start key, literal and limit to rows of one namespace: as many as there are, up to the limit.

They begin at the start key, in the order of keys; what cannot match may be left out.
"""

Recorder = Callable[[str, Version], None]
"""Notes a returned key and its version."""

Rank = tuple[tuple[Any, ...], bytes]
"""What a result is sorted by: the collated values of the fields, then the key."""


class Query(NamedTuple):
    """A checked query.

    Attributes:
        fields: paths of a projection; None is the whole value.
        sort: paths to order by; without any, results come in the order of keys.
        skip: results to pass over where there is no bookmark.
        bookmark: the one inside the query, empty for none.
        use_index: names of a design document, and perhaps of an index in it.
    """

    selector: Selector
    fields: tuple[Path, ...] | None
    sort: tuple[Path, ...]
    is_descending: bool
    skip: int
    bookmark: str
    use_index: tuple[str, ...]


def parse_query(text: str) -> Query:
    """Read a query.

    Raises:
        QueryError: it is malformed; the error names the place.
    """
    query = load_object(text.encode(errors="replace"))
    if query is None:
        raise QueryError("query", f"is no JSON object of at most {MAX_DEPTH} levels")
    if unknown := query.keys() - KNOWN:
        raise QueryError(min(unknown), "is no part of a query")
    if "selector" not in query:
        raise QueryError("selector", "is missing")
    sort, is_descending = _parse_sort(query.get("sort", []))
    bookmark = query.get("bookmark") or ""
    if not isinstance(bookmark, str):
        raise QueryError("bookmark", "must be a string")
    skip = query.get("skip", 0)
    if not isinstance(skip, int) or isinstance(skip, bool) or skip < 0:
        raise QueryError("skip", "must be a whole number from 0 on")
    return Query(
        selector=parse_selector(query["selector"]),
        fields=parse_fields(query["fields"]) if "fields" in query else None,
        sort=sort,
        is_descending=is_descending,
        skip=skip,
        bookmark=bookmark,
        use_index=_parse_use_index(query.get("use_index")),
    )


class Position(NamedTuple):
    """Where a query goes on: the next key, and how many results are passed over.

    In sorted results those that were taken are passed over, too.
    """

    start: bytes
    skip: int
    is_exhausted: bool = False


class QueryResults:
    """Results of one rich query, found in the snapshot as they are taken.

    With `sort` all are found when the first is taken; order and key of each are kept.
    """

    def __init__(
        self,
        namespace: str,
        query: Query,
        scan: DocumentScan,
        *,
        bookmark: str = "",
        record: Recorder | None = None,
    ) -> None:
        """
        Raises:
            QueryError: the bookmark is not one of such a query.
        """
        self._namespace = namespace
        self._query = query
        self._scan = scan
        self._record = record
        self._bookmark = bookmark or query.bookmark or NO_BOOKMARK
        self._after = after = _decode_bookmark(self._bookmark, query)
        start, skip = (b"", query.skip) if after is None else (after[1] + b"\0", 0)
        self._position = Position(start, skip)
        self._sorted: list[Rank] | None = None

    async def take(self, count: int) -> Sequence[KV]:
        """Return the next `count` results; fewer only when there are no more.

        Raises:
            QueryError: a value takes too long to match.

        Cancellation: nothing was taken.
        """
        peek = self._peek_sorted if self._query.sort else self._peek
        rows, position = await peek(count)
        turn, records = Turn(), []
        for row in rows:
            await turn.give_way()
            records.append(KV(self._namespace, row.key.decode(), self._result(row)))
        self._position = position
        if rows:
            self._bookmark = _encode_bookmark(rows[-1], self._query)
        if self._record is not None:
            for record, row in zip(records, rows, strict=True):
                self._record(record.key, Version(row.block, row.tx))
        return records

    def bookmark(self) -> str:
        """Return where the last result stands; before the first, what was given or ``nil``."""
        return self._bookmark

    def close(self) -> None:
        """Do nothing: between two calls only the simulation's snapshot is held."""

    async def _peek(self, count: int) -> tuple[list[DocumentRow], Position]:
        found, position = await self._search(self._position, count)
        return [row for row, _ in found], position

    async def _peek_sorted(self, count: int) -> tuple[list[DocumentRow], Position]:
        if self._sorted is None:
            self._sorted = await self._sort()
        turn = Turn()
        rows: list[DocumentRow] = []
        passed = self._position.skip
        for _, key in self._sorted[passed : passed + count]:
            await turn.give_way()
            rows += self._scan(key, "", 1)
        return rows, self._position._replace(skip=passed + len(rows))

    async def _sort(self) -> list[Rank]:
        """Return the ranks of everything after the bookmark, in order."""
        query, runs, position = self._query, [], Position(b"", 0)
        while not position.is_exhausted:
            found, position = await self._search(position, RUN_ROWS)
            ranks = [
                (collated(order), row.key)
                for row, document in found
                if (order := _order(document, query)) is not None
            ]
            runs.append(sorted(ranks, reverse=query.is_descending))
        turn, in_order = Turn(), []
        for rank in heapq.merge(*runs, reverse=query.is_descending):
            await turn.give_way()
            if self._after is None or (
                rank < self._after if query.is_descending else rank > self._after
            ):
                in_order.append(rank)
        return in_order

    async def _search(
        self, position: Position, count: int
    ) -> tuple[list[tuple[DocumentRow, dict[str, Json]]], Position]:
        """Return the next matches with their documents, and where to go on."""
        selector = self._query.selector
        turn = Turn()
        found: list[tuple[DocumentRow, dict[str, Json]]] = []
        start, skip, is_exhausted = position
        while len(found) < count and not is_exhausted:
            await trio.lowlevel.checkpoint()
            rows = self._scan(start, selector.literal, CHUNK_ROWS)
            is_exhausted = len(rows) < CHUNK_ROWS
            for row in rows:
                await turn.give_way()
                start = row.key + b"\0"  # the least key after this one
                document = _matched(row, selector)
                if document is None:
                    continue
                if skip:
                    skip -= 1
                    continue
                found.append((row, document))
                if len(found) == count:
                    is_exhausted = False
                    break
        return found, Position(start, skip, is_exhausted)

    def _result(self, row: DocumentRow) -> bytes:
        assert row.value is not None  # it matched
        fields = self._query.fields
        return row.value if fields is None else project(row.value, fields)


def _matched(row: DocumentRow, selector: Selector) -> dict[str, Json] | None:
    document = None if row.value is None else document_at(row.key, row.value)
    return document if document is not None and selector.matches(document) else None


def _order(document: dict[str, Json], query: Query) -> list[Json] | None:
    """Return the values to sort by; None where one is missing, as no index would hold it."""
    values = [value_at(document, path) for path in query.sort]
    return values if all(map(is_found, values)) else None


def _encode_bookmark(row: DocumentRow, query: Query) -> str:
    position: list[Json] = [row.key.decode()]
    if query.sort:
        assert row.value is not None  # read again without a literal
        document = document_at(row.key, row.value)
        assert document is not None  # it was ranked
        position.append(_order(document, query))
    return urlsafe_b64encode(json.dumps(position).encode()).decode()


def _decode_bookmark(bookmark: str, query: Query) -> Rank | None:
    if bookmark == NO_BOOKMARK:
        return None
    try:
        position = json.loads(urlsafe_b64decode(bookmark.encode()))
    except (ValueError, RecursionError):
        position = None
    match position:
        case [str(key)] if not query.sort:
            return (), key.encode(errors="replace")
        case [str(key), [*order]] if len(order) == len(query.sort):
            return collated(order), key.encode(errors="replace")
        case _:
            raise QueryError("bookmark", "is none that this query gave")


def parse_fields(fields: Json) -> tuple[Path, ...]:
    """Read the fields of a projection.

    Raises:
        QueryError: they are none.
    """
    if not isinstance(fields, list):
        # Fabric's own words: applyAdditionalQueryOptions, statecouchdb.go.
        raise QueryError("fields", "definition must be an array")
    paths = []
    for number, name in enumerate(fields):
        place = f"fields.{number}"
        if not isinstance(name, str):
            raise QueryError(place, "must be a string")
        paths.append(parse_path(name, place))
    return tuple(paths)


def _parse_use_index(use_index: Json) -> tuple[str, ...]:
    """Return what names an index; anything else names none, as an index that is not there."""
    match use_index:
        case str(design) | [str(design)]:
            return (design.removeprefix("_design/"),)
        case [str(design), str(name)]:
            return design.removeprefix("_design/"), name
        case _:
            return ()


def _parse_sort(sort: Json) -> tuple[tuple[Path, ...], bool]:
    if not isinstance(sort, list):
        raise QueryError("sort", "must be an array")
    paths, directions = [], set()
    for number, entry in enumerate(sort):
        place = f"sort.{number}"
        match entry:
            case str(name):
                direction = "asc"
            case dict() if len(entry) == 1:
                [(name, direction)] = entry.items()
            case _:
                raise QueryError(place, "must be a field, or an object of a field and a direction")
        if direction not in ("asc", "desc"):
            raise QueryError(f"{place}.{name}", "must be asc or desc")
        paths.append(parse_path(name, place))
        directions.add(direction)
    if len(directions) > 1:
        raise QueryError("sort", "must have one direction for all fields")
    return tuple(paths), "desc" in directions
