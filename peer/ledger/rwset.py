"""Build the read-write set of one simulation.

Room:      peer.ledger   (imports fabric_protos, snapshot; used by simulator)
Loop:      none
Lifetime:  one simulation
Fabric:    core/ledger/kvledger/txmgmt/rwsetutil/rwset_builder.go (release-2.5)

Two peers that run the same chaincode must produce the same bytes, so the order is fixed:
namespaces, collections and keys sorted, range queries in order of first use. Code points sort as
their UTF-8 bytes do, so plain string order is the byte order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType

from fabric_protos.codec import encode
from fabric_protos.kvrwset import (
    HashedRwSet,
    KvMetadataEntry,
    KvMetadataWrite,
    KvMetadataWriteHash,
    KvReadHash,
    KvrwSet,
    KvWriteHash,
    QueryReads,
    RangeQueryInfo,
)
from fabric_protos.kvrwset import Version as VersionMessage
from fabric_protos.rwset import (
    CollectionHashedReadWriteSet,
    CollectionPvtReadWriteSet,
    NsPvtReadWriteSet,
    NsReadWriteSet,
    TxPvtReadWriteSet,
    TxReadWriteSet,
)
from fabric_protos.wire import delimited, delimited_two
from peer.ledger.api import SimulationResults, Version
from peer.ledger.merkle import RangeReads, version_field
from peer.ledger.snapshot import ScannedRow

Metadata = Mapping[str, bytes]


class RangeQuery:
    """One recorded range query, growing while its results are taken."""

    def __init__(self, start_key: str, end_key: str) -> None:
        self.start_key = start_key
        self._end_key = end_key
        self._last_key = ""
        self._reads = RangeReads()
        self.is_exhausted = False

    @property
    def end_key(self) -> str:
        """The end asked for once it was seen, until then the last key returned."""
        return self._end_key if self.is_exhausted else self._last_key

    def add(self, rows: Sequence[ScannedRow]) -> None:
        """Record results, at least one."""
        add = self._reads.add
        for key, _, block, tx in rows:
            add(key, block, tx)
        self._last_key = rows[-1][0].decode()

    def info(self) -> RangeQueryInfo:
        """Return the message of the read set. Call once."""
        info = RangeQueryInfo(
            start_key=self.start_key, end_key=self.end_key, itr_exhausted=self.is_exhausted
        )
        match self._reads.done():
            case QueryReads(kv_reads=[]):
                pass
            case QueryReads() as reads:
                info.raw_reads = reads
            case summary:
                info.reads_merkle_hashes = summary
        return info


@dataclass(slots=True)
class _Collection:
    reads: dict[str, Version | None] = field(default_factory=dict)
    writes: dict[str, bytes] = field(default_factory=dict)
    purges: set[str] = field(default_factory=set)
    metadata: dict[str, Metadata] = field(default_factory=dict)

    def hashed(self, name: str, private: bytes) -> CollectionHashedReadWriteSet:
        rwset = HashedRwSet(
            hashed_reads=[
                KvReadHash(key_hash=hash_key(key), version=_version(version))
                for key, version in sorted(self.reads.items())
            ],
            hashed_writes=[
                KvWriteHash(
                    key_hash=hash_key(key),
                    is_delete=not value,
                    value_hash=sha256(value).digest() if value else b"",
                    is_purge=key in self.purges,
                )
                for key, value in sorted(self.writes.items())
            ],
            metadata_writes=[
                KvMetadataWriteHash(key_hash=hash_key(key), entries=metadata_entries(metadata))
                for key, metadata in sorted(self.metadata.items())
            ],
        )
        return CollectionHashedReadWriteSet(
            collection_name=name,
            hashed_rwset=encode(rwset),
            pvt_rwset_hash=sha256(private).digest() if private else b"",
        )

    def private(self) -> bytes:
        marks = [KvMetadataWrite(key=key) for key in sorted(self.metadata)]
        return _writes(self.writes) + encode(KvrwSet(metadata_writes=marks))


@dataclass(slots=True)
class _Namespace:
    reads: dict[str, Version | None] = field(default_factory=dict)
    range_queries: list[RangeQuery] = field(default_factory=list)
    writes: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, Metadata] = field(default_factory=dict)
    collections: defaultdict[str, _Collection] = field(
        default_factory=lambda: defaultdict(_Collection)
    )

    def public(self) -> bytes:
        # The first of several queries with the same bounds and the same end stands for all.
        ranges: dict[tuple[str, str, bool], RangeQuery] = {}
        for query in self.range_queries:
            ranges.setdefault((query.start_key, query.end_key, query.is_exhausted), query)
        parts = [_read(key.encode(), self.reads[key]) for key in sorted(self.reads)]
        if ranges:
            infos = [query.info() for query in ranges.values()]
            parts.append(encode(KvrwSet(range_queries_info=infos)))
        parts.append(_writes(self.writes))
        if self.metadata:
            marks = [
                KvMetadataWrite(key=key, entries=metadata_entries(metadata))
                for key, metadata in sorted(self.metadata.items())
            ]
            parts.append(encode(KvrwSet(metadata_writes=marks)))
        return b"".join(parts)


class RwSetBuilder:
    """What a simulation reads and writes. An empty value is a delete; the last write wins."""

    def __init__(self) -> None:
        self._namespaces: defaultdict[str, _Namespace] = defaultdict(_Namespace)

    def add_read(self, namespace: str, key: str, version: Version | None) -> None:
        """Record a public read; None is the version of a missing key."""
        self._namespaces[namespace].reads[key] = version

    def add_range_query(self, namespace: str, query: RangeQuery) -> None:
        """Record a range query, which may go on growing."""
        self._namespaces[namespace].range_queries.append(query)

    def add_write(self, namespace: str, key: str, value: bytes) -> None:
        """Record a public write."""
        self._namespaces[namespace].writes[key] = value

    def add_writes(self, namespace: str, values: Mapping[str, bytes]) -> None:
        """Record public writes."""
        self._namespaces[namespace].writes.update(values)

    def add_metadata_write(self, namespace: str, key: str, metadata: Metadata) -> None:
        """Record a public metadata write; an empty mapping deletes all metadata."""
        self._namespaces[namespace].metadata[key] = dict(metadata)

    def add_private_read(
        self, namespace: str, collection: str, key: str, version: Version | None
    ) -> None:
        """Record a read of a collection, which appears only hashed."""
        self._namespaces[namespace].collections[collection].reads[key] = version

    def add_private_write(
        self, namespace: str, collection: str, key: str, value: bytes, *, purge: bool = False
    ) -> None:
        """Record a write of a collection; `purge` marks a delete that reaches into the past."""
        target = self._namespaces[namespace].collections[collection]
        target.writes[key] = value
        (target.purges.add if purge else target.purges.discard)(key)

    def add_private_metadata_write(
        self, namespace: str, collection: str, key: str, metadata: Metadata
    ) -> None:
        """Record a metadata write of a collection."""
        self._namespaces[namespace].collections[collection].metadata[key] = dict(metadata)

    def written_keys(self) -> Iterator[tuple[str, str, Collection[str]]]:
        """Yield each namespace and collection with the keys written there, public ones under "".

        Source: `txSimulator.checkStateMetadata` (release-2.5) is asked about the same keys.
        """
        for name, namespace in self._namespaces.items():
            if keys := namespace.writes.keys() | namespace.metadata.keys():
                yield name, "", keys
            for collection_name, collection in namespace.collections.items():
                if keys := collection.writes.keys() | collection.metadata.keys():
                    yield name, collection_name, keys

    def results(
        self,
        written: Mapping[tuple[str, str], Sequence[Metadata]] = MappingProxyType({}),
        private_reads: frozenset[tuple[str, str]] = frozenset(),
    ) -> SimulationResults:
        """Return the marshalled sets and, as they are given, the rest. Call once."""
        public, private = [], []
        namespaces = sorted(self._namespaces)
        for name in namespaces:
            namespace = self._namespaces[name]
            hashed, secret = [], []
            for collection_name, collection in sorted(namespace.collections.items()):
                rwset = collection.private()
                hashed.append(collection.hashed(collection_name, rwset))
                if rwset:
                    secret.append(
                        CollectionPvtReadWriteSet(collection_name=collection_name, rwset=rwset)
                    )
            public.append(
                NsReadWriteSet(
                    namespace=name, rwset=namespace.public(), collection_hashed_rwset=hashed
                )
            )
            if secret:
                private.append(NsPvtReadWriteSet(namespace=name, collection_pvt_rwset=secret))
        return SimulationResults(
            public=encode(TxReadWriteSet(ns_rwset=public)),
            private=encode(TxPvtReadWriteSet(ns_pvt_rwset=private)) if private else b"",
            namespaces=tuple(namespaces),
            written=written,
            private_reads=private_reads,
        )


def metadata_entries(metadata: Metadata) -> list[KvMetadataEntry]:
    """Return metadata as messages, sorted by name."""
    return [KvMetadataEntry(name=name, value=value) for name, value in sorted(metadata.items())]


def hash_key(key: str) -> bytes:
    """Return what stands for a private key in public."""
    return sha256(key.encode()).digest()


def _version(version: Version | None) -> VersionMessage | None:
    if version is None:
        return None
    return VersionMessage(block_num=version.block, tx_num=version.tx)


def _read(key: bytes, version: Version | None) -> bytes:
    """Return a read of a ``KvrwSet``; a missing key has no version, which is not version (0, 0)."""
    name = delimited(b"\x0a", key) if key else b""
    return delimited(b"\x0a", name if version is None else name + version_field(*version))


def _writes(writes: Mapping[str, bytes]) -> bytes:
    """Return the field ``writes`` of a ``KvrwSet``; there may be too many for an object each."""
    return b"".join([_write(key.encode(), writes[key]) for key in sorted(writes)])


def _write(key: bytes, value: bytes) -> bytes:
    put = delimited_two(b"\x0a", key, b"\x1a", value)
    return delimited(b"\x1a", put if value else put + b"\x10\x01")
