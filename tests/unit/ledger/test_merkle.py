"""The summary of a long range query, against values that Fabric's peers compute."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabric_protos.codec import encode
from fabric_protos.kvrwset import KvRead, QueryReads, QueryReadsMerkleSummary
from fabric_protos.kvrwset import Version as VersionMessage
from peer.ledger.merkle import RangeReads, UnusableSummary
from peer.ledger.rwset import RangeQuery

LEAF_0_2 = "7d48cfaa2b324439ad064170e866d68089d88d338b6e9f49086ac634535ba1c8"
LEAF_3_3 = "d11421d71467ac9bc3ef1b85e9d13d9f920730add73f94654c06a2d53670f4c0"
LEAF_OF_51 = "27b51b959690c8c6fb892ce824b424ce3b5d12436d83b7ab2c90fd3b1506d300"


def reads(count: int, key: str = "k{:02}") -> list[KvRead]:
    return [kv_read(key.format(i), 1, i) for i in range(count)]


def kv_read(key: str, block: int, tx: int) -> KvRead:
    return KvRead(key=key, version=VersionMessage(block_num=block, tx_num=tx))


def summary_of(items: list[KvRead], degree: int) -> QueryReads | QueryReadsMerkleSummary:
    collected = RangeReads(degree)
    for item in items:
        height = item.version or VersionMessage()
        collected.add(item.key.encode(), height.block_num, height.tx_num)
    return collected.done()


def leaf(items: list[KvRead]) -> bytes:
    return sha256(encode(QueryReads(kv_reads=items))).digest()


def test_reads_marshal_as_in_fabric() -> None:
    expected = "0a09 0a036b3030 12020801 0a0b 0a036b3031 120408011001 0a0b 0a036b3032 120408011002"
    assert encode(QueryReads(kv_reads=reads(3))) == bytes.fromhex(expected)


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**64 - 1),
        ),
        min_size=3,
        max_size=3,
    )
)
@example([("k" * 127, 127, 128), ("k" * 128, 0, 0), ("k" * 16_384, 16_384, 2**64 - 1)])
def test_a_leaf_is_the_hash_of_the_marshalled_reads(rows: list[tuple[str, int, int]]) -> None:
    items = [kv_read(*row) for row in rows]
    summary = summary_of(items, 2)
    assert isinstance(summary, QueryReadsMerkleSummary)
    assert summary.max_level_hashes == [leaf(items)]


@pytest.mark.parametrize(("degree", "count"), [(2, 0), (2, 2), (50, 50)])
def test_few_reads_stay_as_they_are(degree: int, count: int) -> None:
    raw = summary_of(reads(count), degree)
    assert isinstance(raw, QueryReads)
    assert encode(raw) == encode(QueryReads(kv_reads=reads(count)))


@pytest.mark.parametrize(
    ("degree", "count", "key", "level", "hashes"),
    [
        (2, 3, "k{:02}", 1, [LEAF_0_2]),
        (2, 4, "k{:02}", 1, [LEAF_0_2, LEAF_3_3]),
        (2, 7, "k{:02}", 2, ["23fc2ad5bc6bf6b225d0e6600bd3caf1b798076a07974e5e4688b468a2136f26"]),
        (
            2,
            10,
            "k{:02}",
            2,
            [
                "b8f55ae5b2461c78b524575e8160a24940949c49525e1354af93e3047c57a8ec",
                "450a043b66d7a2a520889d5befc250e62f31db1236380277a4e578efc67571b3",
            ],
        ),
        (2, 19, "k{:02}", 3, ["ee51073b10d189e19f2faff5491b67d926863b862c6fad4542ece55c7b2c1358"]),
        (50, 51, "k{:03}", 1, [LEAF_OF_51]),
        (
            50,
            101,
            "k{:03}",
            1,
            [LEAF_OF_51, "19a29b259d2df30400724f3adebef5d8da0e5ab54b06568f9da6d424c89fc350"],
        ),
    ],
)
def test_vectors(degree: int, count: int, key: str, level: int, hashes: list[str]) -> None:
    summary = summary_of(reads(count, key), degree)
    assert isinstance(summary, QueryReadsMerkleSummary)
    assert (summary.max_degree, summary.max_level) == (degree, level)
    assert [item.hex() for item in summary.max_level_hashes] == hashes


def test_levels_are_concatenations_of_the_leaves() -> None:
    items = reads(19)
    leaves = [leaf(items[i : i + 3]) for i in range(0, 19, 3)]
    left, right = (sha256(b"".join(leaves[i : i + 3])).digest() for i in (0, 3))
    top = summary_of(items, 2)
    assert isinstance(top, QueryReadsMerkleSummary)
    assert top.max_level_hashes == [sha256(left + right + leaves[6]).digest()]


def test_range_of_51_keys_marshals_as_in_fabric() -> None:
    query = RangeQuery("k000", "k999")
    query.add([(b"k%03d" % i, b"v", 1, i) for i in range(51)])
    query.is_exhausted = True
    expected = "0a046b303030 12046b393939 1801 2a26 0832 1001 1a20" + LEAF_OF_51
    assert encode(query.info()) == bytes.fromhex(expected)


@pytest.mark.parametrize("degree", [0, 1])
def test_a_degree_below_two_builds_no_tree(degree: int) -> None:
    with pytest.raises(UnusableSummary, match=f"max_degree {degree}"):
        RangeReads(degree)
