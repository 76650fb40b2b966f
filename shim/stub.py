"""The stub of chaincode written as coroutines.

Room:      shim   (what a chaincode is handed)
Loop:      asyncio
Lifetime:  transaction
Fabric:    `ChaincodeStubInterface`, shim/interfaces.go (fabric-chaincode-go)

Reads see the committed state: a value written by this transaction is not visible to it. Requests of
one transaction are sent one after the other, however many tasks ask. Every method that asks the
peer raises `PeerError` when the peer refuses, `StreamClosed` when the stream has ended, and
`ValueError` for keys and names that cannot be sent. Types above 19 (policies, hashes, purge) need a
peer that knows them; older ones end the stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from . import requests
from .context import Context
from .requests import as_bytes, need_collection
from .response import Response
from .transaction import AsyncTransaction

if TYPE_CHECKING:
    from .results import KeyModification, KeyValue, Page, Results


class ChaincodeStub(Context):
    """The ledger and the call, as one transaction sees them; all methods are awaited.

    Queries return at once: iterate over them with ``async for``, best inside ``async with``.
    """

    __slots__ = ()
    _transaction: AsyncTransaction

    def __init__(self, transaction: AsyncTransaction) -> None:
        self._transaction = transaction

    async def get_state(self, key: str) -> bytes | None:
        """Read a value; None when there is none."""
        return await self._transaction.run(requests.get_state(key))

    async def get_multiple_states(self, *keys: str) -> list[bytes | None]:
        """Read many values in one request where the peer can, in the order of the keys."""
        return await self._transaction.run(requests.get_multiple(keys, self._transaction.limits))

    async def put_state(self, key: str, value: bytes | str) -> None:
        """Write a value; an empty one deletes the key."""
        await self._transaction.write(self._transaction.writes.put(key, as_bytes(value)))

    async def del_state(self, key: str) -> None:
        """Delete a key."""
        await self._transaction.write(self._transaction.writes.delete(key))

    async def set_state_validation_parameter(self, key: str, policy: bytes) -> None:
        """Set the endorsement policy of a key; see `KeyEndorsementPolicy`."""
        await self._transaction.write(
            self._transaction.writes.set_validation_parameter(key, policy)
        )

    async def get_state_validation_parameter(self, key: str) -> bytes | None:
        """Read the endorsement policy of a key; None when it has none."""
        return await self._transaction.run(requests.get_validation_parameter(key))

    def get_state_by_range(self, start: str, end: str) -> Results[KeyValue]:
        """Iterate over simple keys from *start* up to and without *end*; empty means no bound."""
        from . import queries, results

        return results.Results(
            self._transaction, queries.key_range(start, end), results.as_key_value
        )

    def get_state_by_partial_composite_key(
        self, object_type: str, attributes: Iterable[str]
    ) -> Results[KeyValue]:
        """Iterate over the composite keys that begin with these parts."""
        from . import queries, results

        return results.Results(
            self._transaction, queries.partial_key(object_type, attributes), results.as_key_value
        )

    def get_query_result(self, query: str) -> Results[KeyValue]:
        """Iterate over the results of a rich query, which has no protection against phantoms."""
        from . import queries, results

        return results.Results(self._transaction, queries.rich_query(query), results.as_key_value)

    def get_history_for_key(self, key: str) -> Results[KeyModification]:
        """Iterate over every committed version of a key."""
        from . import queries, results

        return results.Results(self._transaction, queries.history(key), results.as_key_modification)

    async def get_state_by_range_with_pagination(
        self, start: str, end: str, page_size: int, bookmark: str = ""
    ) -> Page[KeyValue]:
        """Read one page of a range. Only in transactions that write nothing."""
        from . import queries, results

        metadata = results.page_request(page_size, bookmark)
        request = queries.key_range(start, end, metadata=metadata)
        return await self._transaction.run(results.fetch_page(request, results.as_key_value))

    async def get_state_by_partial_composite_key_with_pagination(
        self, object_type: str, attributes: Iterable[str], page_size: int, bookmark: str = ""
    ) -> Page[KeyValue]:
        """Read one page of composite keys. Only in transactions that write nothing."""
        from . import queries, results

        metadata = results.page_request(page_size, bookmark)
        request = queries.partial_key(object_type, attributes, metadata=metadata)
        return await self._transaction.run(results.fetch_page(request, results.as_key_value))

    async def get_all_states_composite_key_with_pagination(
        self, page_size: int, bookmark: str = ""
    ) -> Page[KeyValue]:
        """Read one page of all composite keys. Only in transactions that write nothing."""
        from . import queries, results

        metadata = results.page_request(page_size, bookmark)
        request = queries.all_composite_keys(metadata)
        return await self._transaction.run(results.fetch_page(request, results.as_key_value))

    async def get_query_result_with_pagination(
        self, query: str, page_size: int, bookmark: str = ""
    ) -> Page[KeyValue]:
        """Read one page of a rich query. Only in transactions that write nothing."""
        from . import queries, results

        metadata = results.page_request(page_size, bookmark)
        request = queries.rich_query(query, metadata=metadata)
        return await self._transaction.run(results.fetch_page(request, results.as_key_value))

    async def get_private_data(self, collection: str, key: str) -> bytes | None:
        """Read a private value; None when there is none."""
        need_collection(collection)
        return await self._transaction.run(requests.get_state(key, collection))

    async def get_multiple_private_data(self, collection: str, *keys: str) -> list[bytes | None]:
        """Read many private values, in the order of the keys."""
        need_collection(collection)
        return await self._transaction.run(
            requests.get_multiple(keys, self._transaction.limits, collection)
        )

    async def get_private_data_hash(self, collection: str, key: str) -> bytes | None:
        """Read the SHA-256 of a private value, also as a stranger to the collection."""
        need_collection(collection)
        return await self._transaction.run(requests.get_hash(key, collection))

    async def put_private_data(self, collection: str, key: str, value: bytes | str) -> None:
        """Write a private value; an empty one deletes the key."""
        need_collection(collection)
        await self._transaction.write(
            self._transaction.writes.put(key, as_bytes(value), collection)
        )

    async def del_private_data(self, collection: str, key: str) -> None:
        """Delete a private key."""
        need_collection(collection)
        await self._transaction.write(self._transaction.writes.delete(key, collection))

    async def purge_private_data(self, collection: str, key: str) -> None:
        """Delete a private key and every value it ever had."""
        need_collection(collection)
        await self._transaction.write(self._transaction.writes.purge(key, collection))

    async def set_private_data_validation_parameter(
        self, collection: str, key: str, policy: bytes
    ) -> None:
        """Set the endorsement policy of a private key."""
        need_collection(collection)
        await self._transaction.write(
            self._transaction.writes.set_validation_parameter(key, policy, collection)
        )

    async def get_private_data_validation_parameter(
        self, collection: str, key: str
    ) -> bytes | None:
        """Read the endorsement policy of a private key; None when it has none."""
        need_collection(collection)
        return await self._transaction.run(requests.get_validation_parameter(key, collection))

    def get_private_data_by_range(self, collection: str, start: str, end: str) -> Results[KeyValue]:
        """Iterate over private simple keys. Only in transactions that write nothing private."""
        from . import queries, results

        need_collection(collection)
        return results.Results(
            self._transaction, queries.key_range(start, end, collection), results.as_key_value
        )

    def get_private_data_by_partial_composite_key(
        self, collection: str, object_type: str, attributes: Iterable[str]
    ) -> Results[KeyValue]:
        """Iterate over private composite keys that begin with these parts."""
        from . import queries, results

        need_collection(collection)
        return results.Results(
            self._transaction,
            queries.partial_key(object_type, attributes, collection),
            results.as_key_value,
        )

    def get_private_data_query_result(self, collection: str, query: str) -> Results[KeyValue]:
        """Iterate over the results of a rich query on private data."""
        from . import queries, results

        need_collection(collection)
        return results.Results(
            self._transaction, queries.rich_query(query, collection), results.as_key_value
        )

    async def invoke_chaincode(
        self, name: str, args: Iterable[bytes | str], channel: str = ""
    ) -> Response:
        """Call another chaincode in the same transaction and return its response.

        On another channel the call is a query: what the callee writes there is thrown away. A
        failing callee does not raise; look at ``status``.
        """
        return await self._transaction.run(requests.invoke_chaincode(name, args, channel))

    def start_write_batch(self) -> bool:
        """Collect writes from now on, where the peer offers that; tell whether a batch was opened.

        The last write of a key wins. What is left open when the function returns is sent then.
        """
        return self._transaction.writes.start_batch()

    async def finish_write_batch(self) -> None:
        """Send the collected writes and write directly again; does nothing without a batch."""
        await self._transaction.run(self._transaction.writes.finish_batch())

    @asynccontextmanager
    async def write_batch(self) -> AsyncIterator[None]:
        """Collect the writes of a ``async with`` block; nested blocks join the outer one.

        They are sent at the end also when the block raises, as they are on a peer without batches.
        """
        opened = self.start_write_batch()
        try:
            yield
        finally:
            if opened:
                await self.finish_write_batch()
