"""Open queries of a transaction, cut into messages.

Room:      peer.chaincode   (imports peer.ledger.api, fabric_protos; used by requests)
Loop:      Trio
Lifetime:  transaction, or until the last record was sent
Fabric:    core/chaincode/query_response_generator.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar
from uuid import uuid4

from fabric_protos.stream import QueryResponse, QueryResponseMetadata
from peer.ledger.api import ResultsIterator

BATCH_SIZE = 100
"""Records in one message when the chaincode did not ask for pages."""

Record = TypeVar("Record")


class Batch(NamedTuple):
    """Records on their way: a marshalled `QueryResponse`, and whether there are more."""

    payload: bytes
    has_more: bool


class QueryIterator(Generic[Record]):
    """One open query.

    `has_more` is true only when a further record has really been found, so that the next message is
    never empty. Reaching `limit` ends the query without a sign to the chaincode.

    Args:
        marshal: writes the field ``results`` of a `QueryResponse`.
    """

    def __init__(
        self,
        results: ResultsIterator[Record],
        marshal: Callable[[Sequence[Record]], bytes],
        limit: int,
    ) -> None:
        self.id = str(uuid4())
        self._results = results
        self._marshal = marshal
        self._limit = limit
        self._taken = 0
        self._held_back: list[Record] = []

    async def next_batch(self) -> Batch:
        """Return up to `BATCH_SIZE` records, and whether there are more; ends by closing itself."""
        wanted = min(BATCH_SIZE + 1 - len(self._held_back), self._limit - self._taken)
        found = await self._results.take(wanted) if wanted > 0 else ()
        self._taken += len(found)
        records = [*self._held_back, *found]
        self._held_back = records[BATCH_SIZE:]
        if not self._held_back:
            self.close()
        return self._batch(records[:BATCH_SIZE], has_more=bool(self._held_back))

    async def page(self) -> Batch:
        """Return everything up to `limit` in one message, with the bookmark of the next page."""
        records = await self._results.take(self._limit)
        metadata = QueryResponseMetadata(
            fetched_records_count=len(records), bookmark=self._results.bookmark()
        )
        self.close()
        return self._batch(records, has_more=False, metadata=metadata.encode())

    def close(self) -> None:
        """Give the query back to the ledger. Idempotent."""
        self._results.close()

    def _batch(self, records: Sequence[Record], *, has_more: bool, metadata: bytes = b"") -> Batch:
        rest = QueryResponse(has_more=has_more, id=self.id, metadata=metadata).encode()
        return Batch(self._marshal(records) + rest, has_more)
