"""Opening after anything: databases that lag, are gone, know too much, or belong elsewhere."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from fabric_protos.common import Block, BlockData, BlockHeader
from peer.errors import LedgerCorrupt, LedgerLocked, LedgerStorageError
from peer.ledger import open_ledger, rebuild_databases
from peer.ledger.api import Ledger
from peer.ledger.blockfile import BlockFiles, Position, Record
from peer.ledger.blocks import committed, data_hash, flags_of

Wrap = Callable[[Ledger], Any]
BLOCKS = 5
MAX_FILE_BYTES = 450


@pytest.fixture
async def home(tmp_path: Path, wrap: Wrap) -> Path:
    """A closed ledger of five blocks in several files; block n sets k to n."""
    async with open_ledger(tmp_path, "ch", max_file_bytes=MAX_FILE_BYTES) as ledger:
        channel = wrap(ledger)
        for number in range(BLOCKS):
            await channel.put(k=b"%d" % number)
    home = tmp_path / "ch"
    assert len(list((home / "blocks").iterdir())) > 1
    return home


def records(home: Path) -> list[Record]:
    return list(BlockFiles(home / "blocks").scan())


def rewrite(home: Path, *kept: Record) -> None:
    """Put these blocks in the place of those there are."""
    shutil.rmtree(home / "blocks")
    (home / "blocks").mkdir()
    files = BlockFiles(home / "blocks", max_file_bytes=MAX_FILE_BYTES)
    files.resume(Position(0, 0))
    for record in kept:
        files.append(record.block)
    files.close()


async def reopened(home: Path, wrap: Wrap) -> tuple[int, bytes]:
    async with open_ledger(home.parent, home.name) as ledger:
        return ledger.height, wrap(ledger).get("k")


@pytest.mark.parametrize("known", [0, 1, BLOCKS - 1, BLOCKS])
async def test_databases_that_lag_catch_up(
    home: Path, tmp_path: Path, wrap: Wrap, known: int
) -> None:
    everything = records(home)
    await rebuild_databases(tmp_path, "ch")
    rewrite(home, *everything[:known])
    assert (await reopened(home, wrap))[0] == known
    rewrite(home, *everything)
    assert await reopened(home, wrap) == (BLOCKS, b"4")
    async with open_ledger(tmp_path, "ch") as ledger:
        history = await ledger.new_history_query_executor().get_history_for_key("cc", "k").take(9)
        assert [each.value for each in history] == [b"4", b"3", b"2", b"1", b"0"]


async def test_what_a_power_cut_takes_from_the_databases_is_made_again(
    tmp_path: Path, wrap: Wrap
) -> None:
    """Nothing but the blocks has been waited for."""
    copies = [tmp_path / f"cut{number}" for number in range(6)]
    async with open_ledger(tmp_path, "ch") as ledger:
        channel = wrap(ledger)
        for number in range(BLOCKS):
            await channel.put(k=b"%d" % number)
        for copy in copies:
            shutil.copytree(tmp_path / "ch", copy / "ch")
    heights = set()
    for number, copy in enumerate(copies):
        log = copy / "ch" / "ledger.sqlite-wal"
        os.truncate(log, log.stat().st_size * number // (len(copies) - 1))
        database = sqlite3.connect(copy / "ch" / "ledger.sqlite")
        with closing(database), suppress(sqlite3.OperationalError):  # not even tables are there
            heights.add(database.execute("SELECT count(*) FROM blocks").fetchone())
        assert await reopened(copy / "ch", wrap) == (BLOCKS, b"4")
        async with open_ledger(copy, "ch") as ledger:
            history = (
                await ledger.new_history_query_executor().get_history_for_key("cc", "k").take(9)
            )
            assert [each.value for each in history] == [b"4", b"3", b"2", b"1", b"0"]
    assert len(heights) > 2  # they really lagged, each by another number of blocks


async def test_a_rebuilt_ledger_goes_on(home: Path, tmp_path: Path, wrap: Wrap) -> None:
    await rebuild_databases(tmp_path, "ch")
    assert list(home.glob("ledger.sqlite*")) == []
    async with open_ledger(tmp_path, "ch") as ledger:
        await wrap(ledger).put(k=b"on")
        assert ledger.height == BLOCKS + 1
    assert await reopened(home, wrap) == (BLOCKS + 1, b"on")


async def test_an_open_ledger_is_not_rebuilt(home: Path, tmp_path: Path) -> None:
    async with open_ledger(tmp_path, "ch"):
        with pytest.raises(LedgerLocked):
            await rebuild_databases(tmp_path, "ch")
    assert (home / "ledger.sqlite").exists()


async def test_without_history_none_is_made_again(home: Path, tmp_path: Path) -> None:
    await rebuild_databases(tmp_path, "ch")
    async with open_ledger(tmp_path, "ch", history=False):
        pass
    async with open_ledger(tmp_path, "ch") as ledger:
        executor = ledger.new_history_query_executor()
        assert await executor.get_history_for_key("cc", "k").take(9) == []


@pytest.mark.parametrize("left", [0, 1, BLOCKS - 1])
async def test_databases_that_know_more_than_the_blocks_are_refused(
    home: Path, tmp_path: Path, left: int
) -> None:
    rewrite(home, *records(home)[:left])
    reason = rf"\[height=5\] is ahead of the block store \[height={left}\]"
    for _ in range(2):
        with pytest.raises(LedgerCorrupt, match=reason):
            async with open_ledger(tmp_path, "ch"):
                raise AssertionError("opened")
    assert len(records(home)) == left


async def test_a_torn_block_the_databases_know_is_not_cut(home: Path, tmp_path: Path) -> None:
    last = max((home / "blocks").iterdir())
    content = last.read_bytes()[:-1]
    last.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match=r"is ahead of the block store \[height=4\]"):
        async with open_ledger(tmp_path, "ch"):
            raise AssertionError("opened")
    assert last.read_bytes() == content


async def test_a_torn_block_nobody_knows_is_cut(home: Path, tmp_path: Path, wrap: Wrap) -> None:
    await rebuild_databases(tmp_path, "ch")
    last = max((home / "blocks").iterdir())
    last.write_bytes(last.read_bytes()[:-1])
    assert await reopened(home, wrap) == (BLOCKS - 1, b"3")
    assert len(records(home)) == BLOCKS - 1


async def test_databases_of_another_chain_are_refused(
    home: Path, tmp_path: Path, wrap: Wrap
) -> None:
    async with open_ledger(tmp_path, "other", max_file_bytes=MAX_FILE_BYTES) as ledger:
        other = wrap(ledger)
        for number in range(BLOCKS):
            await other.put(j=b"%d" % number)
    shutil.rmtree(home / "blocks")
    shutil.copytree(tmp_path / "other" / "blocks", home / "blocks")
    with pytest.raises(LedgerCorrupt, match="does not belong to the block files"):
        async with open_ledger(tmp_path, "ch"):
            raise AssertionError("opened")


async def test_blocks_that_contradict_themselves_are_refused(home: Path, tmp_path: Path) -> None:
    first, second, third, *_ = records(home)

    def changed(flags: bytes, digest: bytes = b"") -> Record:
        return second._replace(block=committed(second.block, flags, digest))

    digest = b"\1" * 32
    for chain, reason in (
        ([first, third], "block 1: block 2 cannot be committed: the next block is 1"),
        ([first, second, second], "block 2: block 1 cannot be committed"),
        ([first, changed(flags_of(second.block), digest)], "block 1: its commit hash"),
        ([first, changed(b"\x0b", digest)], "block 1: its commit hash"),
        ([first, changed(b"\x64")], "block 1: 100 is not a valid ValidationCode"),
        ([first, changed(b"")], r"block 1: zip\(\)"),
        ([first, changed(b"\0\0")], r"block 1: zip\(\)"),
    ):
        await rebuild_databases(tmp_path, "ch")
        rewrite(home, *chain)
        with pytest.raises(LedgerCorrupt, match=reason):
            async with open_ledger(tmp_path, "ch"):
                raise AssertionError("opened")


async def test_a_transaction_recorded_as_valid_must_be_one(home: Path, tmp_path: Path) -> None:
    async with open_ledger(tmp_path, "ch") as ledger:
        info = ledger.blockchain_info()
    data = BlockData(data=[b"\xff"])
    header = BlockHeader(
        number=BLOCKS, previous_hash=info.current_block_hash, data_hash=data_hash(data)
    )
    bad = committed(Block(header=header, data=data), b"\0", b"")
    everything = records(home)
    rewrite(home, *everything, everything[0]._replace(block=bad))
    with pytest.raises(LedgerCorrupt, match="is recorded as valid"):
        async with open_ledger(tmp_path, "ch"):
            raise AssertionError("opened")


async def test_catching_up_can_be_cancelled_and_goes_on(
    home: Path, tmp_path: Path, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rebuild_databases(tmp_path, "ch")
    scan = BlockFiles.scan
    with trio.CancelScope() as scope:

        def scanning(self: BlockFiles, start: Position) -> Any:
            for number, record in enumerate(scan(self, start)):
                if number == 2:
                    trio.from_thread.run_sync(scope.cancel)
                yield record

        with monkeypatch.context() as patched:
            patched.setattr(BlockFiles, "scan", scanning)
            async with open_ledger(tmp_path, "ch"):
                raise AssertionError("opened")
    assert scope.cancelled_caught
    assert await reopened(home, wrap) == (BLOCKS, b"4")


async def test_blocks_that_cannot_be_read(home: Path, tmp_path: Path) -> None:
    shutil.rmtree(home / "blocks")
    (home / "blocks").touch()
    with pytest.raises(LedgerStorageError, match="File exists"):
        async with open_ledger(tmp_path, "ch"):
            raise AssertionError("opened")


async def test_a_blocks_directory_that_went_away(tmp_path: Path, wrap: Wrap) -> None:
    async with open_ledger(tmp_path, "ch") as ledger:
        await wrap(ledger).put(k=b"v")
        await wrap(ledger).put(k=b"the last block is in memory, too")
        shutil.rmtree(tmp_path / "ch" / "blocks")
        with pytest.raises(LedgerStorageError, match="No such file"):
            await ledger.block_by_number(0)
