"""Results of range, rich and history queries.

Room:      shim   (imports fabric_protos; loaded by the first query)
Loop:      asyncio for `Results`, any thread for `SyncResults`
Lifetime:  transaction; the peer drops open iterators when the transaction answers
Fabric:    `CommonIterator`, shim/stub.go (fabric-chaincode-go)

Pages of 100 are fetched on demand. An iterator that is left early is closed by its context manager,
or, when it is just dropped, before the transaction's next request; one that reached its end is
forgotten by the peer already and costs no further message.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from fabric_protos.records import cut_results, key_and_value
from fabric_protos.stream import (
    ChaincodeMessageType,
    QueryMetadata,
    QueryResponseMetadata,
    QueryStateClose,
    QueryStateNext,
)
from fabric_protos.stream import KeyModification as KeyModificationMessage

from .errors import PeerError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import TracebackType
    from typing import Self

    from .requests import Operation, Request
    from .transaction import AsyncTransaction, SyncTransaction, Transaction

T = TypeVar("T")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class KeyValue(NamedTuple):
    """One record of the state."""

    key: str
    value: bytes


class KeyModification(NamedTuple):
    """One version of a key.

    Attributes:
        tx_id: the transaction that wrote it.
        value: empty for a delete.
        timestamp: the clock of that transaction's client, UTC; None when it sent none.
        is_delete: the key was deleted.
    """

    tx_id: str
    value: bytes
    timestamp: datetime | None
    is_delete: bool


class Page(Generic[T]):
    """One page of a paginated query.

    Attributes:
        items: the records, in order.
        bookmark: give it to the next call; empty at the end of a range.
        fetched: number of records the peer counted.
    """

    __slots__ = ("bookmark", "fetched", "items")

    def __init__(self, items: list[T], bookmark: str, fetched: int) -> None:
        self.items = items
        self.bookmark = bookmark
        self.fetched = fetched

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Page(<{len(self.items)} items>, bookmark={self.bookmark!r})"


def as_key_value(data: bytes) -> KeyValue:
    """Read one record of a range or rich query."""
    return KeyValue(*key_and_value(data))


def as_key_modification(data: bytes) -> KeyModification:
    """Read one record of a history query."""
    record = KeyModificationMessage.decode(data)
    when = (
        None
        if record.timestamp is None
        else as_datetime(record.timestamp.seconds * 10**9 + record.timestamp.nanos)
    )
    return KeyModification(record.tx_id, record.value, when, record.is_delete)


def as_datetime(nanoseconds: int) -> datetime:
    """Convert nanoseconds since the epoch to UTC, cut to microseconds."""
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)


def page_request(page_size: int, bookmark: str) -> bytes:
    """Marshal the metadata that asks for one page."""
    return QueryMetadata(page_size=page_size, bookmark=bookmark).encode()


def fetch_page(request: Request, convert: Callable[[bytes], T]) -> Operation[Page[T]]:
    """Run a paginated query.

    A peer may treat it as a query without pages (private data); then the rest is fetched too.
    """
    records, response = cut_results((yield request))
    metadata = QueryResponseMetadata.decode(response.metadata)
    items = [*map(convert, records)]
    while response.has_more:
        following = QueryStateNext(id=response.id).encode()
        records, response = cut_results((yield ChaincodeMessageType.QUERY_STATE_NEXT, following))
        items += map(convert, records)
    return Page(items, metadata.bookmark, metadata.fetched_records_count)


def close_request(iterator_id: str) -> Request:
    """Make the request that closes an iterator."""
    return ChaincodeMessageType.QUERY_STATE_CLOSE, QueryStateClose(id=iterator_id).encode()


class _Cursor(Generic[T]):
    """Where an iterator stands; knows nothing of waiting."""

    __slots__ = (
        "_convert",
        "_has_more",
        "_id",
        "_in_doubt",
        "_opening",
        "_records",
        "_transaction",
    )
    _transaction: Transaction

    def __init__(self, request: Request, convert: Callable[[bytes], T]) -> None:
        self._opening: Request | None = request
        self._convert = convert
        self._records: list[bytes] = []  # of the current page, last one first
        self._has_more = True
        self._in_doubt = False
        self._id = ""

    def _fetch(self) -> Operation[None]:
        if self._in_doubt:  # a page may be lost: this must not look like the end
            raise PeerError("the iterator cannot continue: an earlier page failed or was cancelled")
        request, self._opening = self._opening, None
        if request is None:
            request = ChaincodeMessageType.QUERY_STATE_NEXT, QueryStateNext(id=self._id).encode()
        self._in_doubt = True
        records, response = cut_results((yield request))
        if response.has_more and not records:
            raise PeerError(f"iterator {response.id} promised more and holds nothing")
        self._in_doubt = False
        self._id = response.id
        self._has_more = response.has_more
        self._records = records[::-1]

    def _close(self) -> Operation[None]:
        was_open = self._has_more and self._id
        self._opening = None
        self._has_more = False
        self._records = []
        if was_open:
            yield close_request(self._id)

    def __del__(self) -> None:
        if self._has_more and self._id:
            self._transaction.abandoned.append(self._id)


class Results(_Cursor[T]):
    """Asynchronous iterator over the records of a query.

    ``async for`` opens it; ``await`` opens it at once, which shows a refusal early.
    """

    __slots__ = ()
    _transaction: AsyncTransaction

    def __init__(
        self, transaction: AsyncTransaction, request: Request, convert: Callable[[bytes], T]
    ) -> None:
        super().__init__(request, convert)
        self._transaction = transaction

    def __await__(self) -> Generator[None, None, Self]:
        return self._opened().__await__()

    async def _opened(self) -> Self:
        await self.has_next()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._records and not await self.has_next():
            raise StopAsyncIteration
        return self._convert(self._records.pop())

    async def has_next(self) -> bool:
        """Tell whether another record follows; fetches a page where none is at hand.

        Raises:
            PeerError: the peer refused the query.
            StreamClosed: the stream has ended.
        """
        if not self._records and self._has_more:
            await self._transaction.run(self._fetch())
        return bool(self._records)

    async def close(self) -> None:
        """Free the peer's iterator; iteration ends here. Harmless when repeated."""
        await self._transaction.run(self._close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class SyncResults(_Cursor[T]):
    """Blocking iterator over the records of a query; the first record opens it."""

    __slots__ = ()
    _transaction: SyncTransaction

    def __init__(
        self, transaction: SyncTransaction, request: Request, convert: Callable[[bytes], T]
    ) -> None:
        super().__init__(request, convert)
        self._transaction = transaction

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if not self._records and not self.has_next():
            raise StopIteration
        return self._convert(self._records.pop())

    def has_next(self) -> bool:
        """Tell whether another record follows; fetches a page where none is at hand.

        Raises:
            PeerError: the peer refused the query.
            StreamClosed: the stream has ended.
        """
        if not self._records and self._has_more:
            self._transaction.run(self._fetch())
        return bool(self._records)

    def close(self) -> None:
        """Free the peer's iterator; iteration ends here. Harmless when repeated."""
        self._transaction.run(self._close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
