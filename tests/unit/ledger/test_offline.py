"""Ledgers that are reset or rolled back while no peer has them."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from peer.errors import LedgerCorrupt, LedgerError, LedgerLocked, LedgerStorageError, UnknownChannel
from peer.ledger import ledger_ids, open_ledger, public_state, rebuild_databases, reset, rollback
from peer.ledger.api import Ledger, ValidationCode, Version
from peer.ledger.blockfile import BlockFiles
from peer.ledger.blocks import commit_hash_of
from peer.ledger.offline import StateRow

Wrap = Callable[[Ledger], Any]
BLOCKS = 6
MAX_FILE_BYTES = 450


@pytest.fixture
async def ledgers(tmp_path: Path, wrap: Wrap) -> Path:
    """Two closed ledgers of six blocks in several files; block n sets k to n."""
    for channel_id in ("one", "two"):
        async with open_ledger(tmp_path, channel_id, max_file_bytes=MAX_FILE_BYTES) as ledger:
            for number in range(BLOCKS):
                await wrap(ledger).put(k=b"%d" % number)
        assert len(files(tmp_path, channel_id)) > 2
    return tmp_path


def files(ledgers: Path, channel_id: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (ledgers / channel_id / "blocks").iterdir()}


def commit_hashes(ledgers: Path, channel_id: str) -> list[bytes]:
    records = BlockFiles(ledgers / channel_id / "blocks").scan()
    return [commit_hash_of(record.block) for record in records]


async def reopened(ledgers: Path, channel_id: str, wrap: Wrap) -> tuple[int, bytes]:
    async with open_ledger(ledgers, channel_id) as ledger:
        return ledger.height, wrap(ledger).get("k")


@pytest.mark.parametrize("number", range(BLOCKS - 1))
async def test_a_block_becomes_the_last_one(ledgers: Path, wrap: Wrap, number: int) -> None:
    before, other = commit_hashes(ledgers, "one"), files(ledgers, "two")
    await rollback(ledgers, "one", number)
    assert not list((ledgers / "one").glob("ledger.sqlite*"))
    assert commit_hashes(ledgers, "one") == before[: number + 1]
    assert await reopened(ledgers, "one", wrap) == (number + 1, b"%d" % number)
    assert files(ledgers, "two") == other
    assert (ledgers / "two" / "ledger.sqlite").exists()


async def test_other_blocks_may_follow(ledgers: Path, wrap: Wrap) -> None:
    await rollback(ledgers, "one", 2)
    async with open_ledger(ledgers, "one", max_file_bytes=MAX_FILE_BYTES) as ledger:
        for number in range(BLOCKS):
            await wrap(ledger).put(k=b"new %d" % number)
        history = await ledger.new_history_query_executor().get_history_for_key("cc", "k").take(99)
    expected = [*(b"%d" % number for number in range(3)), *(b"new %d" % n for n in range(BLOCKS))]
    assert [each.value for each in history] == expected[::-1]
    assert await reopened(ledgers, "one", wrap) == (3 + BLOCKS, b"new 5")


async def test_a_reset_cuts_every_ledger(ledgers: Path, wrap: Wrap) -> None:
    async with open_ledger(ledgers, "empty"):
        pass
    assert await reset(ledgers) == ["empty", "one", "two"]
    for channel_id in ("one", "two"):
        assert await reopened(ledgers, channel_id, wrap) == (1, b"0")
    assert await reset(ledgers) == ["empty", "one", "two"]
    assert await reopened(ledgers, "one", wrap) == (1, b"0")


async def test_a_reset_needs_no_more_than_two_blocks(ledgers: Path, wrap: Wrap) -> None:
    last = max((ledgers / "one" / "blocks").iterdir())
    last.write_bytes(b"\1\0" + last.read_bytes())
    await rebuild_databases(ledgers, "one")
    with pytest.raises(LedgerCorrupt):
        await reopened(ledgers, "one", wrap)
    await reset(ledgers)
    assert await reopened(ledgers, "one", wrap) == (1, b"0")


@pytest.mark.parametrize("number", [BLOCKS - 1, BLOCKS, 99])
async def test_only_what_lies_below_the_last_block(ledgers: Path, number: int) -> None:
    before = files(ledgers, "one")
    with pytest.raises(
        LedgerError,
        match=rf"^target block number \[{number}\] should be less than the biggest block number "
        rf"\[{BLOCKS - 1}\]$",
    ):
        await rollback(ledgers, "one", number)
    assert files(ledgers, "one") == before
    assert (ledgers / "one" / "ledger.sqlite").exists()


async def test_nothing_is_touched_while_a_peer_has_one_of_them(ledgers: Path) -> None:
    before = {path: path.read_bytes() for path in ledgers.rglob("block*") if path.is_file()}
    async with open_ledger(ledgers, "two"):
        for attempt in (
            lambda: reset(ledgers),
            lambda: rollback(ledgers, "two", 1),
            lambda: rebuild_databases(ledgers, "one", "two"),
        ):
            with pytest.raises(LedgerLocked, match="in use by another peer"):
                await attempt()
    assert {path: path.read_bytes() for path in before} == before
    assert (ledgers / "one" / "ledger.sqlite").exists()
    await rollback(ledgers, "two", 1)


async def test_channels_there_are_not(ledgers: Path, tmp_path: Path) -> None:
    for name in ("three", "No such", ".."):
        with pytest.raises(UnknownChannel, match="this peer has joined: one, two"):
            await rollback(ledgers, name, 0)
        with pytest.raises(UnknownChannel):
            await rebuild_databases(ledgers, "one", name)
    assert ledger_ids(ledgers) == ["one", "two"]
    assert (ledgers / "one" / "ledger.sqlite").exists()
    assert await reset(tmp_path / "missing") == []
    assert not (tmp_path / "missing").exists()


async def test_files_that_cannot_be_removed(ledgers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    before = files(ledgers, "one")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(LedgerStorageError, match="Permission denied"):
            await rollback(ledgers, "one", 1)
    assert files(ledgers, "one") == before
    (ledgers / "file").touch()
    with pytest.raises(LedgerStorageError, match="Not a directory"):
        ledger_ids(ledgers / "file")


async def test_the_public_state(tmp_path: Path, wrap: Wrap) -> None:
    collections = {"b": ["secret"]}
    async with open_ledger(tmp_path, "ch", collections=collections.get) as ledger:
        simulator = ledger.new_tx_simulator("")
        simulator.set_state("b", "z", b"1")
        simulator.set_state("b", "a\xff", b"2")
        simulator.set_state("a", "k", b"3")
        simulator.set_private_data("b", "secret", "k", b"4")
        assert await wrap(ledger).commit(simulator) == [ValidationCode.VALID]
    version = Version(0, 0)
    assert list(public_state(tmp_path, "ch")) == [
        StateRow("a", b"k", b"3", b"", version),
        StateRow("b", "a\xff".encode(), b"2", b"", version),
        StateRow("b", b"z", b"1", b"", version),
        StateRow("b$$hsecret", sha256(b"k").digest(), sha256(b"4").digest(), b"", version),
    ]
    with pytest.raises(LedgerStorageError):
        list(public_state(tmp_path, "missing"))
    assert not (tmp_path / "missing").exists()
