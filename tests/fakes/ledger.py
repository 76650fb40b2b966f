"""Query results in memory, for queries the real state database does not know or cannot fail.

Room:      tests.fakes   (implements peer.ledger.api.ResultsIterator)
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from peer.errors import LedgerError
from peer.ledger.api import KV


class ListResults:
    """A query over a list.

    Attributes:
        fails_at: number of records after which `take` raises.
        hangs: `take` never returns.
        taken: how many were asked for, call by call.
        is_closed: `close` was called.
    """

    def __init__(
        self, records: Sequence[KV], *, fails_at: int | None = None, hangs: bool = False
    ) -> None:
        self._left = list(records)
        self._fails_at = fails_at
        self._hangs = hangs
        self._given = 0
        self.taken: list[int] = []
        self.is_closed = False

    async def take(self, count: int) -> Sequence[KV]:
        assert not self.is_closed
        assert count > 0
        self.taken.append(count)
        await trio.lowlevel.checkpoint()
        if self._hangs:
            await trio.sleep_forever()
        if self._fails_at is not None and self._given + count > self._fails_at:
            raise LedgerError("the database went away")
        found, self._left = self._left[:count], self._left[count:]
        self._given += len(found)
        return found

    def bookmark(self) -> str:
        assert not self.is_closed
        return self._left[0].key if self._left else ""

    def close(self) -> None:
        self.is_closed = True
