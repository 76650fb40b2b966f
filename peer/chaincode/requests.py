"""What a chaincode may ask of the peer, one function per message type.

Room:      peer.chaincode   (imports transactions, iterators, peer.ledger.api; used by handler)
Loop:      Trio
Lifetime:  transaction
Fabric:    `Handler.HandleGetState` and its siblings, core/chaincode/handler.go (release-2.5, 3.1)

Every function takes the execution and the request's payload and returns the payload of RESPONSE.
What it raises becomes an ERROR; the texts reach chaincodes and are Fabric's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from fabric_protos.stream import (
    ChaincodeMessageType,
    ChaincodeSpec,
    DelState,
    GetHistoryForKey,
    GetQueryResult,
    GetState,
    GetStateByRange,
    GetStateMetadata,
    GetStateMultiple,
    GetStateMultipleResult,
    KeyModification,
    PutState,
    PutStateMetadata,
    QueryMetadata,
    QueryResponse,
    QueryResultBytes,
    QueryStateClose,
    QueryStateNext,
    StateMetadata,
    StateMetadataResult,
    Timestamp,
    WriteBatchState,
    WriteRecordType,
)
from fabric_protos.wire import delimited, delimited_two
from peer.chaincode.iterators import BATCH_SIZE, QueryIterator
from peer.chaincode.transactions import TransactionContext
from peer.errors import LedgerError
from peer.ledger import api

Type = ChaincodeMessageType
Record = TypeVar("Record")

Inline = Callable[[TransactionContext, bytes], bytes]
InTask = Callable[[TransactionContext, bytes], Awaitable[bytes]]
ChaincodeCaller = Callable[[TransactionContext, ChaincodeSpec], Awaitable[bytes]]
"""Runs another chaincode for a running one and returns its final message, marshalled."""


def get_state(context: TransactionContext, payload: bytes) -> bytes:
    """GET_STATE: the committed value, empty when there is none."""
    request = GetState.decode(payload)
    params = context.params
    if not request.collection:
        return context.simulator.get_state(params.namespace, request.key) or b""
    context.check_read(request.collection)
    value = context.simulator.get_private_data(params.namespace, request.collection, request.key)
    return value or b""


def get_state_multiple(context: TransactionContext, payload: bytes) -> bytes:
    """GET_STATE_MULTIPLE: values in the order of the keys, empty where there is none."""
    request = GetStateMultiple.decode(payload)
    namespace = context.params.namespace
    if request.collection:
        context.check_read(request.collection)
        found = context.simulator.get_private_data_multiple(
            namespace, request.collection, request.keys
        )
    else:
        found = context.simulator.get_state_multiple(namespace, request.keys)
    return GetStateMultipleResult(values=[value or b"" for value in found]).encode()


def get_private_data_hash(context: TransactionContext, payload: bytes) -> bytes:
    """GET_PRIVATE_DATA_HASH: allowed to non-members of the collection, so nothing is checked."""
    request = GetState.decode(payload)
    context.check_outside_init()
    value = context.simulator.get_private_data_hash(
        context.params.namespace, request.collection, request.key
    )
    return value or b""


def get_state_metadata(context: TransactionContext, payload: bytes) -> bytes:
    """GET_STATE_METADATA: every entry of the key."""
    request = GetStateMetadata.decode(payload)
    namespace = context.params.namespace
    if request.collection:
        context.check_read(request.collection)
        found = context.simulator.get_private_data_metadata(
            namespace, request.collection, request.key
        )
    else:
        found = context.simulator.get_state_metadata(namespace, request.key)
    entries = [StateMetadata(metakey=name, value=value) for name, value in sorted(found.items())]
    return StateMetadataResult(entries=entries).encode()


def put_state(context: TransactionContext, payload: bytes) -> bytes:
    """PUT_STATE: record a write; an empty value is a delete."""
    request = PutState.decode(payload)
    _put(context, request.collection, request.key, request.value)
    return b""


def del_state(context: TransactionContext, payload: bytes) -> bytes:
    """DEL_STATE: record a delete, whether or not the key exists."""
    request = DelState.decode(payload)
    _delete(context, request.collection, request.key)
    return b""


def purge_private_data(context: TransactionContext, payload: bytes) -> bytes:
    """PURGE_PRIVATE_DATA: a delete that also erases the key's past values."""
    request = DelState.decode(payload)
    _purge(context, request.collection, request.key)
    return b""


def put_state_metadata(context: TransactionContext, payload: bytes) -> bytes:
    """PUT_STATE_METADATA: replace all metadata of the key by one entry."""
    request = PutStateMetadata.decode(payload)
    _put_metadata(context, request.collection, request.key, request.metadata)
    return b""


def write_batch_state(context: TransactionContext, payload: bytes) -> bytes:
    """WRITE_BATCH_STATE: the records in order; those before a failure stay recorded."""
    puts: dict[str, bytes] = {}  # public ones that follow each other, and may be very many
    put_state = WriteRecordType.PUT_STATE
    for record in WriteBatchState.decode(payload).rec:
        if record.type == put_state and not record.collection:
            puts[record.key] = record.value
            continue
        _put_all(context, puts)
        puts = {}
        match record.type:
            case WriteRecordType.PUT_STATE:
                _put(context, record.collection, record.key, record.value)
            case WriteRecordType.DEL_STATE:
                _delete(context, record.collection, record.key)
            case WriteRecordType.PURGE_PRIVATE_DATA:
                _purge(context, record.collection, record.key)
            case WriteRecordType.PUT_STATE_METADATA:
                _put_metadata(context, record.collection, record.key, record.metadata)
            case _:
                raise LedgerError("unknown operation type")
    _put_all(context, puts)
    return b""


def query_state_close(context: TransactionContext, payload: bytes) -> bytes:
    """QUERY_STATE_CLOSE: closing what is closed already is fine."""
    request = QueryStateClose.decode(payload)
    iterator = context.iterators.pop(request.id, None)
    if iterator is not None:
        iterator.close()
    return QueryResponse(id=request.id).encode()


def _put(context: TransactionContext, collection: str, key: str, value: bytes) -> None:
    namespace = context.params.namespace
    if collection:
        context.check_write(collection)
        context.simulator.set_private_data(namespace, collection, key, value)
    else:
        context.simulator.set_state(namespace, key, value)


def _put_all(context: TransactionContext, values: Mapping[str, bytes]) -> None:
    if values:
        context.simulator.set_states(context.params.namespace, values)


def _delete(context: TransactionContext, collection: str, key: str) -> None:
    namespace = context.params.namespace
    if collection:
        context.check_write(collection)
        context.simulator.delete_private_data(namespace, collection, key)
    else:
        context.simulator.delete_state(namespace, key)


def _purge(context: TransactionContext, collection: str, key: str) -> None:
    if not collection:
        raise LedgerError("only applicable for private data")
    context.check_write(collection)
    context.simulator.purge_private_data(context.params.namespace, collection, key)


def _put_metadata(
    context: TransactionContext, collection: str, key: str, metadata: StateMetadata | None
) -> None:
    if metadata is None:
        raise LedgerError("no metadata entry given")
    namespace = context.params.namespace
    entry = {metadata.metakey: metadata.value}
    if collection:
        context.check_write(collection)
        context.simulator.set_private_data_metadata(namespace, collection, key, entry)
    else:
        context.simulator.set_state_metadata(namespace, key, entry)


INLINE: dict[int, Inline] = {
    Type.GET_STATE: get_state,
    Type.PUT_STATE: put_state,
    Type.DEL_STATE: del_state,
    Type.GET_STATE_METADATA: get_state_metadata,
    Type.PUT_STATE_METADATA: put_state_metadata,
    Type.GET_PRIVATE_DATA_HASH: get_private_data_hash,
    Type.PURGE_PRIVATE_DATA: purge_private_data,
    Type.WRITE_BATCH_STATE: write_batch_state,
    Type.GET_STATE_MULTIPLE: get_state_multiple,
    Type.QUERY_STATE_CLOSE: query_state_close,
}
"""Requests that never wait: answered where the message arrives, without a task."""


class LongRequests:
    """Requests that may wait; each runs in a task of its transaction.

    Args:
        total_query_limit: records one query may return (``ledger.state.totalQueryLimit``).
        call_chaincode: runs INVOKE_CHAINCODE.
    """

    def __init__(self, *, total_query_limit: int, call_chaincode: ChaincodeCaller) -> None:
        self._limit = total_query_limit
        self._call_chaincode = call_chaincode
        self.by_type: dict[int, InTask] = {
            Type.GET_STATE_BY_RANGE: self.get_state_by_range,
            Type.GET_QUERY_RESULT: self.get_query_result,
            Type.GET_HISTORY_FOR_KEY: self.get_history_for_key,
            Type.QUERY_STATE_NEXT: self.query_state_next,
            Type.INVOKE_CHAINCODE: self.invoke_chaincode,
        }

    async def get_state_by_range(self, context: TransactionContext, payload: bytes) -> bytes:
        """GET_STATE_BY_RANGE: start inclusive, end exclusive, in the byte order of UTF-8."""
        request = GetStateByRange.decode(payload)
        page = _page(request.metadata)
        namespace, bounds = context.params.namespace, (request.start_key, request.end_key)
        if request.collection:
            context.check_read(request.collection)
            found = context.simulator.get_private_data_range(namespace, request.collection, *bounds)
            return await self._first(context, found, key_values, self._private_limit(page))
        if page is None:
            found = context.simulator.get_state_range(namespace, *bounds)
            return await self._first(context, found, key_values, self._limit)
        found = context.simulator.get_state_range_page(namespace, *bounds, page.bookmark)
        return await self._one_page(found, page)

    async def get_query_result(self, context: TransactionContext, payload: bytes) -> bytes:
        """GET_QUERY_RESULT: a rich query, in the state database's own language."""
        request = GetQueryResult.decode(payload)
        page = _page(request.metadata)
        namespace = context.params.namespace
        if request.collection:
            context.check_read(request.collection)
            found = await context.simulator.execute_query_on_private_data(
                namespace, request.collection, request.query
            )
            return await self._first(context, found, key_values, self._private_limit(page))
        if page is None:
            found = await context.simulator.execute_query(namespace, request.query)
            return await self._first(context, found, key_values, self._limit)
        found = await context.simulator.execute_query(
            namespace, request.query, bookmark=page.bookmark, page_size=self._page_limit(page)
        )
        return await self._one_page(found, page)

    async def get_history_for_key(self, context: TransactionContext, payload: bytes) -> bytes:
        """GET_HISTORY_FOR_KEY: newest first; not part of the read set."""
        request = GetHistoryForKey.decode(payload)
        history = context.params.history
        if history is None:
            raise LedgerError("history database is not enabled")
        found = history.get_history_for_key(context.params.namespace, request.key)
        return await self._first(context, found, modifications, self._limit)

    async def query_state_next(self, context: TransactionContext, payload: bytes) -> bytes:
        """QUERY_STATE_NEXT: the next batch of an open query."""
        iterator = context.iterators.get(QueryStateNext.decode(payload).id)
        if iterator is None:
            raise LedgerError("query iterator not found")
        return await self._batch(context, iterator)

    async def invoke_chaincode(self, context: TransactionContext, payload: bytes) -> bytes:
        """INVOKE_CHAINCODE: the callee's final message, whole."""
        return await self._call_chaincode(context, ChaincodeSpec.decode(payload))

    async def _first(
        self,
        context: TransactionContext,
        found: api.ResultsIterator[Record],
        marshal: Callable[[Sequence[Record]], bytes],
        limit: int,
    ) -> bytes:
        iterator = QueryIterator(found, marshal, limit)
        context.iterators[iterator.id] = iterator
        return await self._batch(context, iterator)

    async def _batch(self, context: TransactionContext, iterator: QueryIterator[Record]) -> bytes:
        try:
            batch = await iterator.next_batch()
        except Exception:
            iterator.close()
            del context.iterators[iterator.id]
            raise
        if not batch.has_more:
            del context.iterators[iterator.id]
        return batch.payload

    async def _one_page(self, found: api.ResultsIterator[api.KV], page: QueryMetadata) -> bytes:
        iterator = QueryIterator(found, key_values, self._page_limit(page))
        try:
            return (await iterator.page()).payload
        finally:
            iterator.close()

    def _page_limit(self, page: QueryMetadata) -> int:
        return page.page_size if 0 < page.page_size < self._limit else self._limit

    def _private_limit(self, page: QueryMetadata | None) -> int:
        """Private queries do not paginate; a small page size still cuts the first message short."""
        if page is not None and 0 < page.page_size <= BATCH_SIZE:
            return min(page.page_size, self._limit)
        return self._limit


def _page(metadata: bytes) -> QueryMetadata | None:
    page = QueryMetadata.decode(metadata)
    return page if page.page_size or page.bookmark else None


def key_values(records: Sequence[api.KV]) -> bytes:
    """Return the field ``results`` of a `QueryResponse`: records of one namespace.

    There may be very many, so there is no object for each; nothing in one is empty.
    """
    if not records:
        return b""
    namespace = delimited(b"\x0a", records[0].namespace.encode())
    kvs = [
        namespace + delimited_two(b"\x12", key.encode(), b"\x1a", value)
        for _, key, value in records
    ]
    return b"".join([delimited(b"\x0a", delimited(b"\x0a", each)) for each in kvs])


def modifications(records: Sequence[api.KeyModification]) -> bytes:
    """Return the field ``results`` of a `QueryResponse`: the history of a key."""
    return QueryResponse(
        results=[QueryResultBytes(result_bytes=_modification(record)) for record in records]
    ).encode()


def _modification(record: api.KeyModification) -> bytes:
    return KeyModification(
        tx_id=record.tx_id,
        value=record.value,
        timestamp=Timestamp(seconds=record.timestamp.seconds, nanos=record.timestamp.nanos),
        is_delete=record.is_delete,
    ).encode()
