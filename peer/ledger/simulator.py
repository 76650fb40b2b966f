"""Read a snapshot and record what a simulation reads and writes.

Room:      peer.ledger   (imports fabric_protos; opened by kvledger)
Loop:      Trio; point reads and writes are synchronous, ranges give way between chunks
Lifetime:  one execution
Fabric:    core/ledger/kvledger/txmgmt/txmgr/{query_executor,tx_simulator}.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import trio

from fabric_protos.codec import decode
from fabric_protos.kvrwset import KvMetadataWrite
from peer.errors import LedgerError
from peer.ledger.api import KV, ResultsIterator, SimulationResults, Version
from peer.ledger.documents import DocumentReader
from peer.ledger.planning import plan
from peer.ledger.queries import QueryResults, parse_query
from peer.ledger.rwset import RangeQuery, RwSetBuilder, hash_key
from peer.ledger.snapshot import ScannedRow, Snapshot, Stored, hash_namespace, private_namespace

IMPLICIT_COLLECTION_PREFIX = "_implicit_org_"
CHUNK_ROWS = 1000
"""Rows read before other tasks get their turn; about a millisecond."""

CollectionNames = Callable[[str], Collection[str] | None]
"""Maps a chaincode to its collections; asked at every use, so that definitions may change."""

Scan = Callable[[bytes, int], list[ScannedRow]]


class RangeIterator:
    """Records of one range, read from the snapshot as they are taken."""

    def __init__(
        self, namespace: str, start_key: str, scan: Scan, recorded: RangeQuery | None = None
    ) -> None:
        self._namespace = namespace
        self._position = start_key.encode()
        self._scan = scan
        self._recorded = recorded
        self._is_exhausted = False

    async def take(self, count: int) -> Sequence[KV]:
        """Return the next `count` records; fewer only when there are no more.

        Cancellation: nothing was taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        rows: list[ScannedRow] = []
        position, is_exhausted = self._position, self._is_exhausted
        while len(rows) < count and not is_exhausted:
            if rows:
                await trio.lowlevel.checkpoint()
            wanted = min(CHUNK_ROWS, count - len(rows))
            found = self._scan(position, wanted)
            rows += found
            is_exhausted = len(found) < wanted
            if found:
                position = found[-1][0] + b"\0"  # the least key after the last one
        self._position, self._is_exhausted = position, is_exhausted
        if self._recorded is not None:
            if rows:
                self._recorded.add(rows)
            self._recorded.is_exhausted = is_exhausted
        namespace = self._namespace
        return [KV(namespace, key.decode(), value) for key, value, _, _ in rows]

    def bookmark(self) -> str:
        """Return the next key there is, empty at the end."""
        found = [] if self._is_exhausted else self._scan(self._position, 1)
        return found[0][0].decode() if found else ""

    def close(self) -> None:
        """Do nothing: between two calls only the simulation's snapshot is held."""


class QueryExecutor:
    """Reads of one snapshot, recorded nowhere."""

    def __init__(
        self,
        snapshot: Snapshot,
        collection_names: CollectionNames,
        documents: DocumentReader | None = None,
    ) -> None:
        self._held: Snapshot | None = snapshot
        self._collection_names = collection_names
        self._documents = documents

    @property
    def _snapshot(self) -> Snapshot:
        if self._held is None:
            raise LedgerError("this instance should not be used after calling Done()")
        return self._held

    def get_state(self, namespace: str, key: str) -> bytes | None:
        """Return a key's value, None when it does not exist."""
        found = self._snapshot.get(namespace, key.encode())
        self._record_read(namespace, key, found and found.version)
        return None if found is None else found.value

    def get_state_multiple(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of several keys, in their order."""
        return [self.get_state(namespace, key) for key in keys]

    def get_state_metadata(self, namespace: str, key: str) -> Mapping[str, bytes]:
        """Return a key's metadata."""
        return _entries(self._snapshot.metadata(namespace, key.encode()))

    def get_state_range(self, namespace: str, start_key: str, end_key: str) -> RangeIterator:
        """Return the records with start_key <= key < end_key; an empty key is no bound."""
        return RangeIterator(namespace, start_key, self._scanner(namespace, end_key))

    def get_state_range_page(
        self, namespace: str, start_key: str, end_key: str, bookmark: str
    ) -> RangeIterator:
        """Like `get_state_range`, from `bookmark` on if there is one."""
        return self.get_state_range(namespace, bookmark or start_key, end_key)

    async def execute_query(
        self, namespace: str, query: str, *, bookmark: str = "", page_size: int = 0
    ) -> ResultsIterator[KV]:
        """Run a rich query over the values that are JSON objects.

        Raises:
            QueryError: the query is malformed, or the bookmark is of another one.
        """
        await trio.lowlevel.checkpoint()

        def record(key: str, version: Version) -> None:
            self._record_read(namespace, key, version)

        if self._documents is not None:
            return self._documents.query(
                lambda: self._snapshot, namespace, query, bookmark=bookmark, record=record
            )
        planned, scan = plan(lambda: self._snapshot, namespace, parse_query(query))
        return QueryResults(namespace, planned, scan, bookmark=bookmark, record=record)

    def get_private_data(self, namespace: str, collection: str, key: str) -> bytes | None:
        """Return a private value, None when the key does not exist.

        Raises:
            LedgerError: there is no such collection, or the value that belongs to the public hash
                has not reached this peer.
        """
        hashed = self._hashed(namespace, collection, key)
        private = self._snapshot.get(private_namespace(namespace, collection), key.encode())
        version = hashed and hashed.version
        held = private and private.version
        if version != held:
            raise LedgerError(
                "private data matching public hash version is not available. "
                f"Public hash version = {_height(version)}, Private data version = {_height(held)}"
            )
        self._record_private_read(namespace, collection, key, version)
        return None if private is None else private.value

    def get_private_data_multiple(
        self, namespace: str, collection: str, keys: Sequence[str]
    ) -> list[bytes | None]:
        """Return the private values of several keys, in their order."""
        return [self.get_private_data(namespace, collection, key) for key in keys]

    def get_private_data_hash(self, namespace: str, collection: str, key: str) -> bytes | None:
        """Return the hash of a private value, which every peer has."""
        found = self._read_hash(namespace, collection, key)
        return None if found is None else found.value

    def get_private_data_metadata(
        self, namespace: str, collection: str, key: str
    ) -> Mapping[str, bytes]:
        """Return a private key's metadata; reading it counts as reading the key."""
        found = self._read_hash(namespace, collection, key)
        return {} if found is None else _entries(found.metadata)

    def has_metadata(self, namespace: str, collection: str = "") -> bool:
        """Tell whether any key of a namespace, or of a collection, has metadata; not noted."""
        where = hash_namespace(namespace, collection) if collection else namespace
        return self._snapshot.is_marked(where)

    def get_private_data_metadata_by_hash(
        self, namespace: str, collection: str, key_hash: bytes
    ) -> Mapping[str, bytes]:
        """Return the metadata of a key of which only the hash is known; the read is not noted."""
        return _entries(self._snapshot.metadata(hash_namespace(namespace, collection), key_hash))

    def get_private_data_range(
        self, namespace: str, collection: str, start_key: str, end_key: str
    ) -> RangeIterator:
        """Return private records with start_key <= key < end_key; these are not recorded."""
        self._check_collection(namespace, collection)
        scan = self._scanner(private_namespace(namespace, collection), end_key)
        return RangeIterator(namespace, start_key, scan)

    async def execute_query_on_private_data(
        self, namespace: str, collection: str, query: str
    ) -> ResultsIterator[KV]:
        """Run a rich query over private values; results are not recorded."""
        self._check_collection(namespace, collection)
        await trio.lowlevel.checkpoint()
        where = private_namespace(namespace, collection)
        if self._documents is not None:
            return self._documents.query(lambda: self._snapshot, namespace, query, where=where)
        planned, scan = plan(lambda: self._snapshot, where, parse_query(query))
        return QueryResults(namespace, planned, scan)

    def done(self) -> None:
        """Give the snapshot back. Idempotent."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _read_hash(self, namespace: str, collection: str, key: str) -> Stored | None:
        found = self._hashed(namespace, collection, key)
        self._record_private_read(namespace, collection, key, found and found.version)
        return found

    def _hashed(self, namespace: str, collection: str, key: str) -> Stored | None:
        self._check_collection(namespace, collection)
        return self._snapshot.get(hash_namespace(namespace, collection), hash_key(key))

    def _record_read(self, namespace: str, key: str, version: Version | None) -> None:
        """Do nothing: a simulator records here."""

    def _record_private_read(
        self, namespace: str, collection: str, key: str, version: Version | None
    ) -> None:
        """Do nothing: a simulator records here."""

    def _scanner(self, namespace: str, end_key: str) -> Scan:
        end = end_key.encode()
        return lambda start, limit: self._snapshot.scan(namespace, start, end, limit)

    def _check_collection(self, namespace: str, collection: str) -> None:
        if collection.removeprefix(IMPLICIT_COLLECTION_PREFIX) not in ("", collection):
            return
        defined = self._collection_names(namespace)
        if not defined:
            raise LedgerError(
                f"collection config not defined for chaincode [{namespace}], pass the collection "
                "configuration upon chaincode definition/instantiation"
            )
        if collection not in defined:
            raise LedgerError(
                f"collection [{collection}] not defined in the collection config "
                f"for chaincode [{namespace}]"
            )


class TxSimulator(QueryExecutor):
    """Reads of one snapshot, recorded, and writes, which no read ever sees."""

    def __init__(
        self,
        tx_id: str,
        snapshot: Snapshot,
        collection_names: CollectionNames,
        documents: DocumentReader | None = None,
    ) -> None:
        super().__init__(snapshot, collection_names, documents)
        self._tx_id = tx_id
        self._rwset = RwSetBuilder()
        self._private_reads: set[tuple[str, str]] = set()
        self._has_written = False
        self._forbids_writes = ""
        self._has_results = False

    def get_state_metadata(self, namespace: str, key: str) -> Mapping[str, bytes]:
        """Return a key's metadata; reading it counts as reading the key."""
        self.get_state(namespace, key)
        return super().get_state_metadata(namespace, key)

    def get_state_range(self, namespace: str, start_key: str, end_key: str) -> RangeIterator:
        """Return records of a range; what is taken of it is checked for phantoms at commit."""
        scan = self._scanner(namespace, end_key)
        query = RangeQuery(start_key, end_key)
        self._rwset.add_range_query(namespace, query)
        return RangeIterator(namespace, start_key, scan, query)

    def get_state_range_page(
        self, namespace: str, start_key: str, end_key: str, bookmark: str
    ) -> RangeIterator:
        """Like `get_state_range`, for a page: forbids writes in this simulation."""
        self._begin_page()
        return super().get_state_range_page(namespace, start_key, end_key, bookmark)

    async def execute_query(
        self, namespace: str, query: str, *, bookmark: str = "", page_size: int = 0
    ) -> ResultsIterator[KV]:
        """Run a rich query; what is taken of it counts as read, and a page forbids writes."""
        if bookmark or page_size:
            self._begin_page()
        return await super().execute_query(namespace, query, bookmark=bookmark)

    def get_private_data(self, namespace: str, collection: str, key: str) -> bytes | None:
        """Return a private value; that it was read, and not only its hash, is noted."""
        self._private_reads.add((namespace, collection))
        return super().get_private_data(namespace, collection, key)

    def get_private_data_range(
        self, namespace: str, collection: str, start_key: str, end_key: str
    ) -> RangeIterator:
        """Return private records of a range: forbids writes in this simulation."""
        self._begin_private_query(namespace, collection)
        return super().get_private_data_range(namespace, collection, start_key, end_key)

    async def execute_query_on_private_data(
        self, namespace: str, collection: str, query: str
    ) -> ResultsIterator[KV]:
        """Run a rich query over private values: forbids writes in this simulation."""
        self._begin_private_query(namespace, collection)
        return await super().execute_query_on_private_data(namespace, collection, query)

    def set_state(self, namespace: str, key: str, value: bytes) -> None:
        """Write a value; an empty one deletes the key."""
        self._begin_write()
        self._rwset.add_write(namespace, key, value)

    def set_states(self, namespace: str, values: Mapping[str, bytes]) -> None:
        """Write several values; see `set_state`."""
        self._begin_write()
        self._rwset.add_writes(namespace, values)

    def delete_state(self, namespace: str, key: str) -> None:
        """Delete a key, whether or not it exists."""
        self.set_state(namespace, key, b"")

    def set_state_metadata(self, namespace: str, key: str, metadata: Mapping[str, bytes]) -> None:
        """Replace a key's metadata; an empty mapping deletes it."""
        self._begin_write()
        self._rwset.add_metadata_write(namespace, key, metadata)

    def set_private_data(self, namespace: str, collection: str, key: str, value: bytes) -> None:
        """Write a private value; an empty one deletes the key."""
        self._begin_private_write(namespace, collection)
        self._rwset.add_private_write(namespace, collection, key, value)

    def delete_private_data(self, namespace: str, collection: str, key: str) -> None:
        """Delete a private key, whether or not it exists."""
        self.set_private_data(namespace, collection, key, b"")

    def purge_private_data(self, namespace: str, collection: str, key: str) -> None:
        """Delete a private key and everything it ever held."""
        self._begin_private_write(namespace, collection)
        self._rwset.add_private_write(namespace, collection, key, b"", purge=True)

    def set_private_data_metadata(
        self, namespace: str, collection: str, key: str, metadata: Mapping[str, bytes]
    ) -> None:
        """Replace a private key's metadata, which is public under the key's hash."""
        self._begin_private_write(namespace, collection)
        self._rwset.add_private_metadata_write(namespace, collection, key, metadata)

    def get_tx_simulation_results(self) -> SimulationResults:
        """Return the read-write sets. May be called once; ends the simulation."""
        if self._has_results:
            raise LedgerError(
                "this function should only be called once on a transaction simulator instance"
            )
        self._has_results = True
        try:
            written = self._written()
        finally:
            self.done()
        return self._rwset.results(written, frozenset(self._private_reads))

    def _written(self) -> Mapping[tuple[str, str], Sequence[Mapping[str, bytes]]]:
        """Return the committed metadata of what is written; looking for it is not recorded."""
        found: dict[tuple[str, str], Sequence[Mapping[str, bytes]]] = {}
        snapshot = self._snapshot
        for namespace, collection, keys in self._rwset.written_keys():
            where = hash_namespace(namespace, collection) if collection else namespace
            metadata = {b""}
            if snapshot.is_marked(where):
                raw = map(hash_key if collection else str.encode, keys)
                metadata = {snapshot.metadata(where, key) for key in raw}
            found[namespace, collection] = list(map(_entries, metadata))
        return found

    def _record_read(self, namespace: str, key: str, version: Version | None) -> None:
        self._rwset.add_read(namespace, key, version)

    def _record_private_read(
        self, namespace: str, collection: str, key: str, version: Version | None
    ) -> None:
        self._rwset.add_private_read(namespace, collection, key, version)

    def _begin_write(self) -> None:
        _ = self._snapshot  # refuses writes after the end
        if self._forbids_writes:
            raise self._unsupported(
                f"Transaction has already performed {self._forbids_writes}. Writes are not allowed"
            )
        self._has_written = True

    def _begin_private_write(self, namespace: str, collection: str) -> None:
        self._check_collection(namespace, collection)
        self._begin_write()

    def _begin_page(self) -> None:
        self._begin_read_only("Paginated queries are", "a paginated query")

    def _begin_private_query(self, namespace: str, collection: str) -> None:
        self._private_reads.add((namespace, collection))
        self._begin_read_only("Queries on pvt data is", "queries on pvt data")

    def _begin_read_only(self, what: str, performed: str) -> None:
        if self._has_written:
            raise self._unsupported(f"{what} supported only in a read-only transaction")
        self._forbids_writes = performed

    def _unsupported(self, reason: str) -> LedgerError:
        # The misspelling is Fabric's; clients may look for it.
        return LedgerError(f"txid [{self._tx_id}]: unsuppored transaction. {reason}")


def _entries(metadata: bytes) -> Mapping[str, bytes]:
    if not metadata:
        return {}
    return {entry.name: entry.value for entry in decode(KvMetadataWrite, metadata).entries}


def _height(version: Version | None) -> str:
    """Return a version as Fabric's ``Height.String`` prints it."""
    if version is None:
        return "<nil>"
    return f"{{BlockNum: {version.block}, TxNum: {version.tx}}}"
