"""The ledger of a peer of ours: audited, cut back, and gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from peer.audit import audit_chain, final_state, find_chains
from peer.audit.report import ChainReport, Check, Count
from peer.errors import LedgerLocked
from peer.ledger import reset, rollback
from tests.integration.peer.scene import CHANNEL, Code, watched_peer


async def put(data: Path, source: Path, *values: str) -> int:
    """Write values in blocks of their own, each over the one before; return the height."""
    async with watched_peer(file_system_path=str(data)) as (peer, _):
        await peer.install(source)
        for value in values:
            result = await peer.invoke(CHANNEL, source.name, ["put", "key", value])
            assert result.committed
        return peer.ledger(CHANNEL).height


async def read(data: Path, source: Path) -> bytes:
    async with watched_peer(file_system_path=str(data)) as (peer, _):
        await peer.install(source)
        return (await peer.query(CHANNEL, source.name, ["get", "key"])).payload


async def replayed(data: Path, scratch: Path) -> tuple[ChainReport, dict[bytes, bytes | None]]:
    """Audit the only chain; return the chaincode's state besides."""
    shutil.rmtree(scratch, ignore_errors=True)
    [chain] = find_chains(data)
    report = await audit_chain(chain, scratch, replay=True)
    return report, {row.key: row.value for row in final_state(scratch) if row.key == b"key"}


async def test_a_ledger_of_ours_is_audited_cut_back_and_gone_on_with(
    code: Code, tmp_path: Path
) -> None:
    source, data, scratch = code.book(), tmp_path / "data", tmp_path / "scratch"
    ledgers = data / "ledgersData"
    height = await put(data, source, "1", "2", "3")
    report, state = await replayed(data, scratch)
    assert (report.first, report.unchecked, report.blocks) == (None, [], height)
    assert report.counts[Check.BLOCK_SIGNATURE] == Count(height - 1, height - 1)
    assert report.counts[Check.COMMIT_HASH] == Count(height - 1, height - 1)
    assert report.counts[Check.VALIDATION_CODE] == Count(report.transactions, report.transactions)
    assert state == {b"key": b"3"}

    await rollback(ledgers, CHANNEL, height - 2)
    assert await read(data, source) == b"2"
    assert await put(data, source, "4") == height
    report, state = await replayed(data, scratch)
    assert (report.first, state) == (None, {b"key": b"4"})

    assert await reset(ledgers) == [CHANNEL]
    await put(data, source, "5")
    report, state = await replayed(data, scratch)
    assert (report.first, state) == (None, {b"key": b"5"})


async def test_a_running_peer_keeps_its_blocks(code: Code, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with watched_peer(file_system_path=str(data)) as (peer, _):
        height = peer.ledger(CHANNEL).height
        with pytest.raises(LedgerLocked, match="in use by another peer"):
            await reset(data / "ledgersData")
        assert peer.ledger(CHANNEL).height == height
        [chain] = find_chains(data)
        report = await audit_chain(chain, tmp_path / "scratch")
        assert (report.first, report.blocks) == (None, height)
