"""Decide which transactions of a block are valid and what they change.

Room:      peer.ledger   (imports fabric_protos; used by kvledger)
Loop:      Trio; gives way after every transaction and every chunk of a range
Lifetime:  one block
Fabric:    core/ledger/kvledger/txmgmt/validation/{validator,tx_ops}.go (release-2.5)

Every transaction is checked against the committed state overlaid by the valid transactions before
it. A point read conflicts with any earlier write of its key in the block, even of the same value; a
range is read again over the overlay and must give the same keys and versions.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import merge
from operator import itemgetter

import trio

from fabric_protos.codec import DecodeError, decode, encode
from fabric_protos.kvrwset import (
    HashedRwSet,
    KvMetadataEntry,
    KvMetadataWrite,
    KvRead,
    KvrwSet,
    QueryReadsMerkleSummary,
    RangeQueryInfo,
)
from fabric_protos.kvrwset import Version as VersionMessage
from fabric_protos.rwset import TxPvtReadWriteSet, TxReadWriteSet
from peer.ledger.api import CommittingTransaction, ValidationCode, Version
from peer.ledger.merkle import RangeReads, UnusableSummary
from peer.ledger.rwset import kv_read
from peer.ledger.store import (
    BlockRows,
    Snapshot,
    StateRow,
    Store,
    Stored,
    TransactionRow,
    hash_namespace,
    private_namespace,
)

CHUNK_ROWS = 1000

log = logging.getLogger(__name__)

Writes = Mapping[bytes, bytes]
"""Key to value; an empty value deletes the key."""


@dataclass(frozen=True, slots=True)
class _CollectionSet:
    name: str
    hashed: HashedRwSet
    private: KvrwSet | None
    """The values behind the hashes, None where this peer has not got them."""


@dataclass(frozen=True, slots=True)
class _NamespaceSet:
    name: str
    public: KvrwSet
    collections: Sequence[_CollectionSet]


@dataclass(slots=True)
class Overlay:
    """What the valid transactions of a block have changed so far; None is a deleted key."""

    snapshot: Snapshot
    changes: defaultdict[str, dict[bytes, Stored | None]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    sorted_keys: defaultdict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def latest(self, namespace: str, key: bytes) -> Stored | None:
        """Return what is stored under a key after the changes."""
        changed = self.changes[namespace]
        return changed[key] if key in changed else self.snapshot.get(namespace, key)

    def put(self, namespace: str, key: bytes, stored: Stored | None) -> None:
        """Change a key."""
        changed = self.changes[namespace]
        if key not in changed:
            insort(self.sorted_keys[namespace], key)
        changed[key] = stored

    def conflicts(self, namespace: str, key: bytes, version: VersionMessage | None) -> bool:
        """Tell whether a read of this version no longer holds."""
        if key in self.changes[namespace]:
            return True
        committed = self.snapshot.get(namespace, key)
        return (committed and committed.version) != _version(version)

    def scan(
        self, namespace: str, start: bytes, end: bytes, *, include_end: bool
    ) -> Iterator[tuple[bytes, Version]]:
        """Yield keys and versions of a range, changes included; an empty end is no bound."""
        changed = self.changes[namespace]
        keys = self.sorted_keys[namespace]
        stop = (bisect_right if include_end else bisect_left)(keys, end) if end else len(keys)
        ours = [(key, changed[key]) for key in keys[bisect_left(keys, start) : stop]]
        if end and include_end:
            end += b"\0"  # the least key after it
        theirs = (item for item in self._committed(namespace, start, end) if item[0] not in changed)
        live = ((key, stored.version) for key, stored in ours if stored is not None)
        return merge(live, theirs, key=itemgetter(0))

    def _committed(
        self, namespace: str, start: bytes, end: bytes
    ) -> Iterator[tuple[bytes, Version]]:
        while rows := self.snapshot.scan(namespace, start, end, CHUNK_ROWS):
            for row in rows:
                yield row.key, row.version
            start = rows[-1].key + b"\0"

    def apply(
        self,
        namespace: str,
        writes: Writes,
        metadata: Mapping[bytes, bytes],
        version: Version,
    ) -> None:
        """Apply one transaction's writes to one namespace.

        A write alone keeps the key's metadata, a metadata write alone its value, with the new
        version; metadata of a missing key is ignored and goes with a deleted one.
        """
        for key, value in writes.items():
            if not value:
                self.put(namespace, key, None)
                continue
            kept = metadata.get(key)
            if kept is None:
                latest = self.latest(namespace, key)
                kept = b"" if latest is None else latest.metadata
            self.put(namespace, key, Stored(value, kept, version))
        for key, new in metadata.items():
            if key in writes:
                continue
            latest = self.latest(namespace, key)
            if latest is not None:
                self.put(namespace, key, Stored(latest.value, new, version))


class BlockValidation:
    """Validates the transactions of one block, in order, and collects the rows they add."""

    def __init__(self, store: Store, snapshot: Snapshot, *, history: bool) -> None:
        self._store = store
        self._number = snapshot.height
        self._overlay = Overlay(snapshot)
        self._keeps_history = history
        self._tx_ids: set[str] = set()
        self._transactions: list[TransactionRow] = []
        self._history: list[tuple[str, bytes, int, bytes | None]] = []
        self._hash_namespaces: dict[str, str] = {}

    async def add(self, transaction: CommittingTransaction) -> ValidationCode:
        """Judge the next transaction and take its changes over when it is valid."""
        await trio.lowlevel.checkpoint()
        code = await self._judge(transaction)
        self._transactions.append(TransactionRow(transaction.tx_id, code, transaction.timestamp))
        return code

    def rows(self) -> BlockRows:
        """Return what the block adds to the store."""
        state: list[StateRow] = []
        private: list[tuple[StateRow, bytes]] = []
        purged: list[tuple[str, bytes]] = []
        private_namespaces = set(self._hash_namespaces.values())
        none = Version(0, 0)
        for namespace, changed in self._overlay.changes.items():
            for key in self._overlay.sorted_keys[namespace]:
                stored = changed[key]
                row = StateRow(namespace, key, *(stored or (None, b"", none)))
                if stored is not None and namespace in private_namespaces:
                    private.append((row, sha256(key).digest()))
                else:
                    state.append(row)
                if stored is None and namespace in self._hash_namespaces:
                    purged.append((self._hash_namespaces[namespace], key))
        return BlockRows(
            number=self._number,
            transactions=self._transactions,
            state=state,
            private=private,
            purged=purged,
            history=self._history,
        )

    async def _judge(self, transaction: CommittingTransaction) -> ValidationCode:
        if transaction.tx_id in self._tx_ids or self._store.has_transaction(transaction.tx_id):
            return ValidationCode.DUPLICATE_TXID
        try:
            namespaces = _decode(transaction)
            # An id stays free after a transaction that is no transaction, not after a conflict.
            self._tx_ids.add(transaction.tx_id)
            for namespace in namespaces:
                code = await self._check(namespace)
                if code is not ValidationCode.VALID:
                    return code
        except (DecodeError, UnusableSummary) as exc:
            log.warning("transaction %s is invalid: %s", transaction.tx_id, exc)
            return ValidationCode.INVALID_OTHER_REASON
        version = Version(self._number, len(self._transactions))
        for namespace in namespaces:
            self._apply(namespace, version)
        return ValidationCode.VALID

    async def _check(self, namespace: _NamespaceSet) -> ValidationCode:
        overlay, public = self._overlay, namespace.public
        for read in public.reads:
            if overlay.conflicts(namespace.name, read.key.encode(), read.version):
                return ValidationCode.MVCC_READ_CONFLICT
        for query in public.range_queries_info:
            if not await self._repeats(namespace.name, query):
                return ValidationCode.PHANTOM_READ_CONFLICT
        for collection in namespace.collections:
            hashes = hash_namespace(namespace.name, collection.name)
            for hashed in collection.hashed.hashed_reads:
                if overlay.conflicts(hashes, hashed.key_hash, hashed.version):
                    return ValidationCode.MVCC_READ_CONFLICT
        return ValidationCode.VALID

    async def _repeats(self, namespace: str, query: RangeQueryInfo) -> bool:
        """Tell whether a range query would give the same results again."""
        summary = query.reads_merkle_hashes
        recorded = query.raw_reads.kv_reads if query.raw_reads else []
        found = self._overlay.scan(
            namespace,
            query.start_key.encode(),
            query.end_key.encode(),
            include_end=not query.itr_exhausted,
        )
        summary = query.reads_merkle_hashes
        if summary is None:
            recorded = query.raw_reads.kv_reads if query.raw_reads else []
            return await _same_reads(found, recorded)
        return await _same_summary(found, summary)

    def _apply(self, namespace: _NamespaceSet, version: Version) -> None:
        public = namespace.public
        writes = _once(
            (write.key.encode(), b"" if write.is_delete else write.value) for write in public.writes
        )
        metadata = _metadata(
            (write.key.encode(), write.entries) for write in public.metadata_writes
        )
        self._overlay.apply(namespace.name, writes, metadata, version)
        if self._keeps_history:
            self._history += (
                (namespace.name, key, version.tx, value or None) for key, value in writes.items()
            )
        for collection in namespace.collections:
            self._apply_collection(namespace.name, collection, version)

    def _apply_collection(
        self, namespace: str, collection: _CollectionSet, version: Version
    ) -> None:
        overlay = self._overlay
        hashes = hash_namespace(namespace, collection.name)
        values = private_namespace(namespace, collection.name)
        self._hash_namespaces[hashes] = values
        writes = _once(
            (write.key_hash, b"" if write.is_delete or write.is_purge else write.value_hash)
            for write in collection.hashed.hashed_writes
        )
        metadata = _metadata(
            (write.key_hash, write.entries) for write in collection.hashed.metadata_writes
        )
        overlay.apply(hashes, writes, metadata, version)
        if collection.private is None:
            return
        private = _once(
            (write.key.encode(), b"" if write.is_delete else write.value)
            for write in collection.private.writes
        )
        overlay.apply(values, private, {}, version)
        # A private value has no metadata of its own, but its version follows that of its hash.
        for key in {write.key.encode() for write in collection.private.metadata_writes} - set(
            private
        ):
            held = overlay.latest(values, key)
            known = overlay.latest(hashes, sha256(key).digest())
            if held and known and sha256(held.value).digest() == known.value:
                overlay.put(values, key, Stored(held.value, b"", known.version))


async def _same_reads(found: Iterator[tuple[bytes, Version]], recorded: Sequence[KvRead]) -> bool:
    for read in recorded:
        if next(found, None) != (read.key.encode(), _version(read.version)):
            return False
    await trio.lowlevel.checkpoint()
    return next(found, None) is None


async def _same_summary(
    found: Iterator[tuple[bytes, Version]], recorded: QueryReadsMerkleSummary
) -> bool:
    reads = RangeReads(recorded.max_degree)
    for count, (key, version) in enumerate(found, start=1):
        reads.add(kv_read(key.decode(), version))
        if count % CHUNK_ROWS == 0:
            await trio.lowlevel.checkpoint()
    match reads.done():
        case QueryReadsMerkleSummary() as summary:
            return (summary.max_level, summary.max_level_hashes) == (
                recorded.max_level,
                recorded.max_level_hashes,
            )
        case _:
            return False


def _decode(transaction: CommittingTransaction) -> list[_NamespaceSet]:
    """Return everything the transaction read and wrote, with the private values that fit."""
    held = {
        (namespace.namespace, collection.collection_name): collection.rwset
        for namespace in decode(TxPvtReadWriteSet, transaction.results.private).ns_pvt_rwset
        for collection in namespace.collection_pvt_rwset
    }
    result = []
    for namespace in decode(TxReadWriteSet, transaction.results.public).ns_rwset:
        collections = []
        for collection in namespace.collection_hashed_rwset:
            private = held.get((namespace.namespace, collection.collection_name))
            if private is not None and sha256(private).digest() != collection.pvt_rwset_hash:
                log.warning(
                    "transaction %s: private data of %s/%s does not fit its hash; ignored",
                    transaction.tx_id,
                    namespace.namespace,
                    collection.collection_name,
                )
                private = None
            collections.append(
                _CollectionSet(
                    collection.collection_name,
                    decode(HashedRwSet, collection.hashed_rwset),
                    None if private is None else decode(KvrwSet, private),
                )
            )
        result.append(
            _NamespaceSet(namespace.namespace, decode(KvrwSet, namespace.rwset), collections)
        )
    return result


def _once(writes: Iterable[tuple[bytes, bytes]]) -> Writes:
    """Return the writes by key, without keys that a forged set writes twice: Fabric drops those."""
    pairs = list(writes)
    counts = Counter(key for key, _ in pairs)
    return {key: value for key, value in pairs if counts[key] == 1}


def _metadata(
    writes: Iterable[tuple[bytes, Sequence[KvMetadataEntry]]],
) -> dict[bytes, bytes]:
    """Return the marshalled metadata by key; no entries delete what there was."""
    return {
        key: encode(KvMetadataWrite(entries=list(entries))) if entries else b""
        for key, entries in writes
    }


def _version(message: VersionMessage | None) -> Version | None:
    return None if message is None else Version(message.block_num, message.tx_num)
