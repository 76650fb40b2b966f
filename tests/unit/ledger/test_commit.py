"""Verdicts on transactions, and what the valid ones leave in the state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fabric_protos.codec import encode
from fabric_protos.kvrwset import (
    KvRead,
    KvrwSet,
    KvWrite,
    QueryReadsMerkleSummary,
    RangeQueryInfo,
    Version,
)
from fabric_protos.rwset import NsReadWriteSet, TxReadWriteSet
from peer.errors import LedgerError
from peer.ledger import open_ledger
from peer.ledger.api import (
    KeyModification,
    Ledger,
    SimulationResults,
    Timestamp,
    TxSimulator,
    ValidationCode,
)
from peer.ledger.merkle import RangeReads
from tests.unordered import CommittingTransaction, commit_unordered

VALID, CONFLICT, PHANTOM = (
    ValidationCode.VALID,
    ValidationCode.MVCC_READ_CONFLICT,
    ValidationCode.PHANTOM_READ_CONFLICT,
)
Step = Callable[[TxSimulator], object]


def forged(rwset: KvrwSet) -> SimulationResults:
    namespace = NsReadWriteSet(namespace="cc", rwset=encode(rwset))
    return SimulationResults(public=encode(TxReadWriteSet(ns_rwset=[namespace])))


def simulation(channel: Any, *steps: Step) -> TxSimulator:
    simulator: TxSimulator = channel.simulate()
    for step in steps:
        step(simulator)
    return simulator


def read(key: str) -> Step:
    return lambda s: s.get_state("cc", key)


def write(key: str, value: bytes = b"new") -> Step:
    return lambda s: s.set_state("cc", key, value)


def mark(key: str, **metadata: bytes) -> Step:
    return lambda s: s.set_state_metadata("cc", key, metadata)


async def ranged(channel: Any, end: str, count: int, *steps: Step) -> TxSimulator:
    simulator = simulation(channel, *steps)
    await simulator.get_state_range("cc", "", end).take(count)
    return simulator


async def test_blocks_are_numbered_and_give_versions(channel: Any) -> None:
    assert channel.ledger.height == 0
    await channel.commit()
    await channel.commit(simulation(channel, write("a")), simulation(channel, write("b")))
    assert channel.ledger.height == 2
    fits = forged(KvrwSet(reads=[KvRead(key="b", version=Version(block_num=1, tx_num=1))]))
    assert await channel.commit(fits) == [VALID]


@pytest.mark.parametrize(
    "change", [write("k"), write("k", b"old"), write("k", b""), mark("k", n=b"m")]
)
async def test_a_read_conflicts_with_any_change_since(channel: Any, change: Step) -> None:
    await channel.put(k=b"old")
    late = simulation(channel, read("k"), write("other"))
    same_block = simulation(channel, read("k"), write("other"))
    codes = await channel.commit(simulation(channel, change), same_block)
    assert codes == [VALID, CONFLICT]
    assert await channel.commit(late) == [CONFLICT]
    assert channel.get("other") is None


async def test_a_missing_key_that_appears_is_a_conflict(channel: Any) -> None:
    reader = simulation(channel, read("k"))
    await channel.put(k=b"v")
    assert await channel.commit(reader) == [CONFLICT]


async def test_version_0_0_is_not_a_missing_key(channel: Any) -> None:
    wrong = forged(KvrwSet(reads=[KvRead(key="k", version=Version(block_num=0, tx_num=0))]))
    right = forged(KvrwSet(reads=[KvRead(key="k")]))
    assert await channel.commit(wrong, right) == [CONFLICT, VALID]


async def test_deleting_a_missing_key_conflicts_with_a_read_in_the_same_block_only(
    channel: Any,
) -> None:
    first, second, third = (
        simulation(channel, write("k", b"")),
        simulation(channel, read("k")),
        simulation(channel, read("k")),
    )
    assert await channel.commit(first, second) == [VALID, CONFLICT]
    assert await channel.commit(third) == [VALID]


async def test_invalid_transactions_change_nothing_for_later_ones(channel: Any) -> None:
    await channel.put(a=b"1", b=b"1")
    loser = simulation(channel, read("a"), write("b", b"lost"))
    witness = simulation(channel, read("b"))
    assert await channel.commit(simulation(channel, write("a")), loser, witness) == [
        VALID,
        CONFLICT,
        VALID,
    ]
    assert channel.get("b") == b"1"


async def test_blind_writes_all_succeed_and_the_last_one_stays(channel: Any) -> None:
    writers = [simulation(channel, write("k", b"%d" % i)) for i in range(3)]
    assert await channel.commit(*writers) == [VALID] * 3
    assert channel.get("k") == b"2"


@pytest.mark.parametrize("many", [3, 60])
@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (write("k000"), PHANTOM),  # an existing key changed
        (write("k001", b""), PHANTOM),  # deleted
        (write("k0005"), PHANTOM),  # appeared inside
        (write("k"), PHANTOM),  # appeared before the first
        (write("k9"), VALID),  # appeared behind the end
        (write("k0005", b""), VALID),  # a delete of nothing
        (mark("k001", n=b"m"), PHANTOM),
        (mark("k0005", n=b"m"), VALID),  # metadata of nothing
    ],
)
async def test_phantoms_raw_and_hashed_across_and_within_blocks(
    channel: Any, many: int, change: Step, verdict: ValidationCode
) -> None:
    await channel.put(**{f"k{i:03}": b"v" for i in range(many)})
    late = await ranged(channel, "k9", 100)
    same_block = await ranged(channel, "k9", 100)
    assert await channel.commit(simulation(channel, change), same_block) == [VALID, verdict]
    assert await channel.commit(late) == [verdict]


async def test_a_range_that_was_not_exhausted_reaches_to_its_last_key(channel: Any) -> None:
    await channel.put(a=b"1", b=b"2", c=b"3", d=b"4")
    touched = await ranged(channel, "", 2)
    beyond = await ranged(channel, "", 2)
    last = await ranged(channel, "", 2)
    assert await channel.commit(simulation(channel, write("c")), beyond) == [VALID, VALID]
    assert await channel.commit(simulation(channel, write("b")), last) == [VALID, PHANTOM]
    assert await channel.commit(touched) == [PHANTOM]


async def test_range_over_more_rows_than_a_chunk(channel: Any) -> None:
    await channel.put(**{f"k{i:05}": b"v" for i in range(2_500)})
    same, late, quiet = [await ranged(channel, "", 9_999) for _ in range(3)]
    assert await channel.commit(quiet) == [VALID]
    change = simulation(channel, write("k02400"))
    assert await channel.commit(change, same) == [VALID, PHANTOM]
    assert await channel.commit(late) == [PHANTOM]


async def test_a_summary_must_fit_in_every_part(channel: Any) -> None:
    keys = [f"k{i:03}" for i in range(5)]
    await channel.put(**dict.fromkeys(keys, b"v"))

    def claim(degree: int, level: int, hashes: list[bytes]) -> SimulationResults:
        summary = QueryReadsMerkleSummary(
            max_degree=degree, max_level=level, max_level_hashes=hashes
        )
        info = RangeQueryInfo(start_key="k", itr_exhausted=True, reads_merkle_hashes=summary)
        return forged(KvrwSet(range_queries_info=[info]))

    reads = RangeReads(2)
    for key in keys:
        reads.add(key.encode(), 0, 0)
    true = reads.done()
    assert isinstance(true, QueryReadsMerkleSummary)
    codes = await channel.commit(
        claim(2, true.max_level, true.max_level_hashes),
        claim(2, true.max_level, true.max_level_hashes[:1]),
        claim(2, true.max_level + 1, true.max_level_hashes),
        claim(3, true.max_level, true.max_level_hashes),
        claim(50, 1, []),
        claim(1, true.max_level, true.max_level_hashes),
    )
    assert codes == [VALID, *[PHANTOM] * 4, ValidationCode.INVALID_OTHER_REASON]


async def test_private_reads_conflict_by_hash(channel: Any) -> None:
    def private_write(key: str) -> Step:
        return lambda s: s.set_private_data("cc", "secrets", key, b"v")

    def private_read(key: str) -> Step:
        return lambda s: s.get_private_data_hash("cc", "secrets", key)

    late = simulation(channel, private_read("k"))
    codes = await channel.commit(
        simulation(channel, private_write("k")),
        simulation(channel, private_read("k")),
        simulation(channel, private_read("other")),
        simulation(channel, read("k")),  # the public key of that name is another
    )
    assert codes == [VALID, CONFLICT, VALID, VALID]
    assert await channel.commit(late) == [CONFLICT]


async def test_a_transaction_id_is_used_once(channel: Any) -> None:
    def named(tx_id: str, *steps: Step) -> CommittingTransaction:
        results = simulation(channel, *steps).get_tx_simulation_results()
        return CommittingTransaction(tx_id=tx_id, timestamp=Timestamp(1), results=results)

    garbage = CommittingTransaction(
        tx_id="b", timestamp=Timestamp(1), results=SimulationResults(public=b"\xff")
    )
    commit = partial(commit_unordered, channel.ledger)
    assert await commit([named("a", write("k", b"1")), named("a", write("k", b"2"))]) == [
        VALID,
        ValidationCode.DUPLICATE_TXID,
    ]
    assert await commit([named("a", write("k", b"3"))]) == [ValidationCode.DUPLICATE_TXID]
    assert channel.get("k") == b"1"
    # Within a block an id stays free after garbage; once in the ledger it is taken for good.
    assert await commit([garbage, named("b")]) == [ValidationCode.INVALID_OTHER_REASON, VALID]
    garbage_c = CommittingTransaction(
        tx_id="c", timestamp=Timestamp(1), results=SimulationResults(public=b"\xff")
    )
    assert await commit([garbage_c]) == [ValidationCode.INVALID_OTHER_REASON]
    assert await commit([named("c")]) == [ValidationCode.DUPLICATE_TXID]


async def test_a_loser_in_the_same_block_takes_its_id(channel: Any) -> None:
    loser = channel.transaction(simulation(channel, read("k")))
    winner = channel.transaction(simulation(channel, write("k")))
    again = CommittingTransaction(
        tx_id=loser.tx_id,
        timestamp=Timestamp(1),
        results=simulation(channel, write("z")).get_tx_simulation_results(),
    )
    codes = await commit_unordered(channel.ledger, [winner, loser, again])
    assert codes == [VALID, CONFLICT, ValidationCode.DUPLICATE_TXID]


async def test_metadata_follows_its_key(channel: Any) -> None:
    def metadata(key: str) -> dict[str, bytes]:
        executor = channel.ledger.new_query_executor()
        found = dict(executor.get_state_metadata("cc", key))
        executor.done()
        return found

    await channel.commit(simulation(channel, write("k"), mark("k", a=b"1", b=b"2")))
    assert metadata("k") == {"a": b"1", "b": b"2"}
    await channel.put(k=b"a value alone keeps it")
    assert metadata("k") == {"a": b"1", "b": b"2"}
    await channel.commit(simulation(channel, mark("k", c=b"3")))
    assert (metadata("k"), channel.get("k")) == ({"c": b"3"}, b"a value alone keeps it")
    await channel.commit(simulation(channel, mark("k")))
    assert metadata("k") == {}
    await channel.commit(simulation(channel, mark("k", d=b"4"), write("k", b"")))
    await channel.put(k=b"again")
    assert metadata("k") == {}
    await channel.commit(simulation(channel, mark("missing", e=b"5")))
    assert (channel.get("missing"), metadata("missing")) == (None, {})


async def test_metadata_within_one_block(channel: Any) -> None:
    await channel.commit(simulation(channel, write("k", b"1"), mark("k", a=b"1")))
    codes = await channel.commit(
        simulation(channel, write("k", b"")),
        simulation(channel, mark("k", ignored=b"")),
        simulation(channel, write("k", b"2")),
        simulation(channel, mark("k", b=b"2")),
        simulation(channel, write("k", b"3")),
    )
    assert codes == [VALID] * 5
    executor = channel.ledger.new_query_executor()
    assert executor.get_state("cc", "k") == b"3"
    assert executor.get_state_metadata("cc", "k") == {"b": b"2"}
    executor.done()


async def test_a_metadata_write_moves_the_private_value_along(channel: Any) -> None:
    def change(*steps: Step) -> TxSimulator:
        return simulation(channel, *steps)

    await channel.commit(change(lambda s: s.set_private_data("cc", "secrets", "k", b"v")))
    await channel.commit(
        change(lambda s: s.set_private_data_metadata("cc", "secrets", "k", {"n": b"m"}))
    )
    reader = channel.simulate()
    assert reader.get_private_data("cc", "secrets", "k") == b"v"
    assert reader.get_private_data_metadata("cc", "secrets", "k") == {"n": b"m"}
    assert await channel.commit(reader) == [VALID]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("purge", [True, False])
async def test_a_deleted_private_value_is_gone(channel: Any, known: bool, purge: bool) -> None:
    setter = simulation(
        channel,
        lambda s: s.set_private_data("cc", "secrets", "k", b"v"),
        lambda s: s.set_private_data("cc", "secrets", "stays", b"v"),
    )
    await channel.commit(setter)

    def remove(s: TxSimulator) -> None:
        (s.purge_private_data if purge else s.delete_private_data)("cc", "secrets", "k")

    results = simulation(channel, remove).get_tx_simulation_results()
    await channel.commit(results if known else SimulationResults(public=results.public))
    reader = channel.simulate()
    assert reader.get_private_data("cc", "secrets", "k") is None
    assert reader.get_private_data_hash("cc", "secrets", "k") is None
    assert await reader.get_private_data_range("cc", "secrets", "", "").take(9) == [
        ("cc", "stays", b"v")
    ]
    reader.done()


async def test_a_private_value_deleted_and_written_in_one_block_stays(channel: Any) -> None:
    await channel.commit(
        simulation(channel, lambda s: s.set_private_data("cc", "secrets", "k", b"1"))
    )
    await channel.commit(
        simulation(channel, lambda s: s.purge_private_data("cc", "secrets", "k")),
        simulation(channel, lambda s: s.set_private_data("cc", "secrets", "k", b"2")),
    )
    reader = channel.simulate()
    assert reader.get_private_data("cc", "secrets", "k") == b"2"
    reader.done()


async def test_private_data_that_does_not_fit_its_hash_is_ignored(
    channel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def results(value: bytes) -> SimulationResults:
        return simulation(
            channel, lambda s: s.set_private_data("cc", "secrets", "k", value)
        ).get_tx_simulation_results()

    mixed = SimulationResults(public=results(b"true").public, private=results(b"false").private)
    assert await channel.commit(mixed) == [VALID]
    assert "does not fit its hash" in caplog.text
    reader = channel.simulate()
    assert reader.get_private_data_hash("cc", "secrets", "k") == sha256(b"true").digest()
    with pytest.raises(LedgerError, match="not available"):
        reader.get_private_data("cc", "secrets", "k")
    reader.done()


@pytest.mark.parametrize("value", [b"", b"kept out"])
async def test_a_delete_mark_deletes_whatever_the_value(channel: Any, value: bytes) -> None:
    await channel.put(k=b"v")
    await channel.commit(forged(KvrwSet(writes=[KvWrite(key="k", is_delete=True, value=value)])))
    assert channel.get("k") is None


async def test_garbage_is_one_transaction_s_problem(channel: Any) -> None:
    garbage = SimulationResults(public=b"\x12\xff")
    codes = await channel.commit(garbage, simulation(channel, write("k")))
    assert codes == [ValidationCode.INVALID_OTHER_REASON, VALID]


async def test_history_holds_writes_and_deletes_newest_first(channel: Any) -> None:
    await channel.commit(
        simulation(channel, write("k", b"1")), simulation(channel, write("k", b"2"))
    )
    await channel.commit(simulation(channel, read("k"), mark("k", n=b"m"), write("other")))
    await channel.commit(simulation(channel, write("k", b"")))
    loser = simulation(channel, read("k"), write("k", b"lost"))
    await channel.commit(simulation(channel, write("k", b"3")), loser)

    history = channel.ledger.new_history_query_executor()
    results = history.get_history_for_key("cc", "k")
    await channel.put(k=b"too late to be seen")
    expected = [
        KeyModification("tx5", b"3", Timestamp(5, 7), False),
        KeyModification("tx4", b"", Timestamp(4, 7), True),
        KeyModification("tx2", b"2", Timestamp(2, 7), False),
        KeyModification("tx1", b"1", Timestamp(1, 7), False),
    ]
    assert await results.take(1) == expected[:1]
    assert await results.take(2) == expected[1:3]
    assert await results.take(2) == expected[3:]
    assert await results.take(2) == []
    assert results.bookmark() == ""
    results.close()
    assert await history.get_history_for_key("cc", "never").take(1) == []


async def test_without_history_there_is_none(tmp_path: Path, wrap: Callable[[Ledger], Any]) -> None:
    async with open_ledger(tmp_path, "ch", history=False) as ledger:
        await wrap(ledger).put(k=b"v")
        with pytest.raises(LedgerError, match=r"^history database is not enabled$"):
            ledger.new_history_query_executor()
    async with open_ledger(tmp_path, "ch") as ledger:
        results = ledger.new_history_query_executor().get_history_for_key("cc", "k")
        assert await results.take(9) == []
