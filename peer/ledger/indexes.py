"""Indexes over the JSON objects of a namespace, as packages define them for CouchDB.

Room:      peer.ledger   (imports collation, mango, peer.errors; used by store and planning)
Loop:      none; rows are written in the writing thread
Lifetime:  a definition as long as the package that brings it is the one of its chaincode
Fabric:    CouchDB's src/mango/src/{mango_idx_view,mango_idx}.erl (3.x)

A row of an index stands where the encoded values of its fields put it. It holds those objects that
have all its fields; where a field's value is does not matter, so whole ranges can be read of any
beginning of the fields. Directions play no part: nothing is given in the order of an index.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

from peer.errors import QueryError
from peer.ledger.collation import (
    Json,
    Path,
    document_at,
    encoded,
    is_found,
    load_object,
    parse_path,
    value_at,
)
from peer.ledger.mango import Bounds, Selector, parse_selector

SCHEMA = """
CREATE TABLE indexes (
    id         INTEGER PRIMARY KEY,
    namespace  TEXT NOT NULL,
    definition TEXT NOT NULL,       -- JSON, as in a package
    UNIQUE (namespace, definition)
);

CREATE TABLE index_rows (
    id       INTEGER NOT NULL,
    position BLOB NOT NULL,
    key      BLOB NOT NULL,
    PRIMARY KEY (id, position, key)
) WITHOUT ROWID;
"""

OF_NAMESPACE = "SELECT id, definition FROM indexes WHERE namespace = ? ORDER BY definition"
OF_CHAINCODE = """
    SELECT id, namespace, definition FROM indexes
    WHERE namespace = :name OR substr(namespace, 1, length(:name) + 3) = :name || '$$p'
"""
KEYS = """
    SELECT position, key FROM index_rows
    WHERE id = ? AND (position, key) >= (?, ?) AND position < ? ORDER BY position, key LIMIT ?
"""
VALUES = "SELECT key, value FROM state WHERE namespace = ?"

IndexRow = tuple[int, bytes, bytes]
"""Id of the index, position, key."""


class Index(NamedTuple):
    """A definition.

    Attributes:
        design, name: what a query names it by in ``use_index``; empty where it does not tell.
        partial: the index holds only what this matches; None for everything.
    """

    design: str
    name: str
    fields: tuple[Path, ...]
    partial: Selector | None

    def position(self, document: Mapping[str, Json]) -> bytes | None:
        """Return where a document stands, None where the index does not hold it."""
        values = [value_at(document, path) for path in self.fields]
        if not all(map(is_found, values)):
            return None
        if self.partial is not None and not self.partial.matches(document):
            return None
        return b"".join(map(encoded, values))

    def reach(self, selector: Selector) -> tuple[int, Bounds]:
        """Return how many of the fields a selector bounds, and where that leads.

        All but the last of these have one value; the fields after it are of no use.
        """
        prefix = b""
        for count, path in enumerate(self.fields):
            bounds = selector.bounds.get(path, Bounds())
            if not bounds.is_single:
                is_bounded = bounds != Bounds()
                return count + is_bounded, Bounds(prefix + bounds.low, prefix + bounds.high)
            prefix += bounds.low
        return len(self.fields), Bounds(prefix, prefix + b"\xff")


class StoredIndex(NamedTuple):
    """An index of a namespace, with the id its rows have."""

    id: int
    definition: Index


@lru_cache
def parse_index(text: str) -> Index:
    """Read a definition that has the form of an index file.

    Raises:
        QueryError: one of its fields has no name, or its partial selector is none.
    """
    document = json.loads(text)
    index = document["index"]
    names = [each if isinstance(each, str) else next(iter(each)) for each in index["fields"]]
    paths = [parse_path(name, f"index.fields.{number}") for number, name in enumerate(names)]
    partial = index.get("partial_filter_selector")
    return Index(
        design=document.get("ddoc", "").removeprefix("_design/"),
        name=document.get("name", ""),
        fields=tuple(paths),
        partial=parse_selector(partial, "partial_filter_selector") if partial else None,
    )


def canonical_definition(content: bytes) -> str:
    """Return the definition of an index file, the same for every way of writing it.

    Raises:
        QueryError: as `parse_index`, or it is no JSON object.
    """
    document = load_object(content)
    if document is None:
        raise QueryError("index", "is no JSON object")
    text = json.dumps(document, sort_keys=True)
    parse_index(text)
    return text


def indexes_of(connection: sqlite3.Connection, namespace: str) -> list[StoredIndex]:
    """Return the indexes of a namespace."""
    rows = connection.execute(OF_NAMESPACE, (namespace,)).fetchall()
    return [StoredIndex(id_, parse_index(text)) for id_, text in rows]


def are_defined(connection: sqlite3.Connection) -> bool:
    """Tell whether there are any indexes."""
    return connection.execute("SELECT 1 FROM indexes").fetchone() is not None


def define(
    connection: sqlite3.Connection, chaincode: str, wanted: Mapping[str, Iterable[str]]
) -> None:
    """Make these the indexes of a chaincode's namespaces: build what is new, drop what is not here.

    Args:
        wanted: namespace to definitions, of the public one and of collections' values.
    """
    found = {
        (namespace, text): id_
        for id_, namespace, text in connection.execute(OF_CHAINCODE, {"name": chaincode})
    }
    asked = {(namespace, text) for namespace, texts in wanted.items() for text in texts}
    dropped = [(found[each],) for each in found.keys() - asked]
    connection.executemany("DELETE FROM index_rows WHERE id = ?", dropped)
    connection.executemany("DELETE FROM indexes WHERE id = ?", dropped)
    for namespace, text in sorted(asked - found.keys()):
        insert = "INSERT INTO indexes (namespace, definition) VALUES (?, ?)"
        id_ = connection.execute(insert, (namespace, text)).lastrowid
        assert id_ is not None
        built = [StoredIndex(id_, parse_index(text))]
        held = connection.execute(VALUES, (namespace,))
        _insert(connection, (row for key, value in held for row in _rows(built, key, value)))


@contextmanager
def reindexed(
    connection: sqlite3.Connection, changed: Iterable[tuple[str, bytes]]
) -> Iterator[None]:
    """Keep indexes true to the rows of the state that are written inside the context.

    Args:
        changed: namespace and key of each.
    """
    indexed = {
        namespace: indexes_of(connection, namespace)
        for (namespace,) in connection.execute("SELECT DISTINCT namespace FROM indexes")
    }
    touched = [each for each in changed if each[0] in indexed]

    def rows() -> set[IndexRow]:
        return {
            row
            for namespace, key in touched
            for _, value in connection.execute(f"{VALUES} AND key = ?", (namespace, key))
            for row in _rows(indexed[namespace], key, value)
        }

    before = rows()
    yield
    after = rows()
    delete = "DELETE FROM index_rows WHERE (id, position, key) = (?, ?, ?)"
    connection.executemany(delete, before - after)
    _insert(connection, after - before)


def _rows(indexes: Sequence[StoredIndex], key: bytes, value: bytes) -> Iterator[IndexRow]:
    document = document_at(key, value)
    if document is not None:
        for id_, definition in indexes:
            position = definition.position(document)
            if position is not None:
                yield id_, position, key


def _insert(connection: sqlite3.Connection, rows: Iterable[IndexRow]) -> None:
    connection.executemany("INSERT INTO index_rows VALUES (?, ?, ?)", rows)
