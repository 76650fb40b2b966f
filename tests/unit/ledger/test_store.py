"""Isolation, durability and trouble with the files."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import pytest
import trio

from peer.errors import (
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerLocked,
    LedgerStorageError,
)
from peer.ledger import database, durable, open_ledger, rebuild_databases, snapshot, store
from peer.ledger.api import Ledger, TxSimulator, ValidationCode
from tests.unordered import CommittingTransaction, commit_unordered

Wrap = Callable[[Ledger], Any]


def writing(channel: Any, key: str, value: bytes) -> CommittingTransaction:
    simulator: TxSimulator = channel.simulate()
    simulator.set_state("cc", key, value)
    transaction: CommittingTransaction = channel.transaction(simulator)
    return transaction


async def test_what_was_committed_is_there_after_reopening(tmp_path: Path, wrap: Wrap) -> None:
    async with open_ledger(tmp_path, "ch") as ledger:
        await wrap(ledger).put(k=b"v")
    assert list((tmp_path / "ch").glob("*-wal")) == []
    async with open_ledger(tmp_path, "ch") as ledger, open_ledger(tmp_path, "other") as other:
        assert (ledger.height, wrap(ledger).get("k")) == (1, b"v")
        assert (other.height, wrap(other).get("k")) == (0, None)


async def test_a_snapshot_reads_a_small_row_once_and_forgets_when_it_is_full(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "KNOWN_ROWS", 2)
    large = b"x" * snapshot.KNOWN_BYTES
    await channel.put(a=b"1", b=b"2", c=b"3", large=large + b"x")
    reads: list[str] = []
    simulator = channel.simulate()
    connection = simulator._snapshot.connection
    connection.set_trace_callback(lambda text: reads.append(text[text.index("key = ") :]))
    long = "x" * (snapshot.KNOWN_BYTES + 1)
    for key in ("a", "a", "none", "none", "b", "large", "large", long, long, "b", "c", "a"):
        simulator.get_state("cc", key)
    connection.set_trace_callback(None)
    names = [bytes.fromhex(text.removeprefix("key = x").strip("'")).decode() for text in reads]
    assert names == ["a", "none", "b", "large", "large", long, long, "c", "a"]
    assert simulator.get_state("cc", "large") == large + b"x"
    await channel.put(a=b"new", none=b"new")
    assert (simulator.get_state("cc", "a"), simulator.get_state("cc", "none")) == (b"1", None)
    assert (channel.get("a"), channel.get("none")) == (b"new", b"new")
    simulator.done()


async def test_every_simulation_keeps_the_state_of_its_begin(channel: Any) -> None:
    connections = count_connections()
    simulations = []
    for i in range(20):
        await channel.put(k=b"%d" % i, **{f"r{i:02}": b"v"})
        simulations += [channel.simulate(), channel.simulate()]
    for i, simulator in enumerate(simulations):
        assert simulator.get_state("cc", "k") == b"%d" % (i // 2)
        assert len(await simulator.get_state_range("cc", "r", "").take(99)) == i // 2 + 1
        assert simulator.get_state("cc", "k") == b"%d" % (i // 2)
    for simulator in simulations:
        simulator.done()
    assert count_connections() - connections <= store.MAX_IDLE_CONNECTIONS + 1
    assert channel.get("k") == b"19"


def count_connections() -> int:
    def is_open(item: object) -> bool:
        try:
            return isinstance(item, sqlite3.Connection) and item.total_changes >= 0
        except sqlite3.ProgrammingError:
            return False

    gc.collect()
    return sum(map(is_open, gc.get_objects()))


async def test_a_simulation_begins_when_it_is_opened_not_when_it_first_reads(channel: Any) -> None:
    await channel.put(k=b"v")
    simulator, deleter = channel.simulate(), channel.simulate()
    deleter.delete_state("cc", "k")  # validated without reading anything
    await channel.commit(deleter)
    assert simulator.get_state("cc", "k") == b"v"
    simulator.done()


async def test_a_commit_and_a_half_read_range_do_not_see_each_other(channel: Any) -> None:
    await channel.put(a=b"1", b=b"1", c=b"1", d=b"1")
    simulator = channel.simulate()
    results = simulator.get_state_range("cc", "", "")
    first = await results.take(2)
    changer = channel.simulate()
    changer.delete_state("cc", "c")
    for key in ("b", "bb", "d"):
        changer.set_state("cc", key, b"2")
    await channel.commit(changer)
    seen = [*first, *await results.take(9)]
    assert [(r.key, r.value) for r in seen] == [(key, b"1") for key in "abcd"]
    assert await channel.commit(simulator) == [ValidationCode.PHANTOM_READ_CONFLICT]


async def test_reads_go_on_while_a_block_is_written(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await channel.put(k=b"old")
    before = channel.simulate()
    writing_now, may_finish = trio.Event(), trio.Event()
    write_block = store.Store.write_block

    def held_up(self: store.Store, rows: store.BlockRows) -> None:
        trio.from_thread.run_sync(writing_now.set)
        trio.from_thread.run(may_finish.wait)
        write_block(self, rows)

    monkeypatch.setattr(store.Store, "write_block", held_up)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit_unordered, channel.ledger, [writing(channel, "k", b"new")])
        await writing_now.wait()
        during = channel.simulate()
        assert (before.get_state("cc", "k"), during.get_state("cc", "k")) == (b"old", b"old")
        assert channel.ledger.height == 1
        may_finish.set()
    assert (before.get_state("cc", "k"), during.get_state("cc", "k")) == (b"old", b"old")
    assert (channel.get("k"), channel.ledger.height) == (b"new", 2)
    assert await channel.commit(during) == [ValidationCode.MVCC_READ_CONFLICT]
    before.done()


async def test_commits_queue_up(channel: Any) -> None:
    async with trio.open_nursery() as nursery:
        for i in range(5):
            nursery.start_soon(commit_unordered, channel.ledger, [writing(channel, f"k{i}", b"v")])
    assert channel.ledger.height == 5
    assert [channel.get(f"k{i}") for i in range(5)] == [b"v"] * 5


class Interrupted(Sequence[ValidationCode]):
    """Verdicts on valid transactions, with something that happens after the first was judged."""

    def __init__(self, count: int, happens: Callable[[], object]) -> None:
        self._count, self._happens = count, happens

    def __iter__(self) -> Iterator[ValidationCode]:
        yield ValidationCode.VALID
        self._happens()
        yield from [ValidationCode.VALID] * (self._count - 1)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> ValidationCode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ValidationCode]: ...
    def __getitem__(self, index: Any) -> Any:
        return ([ValidationCode.VALID] * self._count)[index]


async def test_a_commit_cancelled_before_it_writes_has_done_nothing(channel: Any) -> None:
    transactions = [writing(channel, "a", b"1"), writing(channel, "b", b"2")]
    with trio.CancelScope() as scope:
        await channel.ledger.commit(channel.block(*transactions), Interrupted(2, scope.cancel))
    assert scope.cancelled_caught
    assert (channel.ledger.height, channel.get("a")) == (0, None)
    assert await commit_unordered(channel.ledger, transactions) == [ValidationCode.VALID] * 2


async def test_a_commit_cancelled_while_it_writes_is_finished(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_block = store.Store.write_block
    with trio.CancelScope() as scope:

        def cancelled_meanwhile(self: store.Store, rows: store.BlockRows) -> None:
            trio.from_thread.run_sync(scope.cancel)
            write_block(self, rows)

        monkeypatch.setattr(store.Store, "write_block", cancelled_meanwhile)
        codes = await commit_unordered(channel.ledger, [writing(channel, "k", b"v")])
    assert codes == [ValidationCode.VALID]
    assert (channel.ledger.height, channel.get("k")) == (1, b"v")


async def test_the_log_is_moved_and_used_again(
    channel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHECKPOINT_BYTES", 100_000)
    wal = tmp_path / "ch" / "ledger.sqlite-wal"
    for i in range(40):
        reader = channel.simulate()
        if i % 2:
            reader.done()  # the log starts over only where nobody reads it
        await channel.put(k=b"%02d" % i * 25_000)
        reader.done()
    assert wal.stat().st_size < 1_000_000  # forty blocks of 100,000 bytes and more
    assert channel.get("k") == b"39" * 25_000


async def test_simulations_begun_while_a_block_is_validated_do_not_hold_the_log(
    channel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHECKPOINT_BYTES", 100_000)
    wal = tmp_path / "ch" / "ledger.sqlite-wal"
    held: list[TxSimulator] = []

    def replace_simulation() -> None:
        while held:
            held.pop().done()
        held.append(channel.simulate())

    for i in range(20):
        transaction = writing(channel, "k", b"%02d" % i * 25_000)
        replace_simulation()
        block = channel.block(transaction)
        await channel.ledger.commit(block, Interrupted(1, replace_simulation))
    assert wal.stat().st_size < 1_000_000  # twenty blocks of 100,000 bytes and more
    held.pop().done()


async def test_a_full_disk_loses_one_block_and_nothing_else(channel: Any) -> None:
    await channel.put(k=b"1")
    writer = channel.ledger._store._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    big = writing(channel, "big", b"v" * 100_000)
    with pytest.raises(LedgerFull, match=r"database or disk is full .*free some space"):
        await commit_unordered(channel.ledger, [big])
    assert (channel.ledger.height, channel.get("big"), channel.get("k")) == (1, None, b"1")
    writer.execute("PRAGMA max_page_count = 1000000")
    assert await commit_unordered(channel.ledger, [big]) == [ValidationCode.VALID]
    assert channel.get("big") == b"v" * 100_000


async def test_a_refused_write_is_typed_and_can_be_tried_again(channel: Any) -> None:
    await channel.put(k=b"1")
    big = writing(channel, "big", b"v" * 4_000_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(LedgerStorageError, match="File too large"):
            await commit_unordered(channel.ledger, [big])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (channel.ledger.height, channel.get("big"), channel.get("k")) == (1, None, b"1")
    assert await commit_unordered(channel.ledger, [big]) == [ValidationCode.VALID]
    assert channel.ledger.height == 2


async def test_a_block_that_cannot_be_indexed_is_taken_back(
    channel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await channel.put(k=b"1")
    blocks = tmp_path / "ch" / "blocks" / "blockfile_000000"
    size = blocks.stat().st_size

    def failing(connection: sqlite3.Connection) -> None:
        raise OverflowError

    with monkeypatch.context() as patched:
        patched.setattr(durable, "commit", failing)
        with pytest.raises(OverflowError):
            await commit_unordered(channel.ledger, [writing(channel, "k", b"2")])
    assert blocks.stat().st_size == size
    assert (channel.ledger.height, channel.get("k")) == (1, b"1")
    await channel.put(k=b"3")
    assert (channel.ledger.height, channel.get("k")) == (2, b"3")


async def test_another_program_that_locks_the_file_is_named(
    tmp_path: Path, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.01)
    async with open_ledger(tmp_path, "ch") as ledger:
        channel = wrap(ledger)
        other = sqlite3.connect(tmp_path / "ch" / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        transaction = writing(channel, "k", b"v")
        with pytest.raises(LedgerLocked, match=r"locked .* by another program"):
            await commit_unordered(ledger, [transaction])
        assert channel.get("k") is None
        other.execute("ROLLBACK")
        other.close()
        assert await commit_unordered(ledger, [transaction]) == [ValidationCode.VALID]


async def test_opening_without_room_says_what_is_probably_wrong(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(LedgerStorageError, match="the disk is probably full"):
            async with open_ledger(tmp_path, "ch"):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_ledger_is_opened_once(tmp_path: Path) -> None:
    async with open_ledger(tmp_path, "ch"):
        with pytest.raises(LedgerLocked, match="in use by another peer"):
            async with open_ledger(tmp_path, "ch"):
                raise AssertionError("opened twice")
    async with open_ledger(tmp_path, "ch"):
        pass


@pytest.mark.parametrize("channel_id", ["", "..", "a/b", "A", "1a", "a" * 250, "a\n", "a\0"])
async def test_a_channel_id_is_a_plain_name(tmp_path: Path, channel_id: str) -> None:
    with pytest.raises(LedgerError, match="is not a channel id"):
        async with open_ledger(tmp_path, channel_id):
            raise AssertionError("opened")
    assert os.listdir(tmp_path) == []


async def test_the_longest_channel_id_fits(tmp_path: Path, wrap: Wrap) -> None:
    async with open_ledger(tmp_path, "a" * 249) as ledger:
        await wrap(ledger).put(k=b"v")


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerStorageError, match="Not a directory"):
        async with open_ledger(tmp_path / "file", "ch"):
            raise AssertionError("opened")


async def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "ch" / "ledger.sqlite").mkdir(parents=True)
    with pytest.raises(LedgerStorageError, match="unable to open database file"):
        async with open_ledger(tmp_path, "ch"):
            raise AssertionError("opened")


@pytest.mark.parametrize("count", [1, 49, 50, 51, 101])
async def test_as_many_rows_as_were_written(tmp_path: Path, wrap: Wrap, count: int) -> None:
    """One statement takes fifty."""
    values = {f"k{number:03}": b"%d" % number for number in range(count)}
    async with open_ledger(tmp_path, "ch") as ledger:
        await wrap(ledger).put(**values)
        executor = ledger.new_query_executor()
        found = await executor.get_state_range("cc", "", "").take(count + 1)
        executor.done()
        assert {record.key: record.value for record in found} == values
        history = ledger.new_history_query_executor()
        for key, value in values.items():
            [past] = await history.get_history_for_key("cc", key).take(2)
            assert past.value == value


async def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ch").mkdir()
    (tmp_path / "ch" / "ledger.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(LedgerCorrupt, match="file is not a database"):
        async with open_ledger(tmp_path, "ch"):
            raise AssertionError("opened")


@pytest.mark.parametrize("version", [5, 99])
async def test_a_ledger_of_another_version(tmp_path: Path, wrap: Wrap, version: int) -> None:
    async with open_ledger(tmp_path, "ch") as ledger:
        await wrap(ledger).put(k=b"v")
    file = sqlite3.connect(tmp_path / "ch" / "ledger.sqlite")
    file.execute(f"PRAGMA user_version = {version}")
    file.close()
    problem = f"schema has version {version}, this peer's 7; .* `node rebuild-dbs`"
    with pytest.raises(LedgerCorrupt, match=problem):
        async with open_ledger(tmp_path, "ch"):
            raise AssertionError("opened")
    await rebuild_databases(tmp_path, "ch")
    async with open_ledger(tmp_path, "ch") as ledger:
        assert wrap(ledger).get("k") == b"v"


async def test_damaged_pages_are_reported_not_read(tmp_path: Path, wrap: Wrap) -> None:
    async with open_ledger(tmp_path, "ch") as ledger:
        await wrap(ledger).put(**{f"k{i:04}": b"v" * 100 for i in range(1000)})
    path = tmp_path / "ch" / "ledger.sqlite"
    content = path.read_bytes()
    first = 4096 * 18  # the schema and the roots of its tables and indexes stay as they are
    path.write_bytes(content[:first] + b"\xff" * (len(content) - first))
    async with open_ledger(tmp_path, "ch") as ledger:
        channel = wrap(ledger)
        executor = ledger.new_query_executor()
        with pytest.raises(LedgerCorrupt, match="malformed"):
            executor.get_state("cc", "k0999")
        with pytest.raises(LedgerCorrupt, match="malformed"):
            await executor.get_state_range("cc", "", "").take(1000)
        executor.done()
        history = ledger.new_history_query_executor().get_history_for_key("cc", "k0999")
        with pytest.raises(LedgerCorrupt, match="malformed"):
            await history.take(1)
        with pytest.raises(LedgerCorrupt, match="malformed"):
            await commit_unordered(
                ledger, [replace(writing(channel, "k0999", b"v"), tx_id="another")]
            )
        assert ledger.height == 1


async def test_a_simulation_may_outlive_the_ledger(tmp_path: Path, wrap: Wrap) -> None:
    connections = count_connections()
    async with open_ledger(tmp_path, "ch") as ledger:
        channel = wrap(ledger)
        await channel.put(k=b"v")
        simulator = channel.simulate()
    assert simulator.get_state("cc", "k") == b"v"
    with pytest.raises(LedgerStorageError, match="closed"):
        ledger.new_query_executor()
    simulator.done()
    assert count_connections() == connections


COMMITS_FOR_EVER = """
import sys
from pathlib import Path

import trio

from peer.ledger import open_ledger
from peer.ledger.api import Timestamp
from tests.unordered import CommittingTransaction, commit_unordered


async def main():
    async with open_ledger(Path(sys.argv[1]), "ch", collections={"cc": {"c"}}.get) as ledger:
        while True:
            n = ledger.height
            transactions = []
            for part in range(3):
                simulator = ledger.new_tx_simulator("tx")
                simulator.set_state("cc", f"part{part}", b"%d" % n)
                simulator.set_state("cc", f"block{n:06}-{part}", b"x" * 3000)
                simulator.set_private_data("cc", "c", f"part{part}", b"%d" % n)
                transactions.append(
                    CommittingTransaction(
                        tx_id=f"{n}-{part}",
                        timestamp=Timestamp(n),
                        results=simulator.get_tx_simulation_results(),
                    )
                )
            await commit_unordered(ledger, transactions)
            print(ledger.height, flush=True)


trio.run(main)
"""


def test_a_killed_peer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    for count in (1, 7, 40):
        acknowledged = commit_until_killed(tmp_path, count)
        trio.run(check_after_kill, tmp_path, acknowledged)


def commit_until_killed(directory: Path, count: int) -> int:
    """Kill a committing process after `count` blocks; return the height it last printed."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMITS_FOR_EVER, str(directory)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None
        try:
            printed = [process.stdout.readline() for _ in range(count)]
            with pytest.raises(LedgerLocked):
                trio.run(check_after_kill, directory, 0)
        finally:
            process.send_signal(signal.SIGKILL)
        printed += process.stdout.readlines()
    return int(printed[-1])


async def check_after_kill(directory: Path, acknowledged: int) -> None:
    async with open_ledger(directory, "ch", collections={"cc": {"c"}}.get) as ledger:
        height = ledger.height
        # One block may have been written without its line having been printed.
        assert height in (acknowledged, acknowledged + 1)
        last = b"%d" % (height - 1)
        executor = ledger.new_query_executor()
        parts = ["part0", "part1", "part2"]
        assert executor.get_state_multiple("cc", parts) == [last] * 3
        assert executor.get_private_data_multiple("cc", "c", parts) == [last] * 3
        records = await executor.get_state_range("cc", "block", "c").take(10**6)
        assert [r.key for r in records] == [
            f"block{n:06}-{part}" for n in range(height) for part in range(3)
        ]
        executor.done()
        history = ledger.new_history_query_executor().get_history_for_key("cc", "part1")
        assert [m.tx_id for m in await history.take(10**6)] == [
            f"{n}-1" for n in reversed(range(height))
        ]
