"""Asking for snapshots: when they are generated, what is refused, what a restart finds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from peer.errors import LedgerCorrupt, SnapshotRequestRefused
from peer.ledger import open_ledger
from peer.ledger.api import Ledger, ValidationCode
from peer.ledger.exporting import export
from peer.ledger.snapshot_files import read_metadata
from tests.unit.ledger.snapshotting import (
    configured,
    generated,
    place_of,
    root_of,
    running,
    snapshot,
    take_in,
)

Wrap = Callable[[Ledger], Any]


class Brake:
    """Holds generating up until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = trio.Event()
        self._go = trio.Event()
        monkeypatch.setattr("peer.ledger.requests.export", self._export)

    def let_go(self) -> None:
        self._go.set()

    def _export(self, *args: Any) -> None:
        trio.from_thread.run_sync(self.reached.set)
        trio.from_thread.run(self._go.wait)
        export(*args)


@pytest.fixture
def brake(monkeypatch: pytest.MonkeyPatch) -> Brake:
    return Brake(monkeypatch)


async def test_a_snapshot_comes_with_its_block(tmp_path: Path, wrap: Wrap) -> None:
    home = tmp_path / "a"
    async with running(home) as ledger:
        await configured(ledger)
        await ledger.snapshots.submit(3)
        await ledger.snapshots.submit(2)
        assert ledger.snapshots.pending() == [2, 3]
        await wrap(ledger).put(k=b"1")
        assert not place_of(home, 1).exists()
        assert ledger.snapshots.pending() == [2, 3]
        for number in (2, 3):
            await wrap(ledger).put(k=b"%d" % number)
            await generated(ledger)
            assert read_metadata(place_of(home, number)).last.number == number
        assert ledger.snapshots.pending() == []
    assert sorted(path.name for path in place_of(home, 2).parent.iterdir()) == ["2", "3"]
    assert not list((root_of(home) / "temp").iterdir())


async def test_zero_is_the_last_block(tmp_path: Path) -> None:
    home = tmp_path / "a"
    async with running(home) as ledger:
        await configured(ledger)
        assert read_metadata(await snapshot(ledger, home)).last.number == 0
        with pytest.raises(
            SnapshotRequestRefused, match="snapshot already generated for block number 0"
        ):
            await ledger.snapshots.submit(0)


async def test_what_cannot_be_asked_for(tmp_path: Path, wrap: Wrap) -> None:
    async with running(tmp_path / "a") as ledger:
        await configured(ledger)
        await wrap(ledger).put(k=b"1")
        await wrap(ledger).put(k=b"2")
        submit, cancel = ledger.snapshots.submit, ledger.snapshots.cancel
        with pytest.raises(
            SnapshotRequestRefused,
            match="requested snapshot for block number 1 cannot be less than the last committed "
            "block number 2",
        ):
            await submit(1)
        await submit(9)
        with pytest.raises(
            SnapshotRequestRefused, match="duplicate snapshot request for block number 9"
        ):
            await submit(9)
        with pytest.raises(
            SnapshotRequestRefused, match="no snapshot request exists for block number 8"
        ):
            await cancel(8)
        await cancel(9)
        assert ledger.snapshots.pending() == []


async def test_requests_outlive_the_peer(tmp_path: Path, wrap: Wrap) -> None:
    home = tmp_path / "a"
    async with running(home) as ledger:
        await configured(ledger)
        await ledger.snapshots.submit(1)
        await ledger.snapshots.submit(2)
        await ledger.snapshots.cancel(2)
    async with running(home) as ledger:
        assert ledger.snapshots.pending() == [1]
        await wrap(ledger).put(k=b"1")
        await generated(ledger)
        assert read_metadata(place_of(home, 1)).last.number == 1
    async with running(home) as ledger:
        assert ledger.snapshots.pending() == []


async def test_commits_go_on_meanwhile_and_are_not_in_it(
    tmp_path: Path, wrap: Wrap, brake: Brake
) -> None:
    home = tmp_path / "a"
    async with running(home) as ledger:
        await configured(ledger)
        await wrap(ledger).put(k=b"1")
        await ledger.snapshots.submit(0)
        await brake.reached.wait()
        with pytest.raises(SnapshotRequestRefused, match="because it is under processing"):
            await ledger.snapshots.cancel(1)
        with pytest.raises(SnapshotRequestRefused, match="duplicate"):
            await ledger.snapshots.submit(0)
        channel = wrap(ledger)
        await ledger.snapshots.submit(3)
        for number in (2, 3, 4):
            await channel.put(k=b"%d" % number)
        assert ledger.height == 5
        assert ledger.snapshots.pending() == [1, 3]
        brake.let_go()
        await generated(ledger)
    for number in (1, 3):
        await take_in(tmp_path / f"b{number}", place_of(home, number))
        async with open_ledger(tmp_path / f"b{number}", "ch") as born:
            assert (born.height, wrap(born).get("k")) == (number + 1, b"%d" % number)


async def test_the_same_blocks_give_the_same_snapshot(tmp_path: Path, wrap: Wrap) -> None:
    """One while commits run beside it, one without."""
    home = tmp_path / "a"
    async with running(home) as ledger:
        await configured(ledger)
        channel = wrap(ledger)
        await ledger.snapshots.submit(20)
        for number in range(1, 60):
            await channel.put(**{f"k{number % 7}": b"%d" % number})
        await generated(ledger)
        blocks = [await ledger.block_by_number(number) for number in range(21)]
    async with running(tmp_path / "b") as other:
        for block in blocks:
            assert block is not None
            await other.commit(block, [ValidationCode.VALID])
        place = await snapshot(other, tmp_path / "b")
    assert read_metadata(place) == read_metadata(place_of(home, 20))


async def test_closing_in_the_midst_leaves_nothing_and_begins_again(
    tmp_path: Path, wrap: Wrap, brake: Brake, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a"
    async with running(home) as ledger:
        await configured(ledger)
        await ledger.snapshots.submit(0)
        await brake.reached.wait()
    assert not list((root_of(home) / "temp").iterdir())
    assert not place_of(home, 0).exists()
    monkeypatch.setattr("peer.ledger.requests.export", export)
    async with running(home) as ledger:
        await generated(ledger)
    assert read_metadata(place_of(home, 0)).last.number == 0


async def test_an_interrupted_one_whose_state_is_gone_is_given_up(
    tmp_path: Path, wrap: Wrap, brake: Brake, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "a"
    async with running(home) as ledger:
        await configured(ledger)
        await ledger.snapshots.submit(0)
        await ledger.snapshots.submit(7)
        await brake.reached.wait()
        await wrap(ledger).put(k=b"1")
    with caplog.at_level(logging.ERROR):
        async with running(home) as ledger:
            assert ledger.snapshots.pending() == [7]
    assert "the snapshot at block 0 was interrupted, and the last block is 1 now" in caplog.text
    assert not place_of(home, 0).exists()


async def test_a_failure_is_told_and_the_next_one_comes(
    tmp_path: Path, wrap: Wrap, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "a"
    place_of(home, 0).parent.parent.mkdir(parents=True)
    place_of(home, 0).parent.write_bytes(b"in the way")
    async with running(home) as ledger:
        await configured(ledger)
        await ledger.snapshots.submit(0)
        await generated(ledger)
        assert "channel ch: no snapshot at block 0: " in caplog.text
        place_of(home, 0).parent.unlink()
        await wrap(ledger).put(k=b"1")
        await snapshot(ledger, home)
    assert read_metadata(place_of(home, 1)).last.number == 1


async def test_leftovers_of_this_channel_go_and_of_others_stay(tmp_path: Path) -> None:
    home = tmp_path / "a"
    temporary = root_of(home) / "temp"
    for name in ("ch-5-abc_1", "ch-1-5-abc", "other-5-abc"):
        (temporary / name).mkdir(parents=True)
        (temporary / name / "txids.data").touch()
    async with running(home):
        assert sorted(path.name for path in temporary.iterdir()) == ["ch-1-5-abc", "other-5-abc"]


@pytest.mark.parametrize("content", ["", "{", "1", '["1"]', "[1.5]", "null"])
async def test_requests_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    home = tmp_path / "a"
    async with running(home):
        pass
    (home / "ch" / "snapshot_requests.json").write_text(content)
    with pytest.raises(LedgerCorrupt, match="numbers of blocks"):
        async with open_ledger(home, "ch"):
            raise AssertionError("opened")


async def test_requests_are_numbers_in_a_file(tmp_path: Path) -> None:
    home = tmp_path / "a"
    async with running(home) as ledger:
        await configured(ledger)
        await ledger.snapshots.submit(2**63)
        await ledger.snapshots.submit(5)
    assert json.loads((home / "ch" / "snapshot_requests.json").read_text()) == [5, 2**63]
