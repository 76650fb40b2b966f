"""The documents of channels in CouchDB, named and made as Fabric's peer does.

Room:      peer.couchdb   (imports its room, peer.ledger; opened by parts)
Loop:      Trio
Lifetime:  peer; a `ChannelDocuments` as long as the channel's ledger is open
Fabric:    core/ledger/kvledger/txmgmt/statedb/statecouchdb/{statecouchdb,couchdb,couchdoc_conv,
           version_field_encoding}.go (release-2.5)

A document has the fields of its value, its key as ``_id``, and in ``~version`` who wrote it. Values
that are no JSON objects, or that CouchDB could not hold under their key, have none: they are found
by no query, as on the embedded store.
"""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from peer.couchdb.client import CouchClient, CouchSettings, open_client
from peer.couchdb.naming import is_of_channel, metadata_database, namespace_database
from peer.errors import DocumentsError
from peer.ledger.blocks import version_bytes
from peer.ledger.collation import Json, canonical, load_object, load_verbatim
from peer.ledger.documents import Found
from peer.ledger.store import OwedRow, Savepoint

log = logging.getLogger("peer.couchdb")

SAVEPOINT = "statedb_savepoint"
NO_MORE = "-"
"""Stands for the bookmark of a server that gives none."""
CREATED, EXISTS, MISSING, CONFLICT = 201, 412, 404, 409
MAX_CONFLICTS = 3


class CouchDB:
    """A server that answers."""

    def __init__(self, client: CouchClient) -> None:
        self._client = client

    def channel(self, channel_id: str) -> ChannelDocuments:
        """Return the documents of a channel."""
        return ChannelDocuments(self._client, channel_id)

    async def health(self) -> None:
        """
        Raises:
            DocumentsError: the server does not answer, or not as it should.
        """
        await self._client.request("GET", "", retries=0)


@asynccontextmanager
async def open_couchdb(settings: CouchSettings) -> AsyncIterator[CouchDB]:
    """Hold a server.

    Raises:
        DocumentsUnavailable: it does not answer.
        DocumentsError: it does not let this peer in.
    """
    async with open_client(settings) as client:
        await client.request("GET", "", retries=settings.startup_retries)
        # The root answers everybody; this one only those who may use it.
        await client.request("GET", "_all_dbs")
        yield CouchDB(client)


class ChannelDocuments:
    """The documents of one channel; see `peer.ledger.documents.DocumentServer`."""

    def __init__(self, client: CouchClient, channel_id: str) -> None:
        self._client = client
        self._channel_id = channel_id
        self._metadata = metadata_database(channel_id)
        self._revision = ""
        self._known: set[str] = set()
        self.batch_size = client.settings.batch_size
        self.page_size = client.settings.page_size

    async def check(self) -> None:
        """Return if the server answers."""
        await self._client.request("GET", "", retries=0)

    async def savepoint(self) -> int | None:
        """Return the height that was saved."""
        answer = await self._client.request("GET", self._metadata, SAVEPOINT, expect=(200, MISSING))
        if answer.status == MISSING:
            return None
        self._revision = _text(answer.body, "_rev")
        block = answer.body.get("BlockNum")
        return block + 1 if isinstance(block, int) else None

    async def save(self, savepoint: Savepoint) -> None:
        """Write the savepoint."""
        await self._create(self._metadata)
        for _ in range(MAX_CONFLICTS):
            document: dict[str, Json] = {"BlockNum": savepoint.block, "TxNum": savepoint.tx}
            if self._revision:
                document["_rev"] = self._revision
            answer = await self._client.request(
                "PUT",
                self._metadata,
                SAVEPOINT,
                body=json.dumps(document),
                expect=(200, 201, 202, CONFLICT),
            )
            if answer.status != CONFLICT:
                self._revision = _text(answer.body, "rev")
                return
            await self.savepoint()  # an earlier attempt had arrived
        self._client.refuse(answer)

    async def clear(self) -> None:
        """Remove the channel's databases."""
        answer = await self._client.request("GET", "_all_dbs")
        for name in answer.body:
            if is_of_channel(name, self._channel_id):
                log.info("removing database %s", name)
                await self._client.request("DELETE", name, expect=(200, 202, MISSING))
        self._known.clear()
        self._revision = ""

    async def write(self, rows: Sequence[OwedRow]) -> None:
        """Make documents what the rows say."""
        by_namespace: dict[str, dict[str, OwedRow]] = defaultdict(dict)
        for row in rows:
            by_namespace[row.namespace][row.key.decode()] = row
        for namespace, wanted in by_namespace.items():
            await self._write(namespace_database(self._channel_id, namespace), wanted)

    async def set_indexes(self, namespace: str, definitions: Sequence[bytes]) -> None:
        """Create indexes and delete all others; what the server refuses is logged."""
        database = namespace_database(self._channel_id, namespace)
        if definitions:
            await self._create(database)
        wanted = set()
        for definition in definitions:
            try:
                answer = await self._client.request(
                    "POST", database, "_index", body=definition.decode()
                )
            except DocumentsError as exc:
                if type(exc) is not DocumentsError:
                    raise
                log.warning("an index of %s is not used: %s", database, exc)
            else:
                wanted.add((answer.body.get("id"), answer.body.get("name")))
        answer = await self._client.request("GET", database, "_index", expect=(200, MISSING))
        for index in [] if answer.status == MISSING else answer.body["indexes"]:
            design, name = index["ddoc"], index["name"]
            if index["type"] == "json" and (design, name) not in wanted:
                await self._client.request(
                    "DELETE", database, "_index", design, "json", name, expect=(200, 202, MISSING)
                )

    async def find(self, namespace: str, query: Mapping[str, Json]) -> Found:
        """Ask one page; a database that is not there holds nothing."""
        answer = await self._client.request(
            "POST",
            namespace_database(self._channel_id, namespace),
            "_find",
            body=canonical(query),
            expect=(200, MISSING),
        )
        if answer.status == MISSING:
            return Found([], NO_MORE)
        keys = [document["_id"] for document in answer.body["docs"]]
        bookmark = answer.body.get("bookmark")
        if bookmark is None and query.get("bookmark", "nil") != "nil":
            address = self._client.settings.address
            raise DocumentsError(address, "it gives no bookmarks, so there are no further pages")
        return Found(keys, bookmark or NO_MORE)

    async def _write(self, database: str, wanted: dict[str, OwedRow]) -> None:
        documents = {
            key: document for key, row in wanted.items() if (document := _document(key, row))
        }
        if documents:
            await self._create(database)
        for _ in range(MAX_CONFLICTS):
            revisions = await self._revisions(database, list(wanted))
            body = [
                *(
                    _with_revision(document, revisions.get(key))
                    for key, document in documents.items()
                ),
                *(
                    {"_id": key, "_rev": revision, "_deleted": True}
                    for key, revision in revisions.items()
                    if key not in documents
                ),
            ]
            if not body:
                return
            answer = await self._client.request(
                "POST", database, "_bulk_docs", body=canonical({"docs": body})
            )
            refused = [each for each in answer.body if "error" in each]
            if not refused:
                return
            if any(each["error"] != "conflict" for each in refused):
                break  # else an earlier attempt had arrived
        address = self._client.settings.address
        raise DocumentsError(address, f"documents of {database} were refused: {refused[:3]}")

    async def _revisions(self, database: str, keys: list[str]) -> dict[str, str]:
        """Return the revisions of the documents that are there."""
        answer = await self._client.request(
            "POST", database, "_all_docs", body=canonical({"keys": keys}), expect=(200, MISSING)
        )
        rows = [] if answer.status == MISSING else answer.body["rows"]
        return {
            row["id"]: row["value"]["rev"]
            for row in rows
            if row.get("value") and not row["value"].get("deleted")
        }

    async def _create(self, database: str) -> None:
        if database not in self._known:
            await self._client.request("PUT", database, expect=(CREATED, 202, EXISTS))
            self._known.add(database)


def _document(key: str, row: OwedRow) -> dict[str, Json] | None:
    """Return what is stored of a row, but for the revision; None if it is no document."""
    if row.value is None or load_object(row.value) is None or not key or key.startswith("_"):
        return None
    document: dict[str, Json] = load_verbatim(row.value)
    if any(name.startswith("_") or name == "~version" for name in document):
        return None
    return {**document, "_id": key, "~version": _version(row)}


def _with_revision(document: dict[str, Json], revision: str | None) -> dict[str, Json]:
    return document if revision is None else {**document, "_rev": revision}


def _version(row: OwedRow) -> str:
    """Return a ``VersionAndMetadata`` as Fabric keeps it."""
    version = version_bytes(row.version)
    message = b"\x0a" + _sized(version)
    if row.metadata:
        message += b"\x12" + _sized(row.metadata)
    return b64encode(message).decode()


def _sized(content: bytes) -> bytes:
    size, prefix = len(content), b""
    while size > 0x7F:
        prefix += bytes([size & 0x7F | 0x80])
        size >>= 7
    return prefix + bytes([size]) + content


def _text(body: Any, name: str) -> str:
    return str(body[name])
