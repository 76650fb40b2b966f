"""Keep a server's JSON documents up with the state, and ask it rich queries.

Room:      peer.ledger   (imports collation, mango, queries, snapshot, store; used by kvledger)
Loop:      Trio; SQLite is written in worker threads
Lifetime:  as long as the ledger is open
Fabric:    core/ledger/kvledger/txmgmt/statedb/statecouchdb/{statecouchdb,commit_handling}.go
           (release-2.5)

The state in SQLite stays the truth. What a block changes of it is owed to the server: that is noted
in the block's own transaction, and struck off when the server has it. A savepoint on the server
tells whether the two still know each other; if not, the server gets everything anew.

The server tells which keys a query finds, and nothing else of its answer is used: values and
versions are those of the simulation's snapshot. The server may be ahead of it, so a query fails if
anything has changed since then that it finds, or would have found.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import trio

from peer.errors import DocumentsChanged, DocumentsError, QueryError
from peer.ledger.api import KV
from peer.ledger.collation import Json, document_at, load_verbatim, project
from peer.ledger.mango import Predicate, parse_selector
from peer.ledger.queries import NO_BOOKMARK, Recorder, parse_fields
from peer.ledger.snapshot import Snapshot
from peer.ledger.store import OwedRow, Savepoint, Store

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """Keys that a query finds, and where the next page begins."""

    keys: Sequence[str]
    bookmark: str


class DocumentServer(Protocol):
    """Holds the documents of one channel.

    Every method raises `DocumentsUnavailable` where the server does not answer, and
    `DocumentsError` where it refuses.

    Attributes:
        batch_size: documents to write at once.
        page_size: keys to ask for at once.
    """

    batch_size: int
    page_size: int

    async def check(self) -> None:
        """Return at once if the server answers; there is no second attempt."""
        ...

    async def savepoint(self) -> int | None:
        """Return how many blocks the documents are of; None where there are none."""
        ...

    async def save(self, savepoint: Savepoint) -> None:
        """Note the last block the documents are of."""
        ...

    async def clear(self) -> None:
        """Remove everything."""
        ...

    async def write(self, rows: Sequence[OwedRow]) -> None:
        """Make documents what the rows say; writing the same again changes nothing."""
        ...

    async def set_indexes(self, namespace: str, definitions: Sequence[bytes]) -> None:
        """Make these the indexes of a namespace."""
        ...

    async def find(self, namespace: str, query: Mapping[str, Json]) -> Found:
        """Ask one page; `query` is as CouchDB takes it, numbers are as `load_verbatim` has them."""
        ...


class Changes:
    """Keys of one block, and what came after it: held by whoever began before.

    Attributes:
        block: its number.
        keys: namespace and key.
    """

    __slots__ = ("block", "keys", "next")

    def __init__(self, block: int, keys: frozenset[tuple[str, bytes]]) -> None:
        self.block = block
        self.keys = keys
        self.next: Changes | None = None


class Documents:
    """The documents of one ledger on a server.

    Args:
        writing: held by whoever writes to the store.
    """

    def __init__(self, store: Store, server: DocumentServer, writing: trio.Lock) -> None:
        self._store = store
        self._server = server
        self._writing = writing
        self._is_behind = True
        self._latest = Changes(-1, frozenset())

    async def open(self) -> None:
        """Bring the server up to the store, which nobody else uses yet.

        Raises:
            DocumentsUnavailable, DocumentsError: it cannot be.
        """
        saved = await self._server.savepoint()
        confirmed = await trio.to_thread.run_sync(self._store.confirmed)
        if saved is None or confirmed is None or not confirmed <= saved <= self._store.height:
            if saved is not None:
                log.warning(
                    "%s: the documents on the server are of another state; writing all anew",
                    self._store.path,
                )
            await self._server.clear()
            await trio.to_thread.run_sync(self._store.owe_everything)
        await self._flush()

    async def follow(self) -> None:
        """Send what the last block changed; if that fails, queries do so until it is made up for.

        Call with `writing` held.
        """
        try:
            if self._is_behind:
                await self._server.check()
            await self._flush()
        except DocumentsError as exc:
            self._is_behind = True
            log.error("%s: the block is committed without its documents: %s", self._store.path, exc)

    def begin(self) -> DocumentReader:
        """Return what asks queries for a snapshot that was taken just now."""
        return DocumentReader(self, self._latest)

    async def find(self, namespace: str, query: dict[str, Json], limit: int) -> Found:
        """Ask for one page, at most as large as the server gives.

        Raises:
            DocumentsUnavailable, DocumentsError: the server does not answer, or refuses.
        """
        if self._is_behind:
            async with self._writing:
                if self._is_behind:
                    await self._server.check()
                    await self._flush()
        query["limit"] = min(limit, self._server.page_size)
        return await self._server.find(namespace, query)

    async def set_indexes(self, definitions: Mapping[str, Sequence[bytes]]) -> None:
        """Make these the indexes of namespaces.

        Raises:
            DocumentsUnavailable, DocumentsError: the server does not answer, or refuses.
        """
        if self._is_behind:
            await self._server.check()  # a block waits for this: no attempt after the first
        for namespace, contents in definitions.items():
            await self._server.set_indexes(namespace, contents)

    async def _flush(self) -> None:
        store, size = self._store, self._server.batch_size
        self._is_behind = True  # until all of it is done
        savepoint = await trio.to_thread.run_sync(store.savepoint)
        is_last = False
        while not is_last:
            owed = await trio.to_thread.run_sync(store.owed, size)
            is_last = len(owed) < size
            if owed:
                keys = frozenset((row.namespace, row.key) for row in owed)
                # Before the server knows of it: its answers may be of this block from now on.
                self._latest.next = Changes(savepoint.block, keys)
                self._latest = self._latest.next
                await self._server.write(owed)
            if is_last and savepoint.block >= 0:
                await self._server.save(savepoint)
            done = savepoint.block + 1 if is_last else None
            await trio.to_thread.run_sync(store.settle, owed, done)
        self._is_behind = False


class DocumentReader(NamedTuple):
    """Asks queries for one snapshot.

    Attributes:
        since: the last changes that the snapshot holds, or earlier ones.
    """

    documents: Documents
    since: Changes

    def query(
        self,
        held: Callable[[], Snapshot],
        namespace: str,
        text: str,
        *,
        where: str = "",
        bookmark: str = "",
        record: Recorder | None = None,
    ) -> ServerResults:
        """Begin a query.

        Args:
            held: returns the snapshot, or raises once it was given back.
            where: namespace of the documents if it is not that of the results.

        Raises:
            QueryError: it is no query at all. The rest is for the server to judge.
        """
        return ServerResults(self, held, namespace, text, where or namespace, bookmark, record)


class ServerResults:
    """Results of one rich query, found by the server and read from the snapshot."""

    def __init__(
        self,
        reader: DocumentReader,
        held: Callable[[], Snapshot],
        namespace: str,
        text: str,
        where: str,
        bookmark: str,
        record: Recorder | None,
    ) -> None:
        self._documents, self._since = reader
        self._held = held
        self._namespace = namespace
        self._where = where
        self._query = query = _read(text)
        fields = query.get("fields")
        self._fields = None if fields is None else parse_fields(fields)
        self._matches = _predicate(text)
        self._record = record
        if bookmark:
            query["bookmark"] = bookmark
        query["fields"] = ["_id"]
        self._is_exhausted = False

    async def take(self, count: int) -> Sequence[KV]:
        """Return the next `count` results; fewer only when there are no more.

        Raises:
            DocumentsChanged: a block has changed what the query finds.
            DocumentsUnavailable, DocumentsError: the server does not answer, or refuses.

        Cancellation: nothing was taken.
        """
        keys: list[str] = []
        query, is_exhausted = dict(self._query), self._is_exhausted
        while len(keys) < count and not is_exhausted:
            wanted = count - len(keys)
            found = await self._documents.find(self._where, query, wanted)
            keys += found.keys
            is_exhausted = len(found.keys) < query["limit"]
            if found.keys:
                query["bookmark"] = found.bookmark
                query.pop("skip", None)  # the server counts it on every page
        await trio.lowlevel.checkpoint()
        self._check(keys)
        rows = [(key, self._held().get(self._where, key.encode())) for key in keys]
        records = []
        for key, row in rows:
            if row is None:
                raise DocumentsChanged(self._where)
            value = row.value if self._fields is None else project(row.value, self._fields)
            records.append(KV(self._namespace, key, value))
        self._query, self._is_exhausted = query, is_exhausted
        if self._record is not None:
            for key, row in rows:
                assert row is not None
                self._record(key, row.version)
        return records

    def bookmark(self) -> str:
        """Return the server's bookmark of the last page; before the first, what was given."""
        return str(self._query.get("bookmark") or NO_BOOKMARK)

    def close(self) -> None:
        """Do nothing: the server holds nothing between two pages."""

    def _check(self, keys: Sequence[str]) -> None:
        """Raise if the answer may not be what the snapshot would have given."""
        snapshot, wanted = self._held(), {key.encode() for key in keys}
        changes = self._since.next
        while changes is not None:
            if changes.block >= snapshot.height:
                for namespace, key in changes.keys:
                    if namespace == self._where and (key in wanted or self._finds(snapshot, key)):
                        raise DocumentsChanged(self._where)
            changes = changes.next

    def _finds(self, snapshot: Snapshot, key: bytes) -> bool:
        row = snapshot.get(self._where, key)
        document = None if row is None else document_at(key, row.value)
        return document is not None and self._matches(document)


def _read(text: str) -> dict[str, Json]:
    try:
        query = load_verbatim(text.encode(errors="replace"))
    except (ValueError, RecursionError) as exc:
        raise QueryError("query", f"is no JSON: {exc}") from exc
    if not isinstance(query, dict):
        raise QueryError("query", "is no JSON object")
    return query


def _predicate(text: str) -> Predicate:
    """Return what tells whether a document may match; any may where only the server can tell."""
    try:
        return parse_selector(json.loads(text)["selector"]).matches
    except (KeyError, QueryError):
        return lambda document: True
