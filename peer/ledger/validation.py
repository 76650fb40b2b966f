"""Decide which transactions of a block are valid and what they change.

Room:      peer.ledger   (imports fabric_protos; used by commit)
Loop:      Trio; gives way after every chunk of a range. Applying awaits nothing
Lifetime:  one block
Fabric:    core/ledger/kvledger/txmgmt/validation/{validator,tx_ops}.go (release-2.5)

Every transaction is checked against the committed state overlaid by the valid transactions before
it. A point read conflicts with any earlier write of its key in the block, even of the same value; a
range is read again over the overlay and must give the same keys and versions.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import merge
from operator import itemgetter
from typing import NamedTuple

import trio

from fabric_protos.codec import encode
from fabric_protos.kvrwset import (
    KvMetadataEntry,
    KvMetadataWrite,
    KvRead,
    QueryReadsMerkleSummary,
    RangeQueryInfo,
)
from fabric_protos.kvrwset import Version as VersionMessage
from fabric_protos.wire import delimited, delimited_two
from peer.ledger.api import ValidationCode, Version
from peer.ledger.blocks import version_bytes
from peer.ledger.merkle import RangeReads, UnusableSummary
from peer.ledger.snapshot import Snapshot, Stored, hash_namespace, private_namespace
from peer.ledger.store import PastWrites, StateChanges
from peer.ledger.transactions import CollectionSet, NamespaceSet

CHUNK_ROWS = 1000
CHANNEL_CONFIG_KEY = "CHANNEL_CONFIG_ENV_BYTES"
"""Where the state holds the channel's configuration, in the namespace without a name."""

NO_VERSION = Version(0, 0)

log = logging.getLogger(__name__)

PUT, MARK, UNMARK, DELETE = 1, 2, 4, 8
"""What a transaction can do to a key: put a value, put metadata, remove metadata, delete."""


class Changes(NamedTuple):
    """What a transaction does to the keys of a namespace: sums of steps, and the last that is put.

    A simulator lets no step of a key come twice. A forged set may, and Fabric adds up: two puts
    are a mark. What a block means depends on that, so it is no different here.

    Attributes:
        steps: of every key, in the order of the first.
        values, metadata: of those where something is put.
    """

    steps: Mapping[bytes, int]
    values: Mapping[bytes, bytes]
    metadata: Mapping[bytes, bytes]


@dataclass(slots=True)
class Overlay:
    """What the valid transactions of a block have changed so far; no value is a deleted key."""

    snapshot: Snapshot
    changes: defaultdict[str, dict[bytes, Stored]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _keys: defaultdict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def keys(self, namespace: str) -> list[bytes]:
        """Return the keys that were changed, in order."""
        changed, keys = self.changes[namespace], self._keys[namespace]
        if len(keys) != len(changed):  # none ever goes
            keys = self._keys[namespace] = sorted(changed)
        return keys

    def latest(self, namespace: str, key: bytes) -> Stored | None:
        """Return what is stored under a key after the changes."""
        changed = self.changes[namespace].get(key)
        if changed is None:
            return self.snapshot.get(namespace, key)
        return changed if changed.value else None

    def metadata(self, namespace: str, key: bytes) -> bytes:
        """Return the metadata of a key after the changes, empty when it does not exist."""
        changed = self.changes[namespace].get(key)
        return self.snapshot.metadata(namespace, key) if changed is None else changed.metadata

    def put(self, namespace: str, key: bytes, stored: Stored) -> None:
        """Change a key."""
        self.changes[namespace][key] = stored

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
        keys = self.keys(namespace)
        stop = (bisect_right if include_end else bisect_left)(keys, end) if end else len(keys)
        ours = [(key, changed[key]) for key in keys[bisect_left(keys, start) : stop]]
        if end and include_end:
            end += b"\0"  # the least key after it
        theirs = (item for item in self._committed(namespace, start, end) if item[0] not in changed)
        live = ((key, stored.version) for key, stored in ours if stored.value)
        return merge(live, theirs, key=itemgetter(0))

    def _committed(
        self, namespace: str, start: bytes, end: bytes
    ) -> Iterator[tuple[bytes, Version]]:
        while rows := self.snapshot.scan(namespace, start, end, CHUNK_ROWS):
            for key, _, block, tx in rows:
                yield key, Version(block, tx)
            start = rows[-1][0] + b"\0"

    def apply(self, namespace: str, changes: Changes, version: Version) -> None:
        """Apply what one transaction does to one namespace.

        A value alone keeps the key's metadata, metadata alone its value, with the new version;
        metadata of a missing key is ignored and goes with a deleted one.
        """
        steps, values, marks = changes
        changed = self.changes[namespace]
        has_metadata = bool(changed) or self.snapshot.is_marked(namespace)
        for key, done in steps.items():
            if done == PUT:
                kept = self.metadata(namespace, key) if has_metadata else b""
                stored = Stored(values[key], kept, version)
            elif done & DELETE:
                stored = Stored(b"", b"", version)
            elif done & PUT and done & (MARK | UNMARK):
                stored = Stored(values.get(key, b""), marks.get(key, b""), version)
            elif (latest := self.latest(namespace, key)) is not None:
                stored = Stored(latest.value, marks.get(key, b""), version)
            else:
                continue
            changed[key] = stored


class BlockValidation:
    """Checks the transactions of one block, in order, and collects what the valid ones change."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._overlay = Overlay(snapshot)
        self._namespaces: dict[str, set[str]] = {}
        """The collections of each namespace that has been written."""

    @property
    def written(self) -> frozenset[str]:
        """The namespaces that the transactions taken over write to."""
        changes = self._overlay.changes.items()
        return frozenset(name.partition("$$")[0] for name, changed in changes if changed)

    async def check(self, namespaces: Sequence[NamespaceSet]) -> ValidationCode:
        """Tell whether what a transaction read still holds."""
        try:
            for namespace in namespaces:
                code = await self._check(namespace)
                if code is not ValidationCode.VALID:
                    return code
        except UnusableSummary as exc:
            log.warning("a transaction is invalid: %s", exc)
            return ValidationCode.INVALID_OTHER_REASON
        return ValidationCode.VALID

    def apply(self, namespaces: Sequence[NamespaceSet], version: Version) -> list[PastWrites]:
        """Take a transaction's changes over; return its public ones for the history."""
        return [self._apply(namespace, version) for namespace in namespaces]

    def configure(self, config: bytes, version: Version) -> None:
        """Take a channel configuration over."""
        self._overlay.apply("", _changes([(CHANNEL_CONFIG_KEY.encode(), config)]), version)

    def expire(self, namespace: str, collection: str, key_hash: bytes) -> None:
        """Delete a private key, unless the block changes it.

        Call after `updates`, which does not cover such deletes.
        """
        hashes = hash_namespace(namespace, collection)
        if key_hash not in self._overlay.changes[hashes]:
            self._namespaces.setdefault(namespace, set()).add(collection)
            self._overlay.put(hashes, key_hash, Stored(b"", b"", NO_VERSION))

    def updates(self) -> bytes:
        """Return what a commit hash covers: the last change of every public and hashed key.

        It is a marshalled ``Updates``; there may be too many changes for an object each.
        """
        writes = []
        last: Version | None = None
        height = b""
        for namespace in sorted(filter(None, self._namespaces)):
            name = delimited(b"\x0a", namespace.encode())  # told once, as is the collection's
            for collection in ("", *sorted(self._namespaces[namespace])):
                where = hash_namespace(namespace, collection) if collection else namespace
                told = delimited(b"\x12", collection.encode()) if collection else b""
                changed = self._overlay.changes[where]
                for key in self._overlay.keys(where):
                    value, _, version = changed[key]
                    if version is not last:  # what was written together has the same
                        last, height = version, delimited(b"\x32", version_bytes(version))
                    put = delimited_two(b"\x1a", key, b"\x2a", value)
                    if not value:
                        put += b"\x20\x01"
                    writes.append(delimited(b"\x0a", name + told + put + height))
                    name = told = b""
        return b"".join(writes)

    def changes(self) -> StateChanges:
        """Return what the block changes in the state."""
        overlay = self._overlay
        state = {
            namespace: {key: changed[key] for key in overlay.keys(namespace)}
            for namespace, changed in overlay.changes.items()
        }
        values = {
            hash_namespace(namespace, collection): private_namespace(namespace, collection)
            for namespace, collections in self._namespaces.items()
            for collection in collections
        }
        purged = [
            (values[hashes], key)
            for hashes in values.keys() & state.keys()
            for key, stored in state[hashes].items()
            if not stored.value
        ]
        return StateChanges(state, frozenset(values.values()), purged)

    async def _check(self, namespace: NamespaceSet) -> ValidationCode:
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

    def _apply(self, namespace: NamespaceSet, version: Version) -> PastWrites:
        public = namespace.public
        keys = [write.key.encode() for write in public.writes]
        values = [b"" if write.is_delete else write.value for write in public.writes]
        marks = ((write.key.encode(), write.entries) for write in public.metadata_writes)
        changes = _changes(zip(keys, values, strict=True), marks)
        self._overlay.apply(namespace.name, changes, version)
        written = self._namespaces.setdefault(namespace.name, set())
        for collection in namespace.collections:
            written.add(collection.name)
            self._apply_collection(namespace.name, collection, version)
        first = dict(zip(reversed(keys), reversed(values), strict=True))
        return PastWrites(namespace.name, version.tx, first)

    def _apply_collection(
        self, namespace: str, collection: CollectionSet, version: Version
    ) -> None:
        overlay = self._overlay
        hashes = hash_namespace(namespace, collection.name)
        values = private_namespace(namespace, collection.name)
        writes = (
            (write.key_hash, b"" if write.is_delete or write.is_purge else write.value_hash)
            for write in collection.hashed.hashed_writes
        )
        marks = ((write.key_hash, write.entries) for write in collection.hashed.metadata_writes)
        overlay.apply(hashes, _changes(writes, marks), version)
        if collection.private is None:
            return
        private = {
            write.key.encode(): b"" if write.is_delete else write.value
            for write in collection.private.writes
        }
        overlay.apply(values, _changes(private.items()), version)
        # A private value has no metadata of its own, but its version follows that of its hash.
        marked = {write.key.encode() for write in collection.private.metadata_writes}
        for key in marked - private.keys():
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
        reads.add(key, *version)
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


def _changes(
    writes: Iterable[tuple[bytes, bytes]],
    marks: Iterable[tuple[bytes, Sequence[KvMetadataEntry]]] = (),
) -> Changes:
    """Return what is done to each key; an empty value deletes it, no entries its metadata."""
    steps, values, metadata = (
        defaultdict[bytes, int](int),
        dict[bytes, bytes](),
        dict[bytes, bytes](),
    )
    for key, value in writes:
        if value:
            steps[key] += PUT
            values[key] = value
        else:
            steps[key] += DELETE
    for key, entries in marks:
        if entries:
            steps[key] += MARK
            metadata[key] = encode(KvMetadataWrite(entries=list(entries)))
        else:
            steps[key] += UNMARK
    return Changes(steps, values, metadata)


def _version(message: VersionMessage | None) -> Version | None:
    return None if message is None else Version(message.block_num, message.tx_num)
