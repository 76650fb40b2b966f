"""What a commit hash covers, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fabric_protos import txmgr
from fabric_protos.codec import encode
from fabric_protos.kvrwset import HashedRwSet, KvrwSet, KvWrite, KvWriteHash
from peer.ledger.api import Version
from peer.ledger.blocks import version_bytes
from peer.ledger.snapshot import Snapshot
from peer.ledger.store import Store
from peer.ledger.transactions import CollectionSet, NamespaceSet
from peer.ledger.validation import BlockValidation

SIZES = [0, 1, 127, 130, 200, 20_000]
FIRST, SECOND = Version(7, 0), Version(7, 70_000)
Writes = Mapping[str, bytes]


@pytest.fixture
def snapshot(tmp_path: Path) -> Iterator[Snapshot]:
    store = Store(tmp_path / "ledger.db")
    found = store.snapshot()
    yield found
    found.release()
    store.close()


def written(namespace: str, public: Writes, hashed: Mapping[str, Writes]) -> NamespaceSet:
    collections = [
        CollectionSet(
            name,
            HashedRwSet(
                hashed_writes=[
                    KvWriteHash(key_hash=key.encode(), is_delete=not value, value_hash=value)
                    for key, value in writes.items()
                ]
            ),
            private_hash=b"",
        )
        for name, writes in hashed.items()
    ]
    writes = [KvWrite(key=key, is_delete=not value, value=value) for key, value in public.items()]
    return NamespaceSet(namespace, KvrwSet(writes=writes), collections)


def told(key: str, value: bytes, version: Version, **where: str) -> txmgr.KvWrite:
    return txmgr.KvWrite(
        key=key.encode(),
        is_delete=not value,
        value=value,
        version_bytes=version_bytes(version),
        **where,
    )


@pytest.mark.parametrize("value_size", SIZES)
@pytest.mark.parametrize("key_size", SIZES)
def test_updates_are_encoded_as_any_message_is(
    snapshot: Snapshot, key_size: int, value_size: int
) -> None:
    value = b"v" * value_size
    writes = {"": value, "k" * key_size: b"", "l" * key_size: value}
    validation = BlockValidation(snapshot)
    validation.apply([written("cc", writes, {"c": writes})], FIRST)
    changes = sorted(writes.items())
    (key, first), others = changes[0], changes[1:]
    expected = [
        told(key, first, FIRST, namespace="cc"),
        *(told(*each, FIRST) for each in others),
        told(key, first, FIRST, collection="c"),
        *(told(*each, FIRST) for each in others),
    ]
    assert validation.updates() == encode(txmgr.Updates(kvwrites=expected))


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_namespace_and_a_collection_are_told_once(snapshot: Snapshot, size: int) -> None:
    long, short = "n" * size, "m"
    validation = BlockValidation(snapshot)
    validation.apply([written(long, {}, {"d": {"k": b"1"}, "c" * size: {"k": b""}})], FIRST)
    validation.apply([written(short, {"z": b"", "y": b"2"}, {}), written("o", {}, {})], FIRST)
    validation.apply([written(short, {"y": b"3"}, {}), written(long, {"a": b"4"}, {})], SECOND)
    expected = [
        told("y", b"3", SECOND, namespace=short),
        told("z", b"", FIRST),
        told("a", b"4", SECOND, namespace=long),
        told("k", b"", FIRST, collection="c" * size),
        told("k", b"1", FIRST, collection="d"),
    ]
    assert validation.updates() == encode(txmgr.Updates(kvwrites=expected))


def test_no_changes_are_no_bytes(snapshot: Snapshot) -> None:
    validation = BlockValidation(snapshot)
    validation.apply([written("cc", {}, {"c": {}})], FIRST)
    validation.configure(b"of the namespace without a name", SECOND)
    assert validation.updates() == b"" == encode(txmgr.Updates())
