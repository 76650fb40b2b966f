"""A server of documents in memory, with bookmarks; it can be made to fail and to wait.

Room:      tests.fakes   (imports peer.ledger)
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from peer.errors import DocumentsUnavailable
from peer.ledger.collation import document_at
from peer.ledger.documents import Found
from peer.ledger.mango import parse_selector
from peer.ledger.store import OwedRow, Savepoint


class FakeDocuments:
    """Finds documents in the order of keys.

    Attributes:
        asked: what was asked of it, by name, in order.
        fails_at: names of what fails.
        gate: what is written waits for it.
        is_writing: something has begun to be written.
    """

    def __init__(self, *, batch_size: int = 1000, page_size: int = 1000) -> None:
        self.batch_size = batch_size
        self.page_size = page_size
        self.documents: dict[tuple[str, str], bytes] = {}
        self.saved: Savepoint | None = None
        self.indexes: dict[str, Sequence[bytes]] = {}
        self.asked: list[str] = []
        self.fails_at: set[str] = set()
        self.gate = trio.Event()
        self.gate.set()
        self.is_writing = trio.Event()

    async def check(self) -> None:
        await self._note("check")

    async def savepoint(self) -> int | None:
        await self._note("savepoint")
        return None if self.saved is None else self.saved.block + 1

    async def save(self, savepoint: Savepoint) -> None:
        await self._note("save")
        self.saved = savepoint

    async def clear(self) -> None:
        await self._note("clear")
        self.documents.clear()
        self.saved = None

    async def write(self, rows: Sequence[OwedRow]) -> None:
        await self._note("write")
        self.is_writing.set()
        await self.gate.wait()
        for row in rows:
            place = row.namespace, row.key.decode()
            if row.value is None or document_at(row.key, row.value) is None:
                self.documents.pop(place, None)
            else:
                self.documents[place] = row.value

    async def set_indexes(self, namespace: str, definitions: Sequence[bytes]) -> None:
        await self._note("set_indexes")
        self.indexes[namespace] = definitions

    async def find(self, namespace: str, query: Mapping[str, Any]) -> Found:
        await self._note("find")
        matches = parse_selector(query["selector"]).matches
        bookmark = query.get("bookmark", "nil")
        after = "" if bookmark == "nil" else bookmark
        keys = [
            key
            for (where, key), value in sorted(self.documents.items())
            if where == namespace and key > after and matches(document_at(key.encode(), value))
        ]
        skip = int(query.get("skip", 0))
        page = keys[skip : skip + query["limit"]]
        return Found(page, page[-1] if page else bookmark)

    async def _note(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(name)
        if name in self.fails_at:
            raise DocumentsUnavailable("fake:5984", f"{name} was made to fail")
