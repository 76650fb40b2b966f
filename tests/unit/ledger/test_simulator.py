"""What a simulation may do, sees and refuses."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from fabric_protos.codec import decode, encode
from fabric_protos.kvrwset import HashedRwSet, KvRead, KvrwSet, Version
from fabric_protos.rwset import TxReadWriteSet
from peer.errors import LedgerError
from peer.ledger import open_ledger
from peer.ledger.api import KV, Ledger, SimulationResults, TxSimulator

PublicSet = Callable[[TxSimulator], KvrwSet]


async def test_reads_never_see_writes_of_the_same_simulation(channel: Any) -> None:
    await channel.put(a=b"old")
    simulator = channel.simulate()
    simulator.set_state("cc", "a", b"new")
    simulator.set_state("cc", "b", b"new")
    simulator.set_state_metadata("cc", "a", {"n": b"m"})
    assert simulator.get_state_multiple("cc", ["b", "a"]) == [None, b"old"]
    assert simulator.get_state_metadata("cc", "a") == {}
    assert await simulator.get_state_range("cc", "", "").take(9) == [KV("cc", "a", b"old")]
    simulator.done()


async def test_reads_are_recorded_with_the_version_they_saw(
    channel: Any, public_set: PublicSet
) -> None:
    await channel.put(a=b"1")
    await channel.put(b=b"2")
    simulator = channel.simulate()
    simulator.get_state("cc", "missing")
    simulator.get_state("cc", "b")
    simulator.get_state_metadata("cc", "a")
    assert [encode(read) for read in public_set(simulator).reads] == [
        encode(KvRead(key="a", version=Version(block_num=0, tx_num=0))),
        encode(KvRead(key="b", version=Version(block_num=1, tx_num=0))),
        encode(KvRead(key="missing")),
    ]


async def test_a_query_executor_reads_the_same_and_writes_nothing(channel: Any) -> None:
    await channel.put(a=b"1", b=b"2")
    executor = channel.ledger.new_query_executor()
    assert executor.get_state("cc", "a") == b"1"
    assert executor.get_state("elsewhere", "a") is None
    page = executor.get_state_range_page("cc", "", "", "b")
    assert await page.take(5) == [KV("cc", "b", b"2")]
    executor.done()
    executor.done()
    with pytest.raises(LedgerError, match="after calling Done"):
        executor.get_state("cc", "a")


async def test_metadata_is_seen_in_its_namespace_and_while_it_lasts(channel: Any) -> None:
    """What has no metadata is not asked for any: that must begin and end with the block."""

    async def after(metadata: dict[str, bytes]) -> list[Any]:
        simulator = channel.simulate()
        for namespace in ("cc", "other"):
            simulator.set_state(namespace, "a", b"1")
        simulator.set_state_metadata("cc", "a", metadata)
        await channel.commit(simulator)
        executor = channel.ledger.new_query_executor()
        found = [executor.get_state_metadata(name, "a") for name in ("cc", "other")]
        found.append(executor.get_state_metadata("cc", "b"))
        assert executor.has_metadata("cc") is bool(metadata)
        assert executor.has_metadata("other") is executor.has_metadata("cc", "secret") is False
        executor.done()
        simulator = channel.simulate()
        simulator.set_state("cc", "a", b"2")
        found.append(simulator.get_tx_simulation_results().written["cc", ""])
        return found

    assert await after({}) == [{}, {}, {}, [{}]]
    assert await after({"m": b"1"}) == [{"m": b"1"}, {}, {}, [{"m": b"1"}]]
    assert await after({"m": b"2"}) == [{"m": b"2"}, {}, {}, [{"m": b"2"}]]
    assert await after({}) == [{}, {}, {}, [{}]]


async def test_keys_are_ordered_by_bytes_and_bounded_as_asked(channel: Any) -> None:
    keys = ["\0composite\0", "A", "a", "a\0", "aa", "é", "\uffff", "\U00010000"]
    await channel.put(**dict.fromkeys(reversed(keys), b"v"))
    executor = channel.ledger.new_query_executor()

    async def found(start: str, end: str) -> list[str]:
        return [record.key for record in await executor.get_state_range("cc", start, end).take(99)]

    assert await found("", "") == keys
    assert await found("\x01", "") == keys[1:]
    assert await found("a", "aa") == ["a", "a\0"]
    assert await found("aa", "a") == []
    assert await found("\uffff", "\U00010000") == ["\uffff"]
    executor.done()


async def test_a_range_ends_only_when_fewer_were_left_than_asked(channel: Any) -> None:
    await channel.put(a=b"1", b=b"2", c=b"3")
    executor = channel.ledger.new_query_executor()
    results = executor.get_state_range("cc", "", "")
    assert results.bookmark() == "a"
    assert [r.key for r in await results.take(2)] == ["a", "b"]
    assert results.bookmark() == "c"
    assert [r.key for r in await results.take(1)] == ["c"]
    assert results.bookmark() == ""
    assert await results.take(1) == []
    assert await results.take(1) == []
    results.close()
    executor.done()


async def test_ten_thousand_keys_in_pages_and_at_once(channel: Any, public_set: PublicSet) -> None:
    keys = [f"k{i:05}" for i in range(10_000)]
    await channel.put(**{key: key.encode() for key in keys})
    executor = channel.ledger.new_query_executor()
    at_once = await executor.get_state_range("cc", "", "").take(20_000)
    assert [(r.key, r.value) for r in at_once] == [(key, key.encode()) for key in keys]
    paged, bookmark = [], ""
    for _ in range(16):
        results = executor.get_state_range_page("cc", "", "", bookmark)
        paged += await results.take(625)
        bookmark = results.bookmark()
    assert (paged, bookmark) == (at_once, "")
    executor.done()

    simulator = channel.simulate()
    await simulator.get_state_range("cc", "", "").take(20_000)
    (info,) = public_set(simulator).range_queries_info
    # 10,000 reads are 196 leaves of 51 and one of 4: three nodes of 51 leaves, 43 leaves and 1.
    assert (info.reads_merkle_hashes.max_level, info.itr_exhausted) == (2, True)
    assert len(info.reads_merkle_hashes.max_level_hashes) == 4


async def test_a_long_range_gives_way_to_other_tasks_and_to_cancellation(channel: Any) -> None:
    await channel.put(**{f"k{i:05}": b"v" for i in range(6_000)})
    executor = channel.ledger.new_query_executor()
    results = executor.get_state_range("cc", "", "")
    turns = 0

    async def cancel_at_third_turn(scope: trio.CancelScope) -> None:
        nonlocal turns
        for _ in range(3):
            turns += 1
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_at_third_turn, scope)
            await results.take(6_000)
    assert scope.cancelled_caught
    assert turns == 3
    records = await results.take(7_000)
    assert (len(records), records[0].key) == (6_000, "k00000")
    executor.done()


async def test_a_cancelled_take_has_taken_nothing(channel: Any) -> None:
    await channel.put(a=b"1")
    executor = channel.ledger.new_query_executor()
    results = executor.get_state_range("cc", "", "")
    with trio.CancelScope() as scope:
        scope.cancel()
        await results.take(1)
    assert scope.cancelled_caught
    assert await results.take(1) == [KV("cc", "a", b"1")]
    executor.done()


async def test_private_data_is_kept_apart_from_public_data(channel: Any) -> None:
    simulator = channel.simulate()
    simulator.set_private_data("cc", "secrets", "k", b"secret")
    simulator.set_private_data_metadata("cc", "secrets", "k", {"n": b"m"})
    await channel.commit(simulator)

    simulator = channel.simulate()
    assert simulator.get_state("cc", "k") is None
    assert simulator.get_private_data_multiple("cc", "secrets", ["x", "k"]) == [None, b"secret"]
    assert simulator.get_private_data("cc", "others", "k") is None
    assert simulator.get_private_data_hash("cc", "secrets", "k") == sha256(b"secret").digest()
    assert simulator.get_private_data_hash("cc", "secrets", "x") is None
    assert simulator.get_private_data_metadata("cc", "secrets", "k") == {"n": b"m"}
    (namespace,) = decode(TxReadWriteSet, simulator.get_tx_simulation_results().public).ns_rwset
    secrets = namespace.collection_hashed_rwset[1]
    reads = decode(HashedRwSet, secrets.hashed_rwset).hashed_reads
    assert [(r.key_hash, r.version is None) for r in reads] == [
        (sha256(b"k").digest(), False),
        (sha256(b"x").digest(), True),
    ]


async def test_private_ranges_are_ordered_and_not_recorded(channel: Any) -> None:
    simulator = channel.simulate()
    for key in ("c", "a", "b"):
        simulator.set_private_data("cc", "secrets", key, key.encode())
    await channel.commit(simulator)
    simulator = channel.simulate()
    results = simulator.get_private_data_range("cc", "secrets", "a", "c")
    assert await results.take(9) == [KV("cc", "a", b"a"), KV("cc", "b", b"b")]
    expected = SimulationResults(public=b"", private_reads=frozenset({("cc", "secrets")}))
    assert simulator.get_tx_simulation_results() == expected


async def test_a_value_this_peer_has_not_got_is_an_error_not_an_absence(channel: Any) -> None:
    simulator = channel.simulate()
    simulator.set_private_data("cc", "secrets", "k", b"secret")
    results = simulator.get_tx_simulation_results()
    await channel.commit(SimulationResults(public=results.public))  # the private part got lost
    simulator = channel.simulate()
    assert simulator.get_private_data_hash("cc", "secrets", "k") == sha256(b"secret").digest()
    with pytest.raises(LedgerError) as caught:
        simulator.get_private_data("cc", "secrets", "k")
    assert str(caught.value) == (
        "private data matching public hash version is not available. "
        "Public hash version = {BlockNum: 0, TxNum: 0}, Private data version = <nil>"
    )
    simulator.done()


PRIVATE_CALLS: list[Callable[[TxSimulator, str, str], object]] = [
    lambda s, ns, c: s.get_private_data(ns, c, "k"),
    lambda s, ns, c: s.get_private_data_hash(ns, c, "k"),
    lambda s, ns, c: s.get_private_data_metadata(ns, c, "k"),
    lambda s, ns, c: s.get_private_data_range(ns, c, "", ""),
    lambda s, ns, c: s.set_private_data(ns, c, "k", b"v"),
    lambda s, ns, c: s.delete_private_data(ns, c, "k"),
    lambda s, ns, c: s.purge_private_data(ns, c, "k"),
    lambda s, ns, c: s.set_private_data_metadata(ns, c, "k", {}),
]


@pytest.mark.parametrize("call", PRIVATE_CALLS)
async def test_unknown_collections_are_refused(
    channel: Any, call: Callable[[TxSimulator, str, str], object]
) -> None:
    cases = {
        ("cc", "nope"): "collection [nope] not defined in the collection config for chaincode [cc]",
        ("cc", "_implicit_org_"): (
            "collection [_implicit_org_] not defined in the collection config for chaincode [cc]"
        ),
        ("bare", "c"): (
            "collection config not defined for chaincode [bare], pass the collection "
            "configuration upon chaincode definition/instantiation"
        ),
    }
    for (namespace, collection), text in cases.items():
        simulator = channel.simulate()
        with pytest.raises(LedgerError) as caught:
            call(simulator, namespace, collection)
        assert str(caught.value) == text
        assert simulator.get_tx_simulation_results().public == b""


@pytest.mark.parametrize("call", PRIVATE_CALLS)
async def test_implicit_collections_exist_for_every_organisation(
    channel: Any, call: Callable[[TxSimulator, str, str], object]
) -> None:
    simulator = channel.simulate()
    call(simulator, "bare", "_implicit_org_Org1MSP")
    simulator.done()


async def test_collections_may_change_while_the_ledger_is_open(
    tmp_path: Path, wrap: Callable[[Ledger], Any]
) -> None:
    collections: dict[str, set[str]] = {}
    async with open_ledger(tmp_path, "ch", collections=collections.get) as ledger:
        simulator = wrap(ledger).simulate()
        assert ledger.collection_names("cc") == frozenset()
        collections["cc"] = {"late"}
        assert ledger.collection_names("cc") == {"late"}
        assert simulator.get_private_data("cc", "late", "k") is None
        simulator.done()


WRITES: list[Callable[[TxSimulator], None]] = [
    lambda s: s.set_state("cc", "k", b"v"),
    lambda s: s.delete_state("cc", "k"),
    lambda s: s.set_state_metadata("cc", "k", {}),
    lambda s: s.set_private_data("cc", "secrets", "k", b"v"),
    lambda s: s.delete_private_data("cc", "secrets", "k"),
    lambda s: s.purge_private_data("cc", "secrets", "k"),
    lambda s: s.set_private_data_metadata("cc", "secrets", "k", {}),
]
REFUSED = "txid [tx]: unsuppored transaction. "


@pytest.mark.parametrize("write", WRITES)
async def test_pages_and_writes_exclude_each_other(
    channel: Any, write: Callable[[TxSimulator], None]
) -> None:
    simulator = channel.simulate()
    simulator.get_state_range_page("cc", "", "", "")
    with pytest.raises(LedgerError) as caught:
        write(simulator)
    text = "Transaction has already performed a paginated query. Writes are not allowed"
    assert str(caught.value) == REFUSED + text
    simulator.done()

    simulator = channel.simulate()
    write(simulator)
    text = "Paginated queries are supported only in a read-only transaction"
    with pytest.raises(LedgerError) as caught:
        simulator.get_state_range_page("cc", "", "", "")
    assert str(caught.value) == REFUSED + text
    with pytest.raises(LedgerError) as caught:
        await simulator.execute_query("cc", "{}", page_size=1)
    assert str(caught.value) == REFUSED + text
    simulator.done()


@pytest.mark.parametrize("write", WRITES)
async def test_private_queries_and_writes_exclude_each_other(
    channel: Any, write: Callable[[TxSimulator], None]
) -> None:
    simulator = channel.simulate()
    simulator.get_private_data_range("cc", "secrets", "", "")
    with pytest.raises(LedgerError) as caught:
        write(simulator)
    text = "Transaction has already performed queries on pvt data. Writes are not allowed"
    assert str(caught.value) == REFUSED + text
    simulator.done()

    simulator = channel.simulate()
    write(simulator)
    text = "Queries on pvt data is supported only in a read-only transaction"
    with pytest.raises(LedgerError) as caught:
        simulator.get_private_data_range("cc", "secrets", "", "")
    assert str(caught.value) == REFUSED + text
    with pytest.raises(LedgerError) as caught:
        await simulator.execute_query_on_private_data("cc", "secrets", "{}")
    assert str(caught.value) == REFUSED + text
    simulator.done()


async def test_plain_ranges_and_writes_go_together(channel: Any) -> None:
    await channel.put(a=b"1")
    simulator = channel.simulate()
    await simulator.get_state_range("cc", "", "").take(1)
    simulator.set_state("cc", "b", b"2")
    await simulator.get_state_range("cc", "", "b").take(1)
    assert simulator.get_tx_simulation_results().public


async def test_results_are_given_once_and_end_the_simulation(channel: Any) -> None:
    await channel.put(a=b"1")
    simulator = channel.simulate()
    results = simulator.get_state_range("cc", "", "")
    simulator.set_state("cc", "k", b"v")
    simulator.get_tx_simulation_results()
    with pytest.raises(LedgerError, match="only be called once"):
        simulator.get_tx_simulation_results()
    with pytest.raises(LedgerError, match="after calling Done"):
        simulator.get_state("cc", "k")
    with pytest.raises(LedgerError, match="after calling Done"):
        simulator.set_state("cc", "k", b"v")
    with pytest.raises(LedgerError, match="after calling Done"):
        await results.take(1)
    simulator.done()
