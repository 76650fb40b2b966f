"""What a simulation leaves behind, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.kvrwset import HashedRwSet, KvRead, KvrwSet, KvWrite
from fabric_protos.kvrwset import Version as VersionMessage
from fabric_protos.rwset import TxPvtReadWriteSet, TxReadWriteSet
from peer.ledger.api import TxSimulator, Version
from peer.ledger.rwset import RwSetBuilder

A, B = sha256(b"a").digest(), sha256(b"b").digest()


def only_namespace(builder: RwSetBuilder) -> Any:
    (namespace,) = decode(TxReadWriteSet, builder.results().public).ns_rwset
    return namespace


def test_nothing_done_is_nothing_recorded() -> None:
    results = RwSetBuilder().results()
    assert (results.public, results.private) == (b"", b"")


def test_public_bytes() -> None:
    builder = RwSetBuilder()
    builder.add_write("b", "k", b"v")
    builder.add_read("a", "z", Version(12, 0))
    builder.add_read("a", "y", Version(0, 0))
    builder.add_read("a", "x", None)
    a = "0a030a0178 0a050a01791200 0a070a017a1202080c"  # absent, (0,0), (12,0)
    b = "1a06 0a016b 1a0176"
    expected = f"121a 0a0161 1215 {a} 120d 0a0162 1208 {b}"
    assert builder.results().public == bytes.fromhex(expected)


def test_last_write_wins_and_an_empty_value_deletes() -> None:
    builder = RwSetBuilder()
    for key, value in [("b", b"1"), ("a", b"2"), ("b", b"3"), ("a", b"")]:
        builder.add_write("cc", key, value)
    writes = decode(KvrwSet, only_namespace(builder).rwset).writes
    assert [(w.key, w.is_delete, w.value) for w in writes] == [("a", True, b""), ("b", False, b"3")]


@pytest.mark.parametrize("size", [0, 1, 0x7B, 0x7F, 0x80, 0x4000])
def test_writes_are_encoded_as_any_message_is(size: int) -> None:
    writes = {"": b"v" * size, "k" * size: b"", "l" * size: b"v" * size}
    builder = RwSetBuilder()
    builder.add_writes("cc", writes)
    messages = [KvWrite(key=key, is_delete=not writes[key], value=writes[key]) for key in writes]
    assert only_namespace(builder).rwset == encode(KvrwSet(writes=messages))


@pytest.mark.parametrize("version", [None, (0, 0), (1, 0), (0, 1), (127, 128), (2**64 - 1, 300)])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384])
def test_reads_are_encoded_as_any_message_is(size: int, version: tuple[int, int] | None) -> None:
    builder, expected = RwSetBuilder(), KvRead(key="k" * size)
    builder.add_read("cc", expected.key, None if version is None else Version(*version))
    if version is not None:
        expected.version = VersionMessage(block_num=version[0], tx_num=version[1])
    assert only_namespace(builder).rwset == encode(KvrwSet(reads=[expected]))


def test_keys_sort_by_their_bytes() -> None:
    keys = ["\0c\0", "A", "a", "\uffff", "\U00010000"]
    builder = RwSetBuilder()
    for key in reversed(keys):
        builder.add_write("cc", key, b"v")
        builder.add_read("cc", key, None)
    public = decode(KvrwSet, only_namespace(builder).rwset)
    assert [w.key for w in public.writes] == keys == sorted(keys, key=str.encode)
    assert [r.key for r in public.reads] == keys


def test_metadata_is_sorted_by_name_and_may_be_deleted() -> None:
    builder = RwSetBuilder()
    builder.add_metadata_write("cc", "k", {"z": b"1", "a": b"2"})
    builder.add_metadata_write("cc", "gone", {})
    gone, kept = decode(KvrwSet, only_namespace(builder).rwset).metadata_writes
    assert (gone.key, gone.entries) == ("gone", [])
    assert [(e.name, e.value) for e in kept.entries] == [("a", b"2"), ("z", b"1")]


def test_metadata_is_taken_as_it_was_when_written() -> None:
    builder = RwSetBuilder()
    metadata = {"a": b"1"}
    builder.add_metadata_write("cc", "k", metadata)
    metadata["a"] = b"2"
    (write,) = decode(KvrwSet, only_namespace(builder).rwset).metadata_writes
    assert [entry.value for entry in write.entries] == [b"1"]


def test_collections_show_hashes_in_the_order_of_the_plain_keys() -> None:
    assert A > B  # so that plain and hashed order differ
    builder = RwSetBuilder()
    builder.add_private_write("cc", "two", "b", b"secret")
    builder.add_private_write("cc", "two", "a", b"")
    builder.add_private_metadata_write("cc", "two", "b", {"n": b"m"})
    builder.add_private_read("cc", "one", "a", Version(3, 4))
    results = builder.results()
    (namespace,) = decode(TxReadWriteSet, results.public).ns_rwset
    one, two = namespace.collection_hashed_rwset
    assert namespace.rwset == b""
    assert (one.collection_name, two.collection_name) == ("one", "two")

    read_only = decode(HashedRwSet, one.hashed_rwset)
    assert [(r.key_hash, r.version and r.version.tx_num) for r in read_only.hashed_reads] == [
        (A, 4)
    ]
    assert one.pvt_rwset_hash == b""

    deleted, written = decode(HashedRwSet, two.hashed_rwset).hashed_writes
    assert (deleted.key_hash, deleted.is_delete, deleted.value_hash) == (A, True, b"")
    assert (written.key_hash, written.is_delete) == (B, False)
    assert written.value_hash == sha256(b"secret").digest()
    (metadata,) = decode(HashedRwSet, two.hashed_rwset).metadata_writes
    assert (metadata.key_hash, [e.name for e in metadata.entries]) == (B, ["n"])

    (private,) = decode(TxPvtReadWriteSet, results.private).ns_pvt_rwset
    (only,) = private.collection_pvt_rwset
    assert (private.namespace, only.collection_name) == ("cc", "two")
    assert two.pvt_rwset_hash == sha256(only.rwset).digest()
    plain = decode(KvrwSet, only.rwset)
    assert [(w.key, w.is_delete, w.value) for w in plain.writes] == [
        ("a", True, b""),
        ("b", False, b"secret"),
    ]
    assert [(m.key, m.entries) for m in plain.metadata_writes] == [("b", [])]
    assert plain.reads == []


def test_a_purge_is_a_marked_delete_until_the_key_is_written_again() -> None:
    builder = RwSetBuilder()
    builder.add_private_write("cc", "c", "a", b"", purge=True)
    builder.add_private_write("cc", "c", "b", b"", purge=True)
    builder.add_private_write("cc", "c", "b", b"new")
    (collection,) = only_namespace(builder).collection_hashed_rwset
    marks = {
        w.key_hash: (w.is_delete, w.is_purge)
        for w in decode(HashedRwSet, collection.hashed_rwset).hashed_writes
    }
    assert marks == {A: (True, True), B: (False, False)}


async def test_ranges_keep_their_order_and_equal_ones_are_recorded_once(
    channel: Any, public_set: Callable[[TxSimulator], KvrwSet]
) -> None:
    await channel.put(a=b"1", b=b"2", c=b"3")
    simulator = channel.simulate()
    for start, end, count in [("b", "z", 9), ("a", "c", 9), ("a", "c", 2), ("b", "z", 9)]:
        await simulator.get_state_range("cc", start, end).take(count)
    infos = public_set(simulator).range_queries_info
    assert [(i.start_key, i.end_key, i.itr_exhausted) for i in infos] == [
        ("b", "z", True),
        ("a", "c", True),
        ("a", "b", False),
    ]
    assert [r.key for r in infos[1].raw_reads.kv_reads] == ["a", "b"]


async def test_an_empty_range_has_no_reads(
    channel: Any, public_set: Callable[[TxSimulator], KvrwSet]
) -> None:
    simulator = channel.simulate()
    assert await simulator.get_state_range("cc", "a", "b").take(1) == []
    assert encode(public_set(simulator).range_queries_info[0]) == bytes.fromhex(
        "0a0161 120162 1801"
    )


async def test_fifty_results_are_raw_and_fifty_one_are_hashed(
    channel: Any, public_set: Callable[[TxSimulator], KvrwSet]
) -> None:
    await channel.put(**{f"k{i:03}": b"v" for i in range(101)})
    simulator = channel.simulate()
    for end, count in [("k050", 50), ("k051", 51), ("", 100), ("", 101), ("", 102)]:
        await simulator.get_state_range("cc", "", end).take(count)
    infos = public_set(simulator).range_queries_info
    assert [(i.end_key, i.itr_exhausted, i.raw_reads is None) for i in infos] == [
        ("k049", False, False),
        ("k050", False, True),
        ("k099", False, True),
        ("k100", False, True),
        ("", True, True),
    ]
