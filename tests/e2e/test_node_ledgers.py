"""``node rebuild-dbs``, ``node reset`` and ``node rollback`` as their user meets them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peer.ledger import is_paused, open_ledger
from peer.ledger.api import SimulationResults, Timestamp
from tests.unordered import CommittingTransaction, commit_unordered

ROOT = Path(__file__).parents[2]
SEARCHED = os.pathsep.join((str(ROOT), str(ROOT / "proto")))
NEXT = "the next start makes state and history again"


def node(data: Path | str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peer", "node", *args],
        env={**os.environ, "PYTHONPATH": SEARCHED, "CORE_PEER_FILESYSTEMPATH": str(data)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """The data directory of a peer with two channels of three blocks."""
    for channel_id in ("ch1", "ch2"):
        async with open_ledger(tmp_path / "ledgersData", channel_id) as ledger:
            for number in range(3):
                transaction = CommittingTransaction(
                    tx_id=f"{number}", timestamp=Timestamp(0), results=SimulationResults(public=b"")
                )
                await commit_unordered(ledger, [transaction])
    return tmp_path


def databases(data: Path) -> list[str]:
    return sorted(path.parent.name for path in data.glob("ledgersData/*/ledger.sqlite"))


async def height(data: Path, channel_id: str) -> int:
    async with open_ledger(data / "ledgersData", channel_id) as ledger:
        return ledger.height


async def test_databases_are_dropped(data: Path) -> None:
    done = node(data, "rebuild-dbs")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"channel ch1: databases dropped; {NEXT}",
        f"channel ch2: databases dropped; {NEXT}",
    ]
    assert databases(data) == []
    assert (await height(data, "ch1"), await height(data, "ch2")) == (3, 3)


async def test_one_channel_is_rolled_back(data: Path) -> None:
    done = node(data, "rollback", "-c", "ch2", "-b", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"channel ch2: block 1 is the last one; {NEXT}\n"
    assert databases(data) == ["ch1"]
    assert (await height(data, "ch1"), await height(data, "ch2")) == (3, 2)


async def test_every_channel_is_reset(data: Path, tmp_path: Path) -> None:
    core = tmp_path / "core.yaml"
    core.write_text(f"peer: {{fileSystemPath: {data}}}\n")
    done = node("", "reset", "--config", str(core))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"channel ch1: block 0 is the last one; {NEXT}",
        f"channel ch2: block 0 is the last one; {NEXT}",
    ]
    assert (await height(data, "ch1"), await height(data, "ch2")) == (1, 1)


async def test_refusals(data: Path) -> None:
    place = data / "ledgersData"
    async with open_ledger(place, "ch2"):
        for args in (["rebuild-dbs"], ["reset"], ["rollback", "-c", "ch2", "-b", "0"]):
            done = node(data, *args)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"Error: ledger {place / 'ch2'}: in use by another peer\n"
    assert databases(data) == ["ch1", "ch2"]
    done = node(data, "rollback", "--channelID", "ch2", "--blockNumber", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "[2] should be less than the biggest block number [2]" in done.stderr
    done = node(data, "rollback", "-c", "ch3", "-b", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "failed to find ledger for channel: ch3 (this peer has joined: ch1, ch2)" in done.stderr
    for args in (["rollback", "-c", "ch2"], ["rollback", "-b", "1"]):
        assert node(data, *args).returncode == 2
    assert node(data, "rollback", "-c", "ch2", "-b", "-1").returncode == 2
    done = node("", "reset")
    assert (done.returncode, done.stdout) == (2, "")
    assert "peer.fileSystemPath is not set" in done.stderr
    assert (await height(data, "ch1"), await height(data, "ch2")) == (3, 3)


async def test_a_channel_is_paused_and_resumed(data: Path) -> None:
    for _ in range(2):
        done = node(data, "pause", "-c", "ch2")
        told = "channel ch2: paused; the next start leaves it alone\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
        assert is_paused(data / "ledgersData", "ch2")
    assert not is_paused(data / "ledgersData", "ch1")
    for _ in range(2):
        done = node(data, "resume", "-c", "ch2")
        told = "channel ch2: resumed; the next start opens it\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
        assert not is_paused(data / "ledgersData", "ch2")
    assert await height(data, "ch2") == 3


async def test_a_channel_is_left(data: Path) -> None:
    leftover = data / "ledgersData" / ".ch2.unjoined" / "chains"
    leftover.mkdir(parents=True)  # of an earlier time that was interrupted
    done = node(data, "unjoin", "-c", "ch2")
    told = "channel ch2: removed with everything in it\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
    assert [path.name for path in (data / "ledgersData").iterdir()] == ["ch1"]
    assert await height(data, "ch1") == 3
    assert "failed to find ledger for channel: ch2" in node(data, "unjoin", "-c", "ch2").stderr


async def test_a_ledger_in_use_is_neither_paused_nor_left(data: Path) -> None:
    place = data / "ledgersData"
    async with open_ledger(place, "ch2"):
        for command in ("pause", "resume", "unjoin"):
            done = node(data, command, "-c", "ch2")
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"Error: ledger {place / 'ch2'}: in use by another peer\n"
    assert not is_paused(place, "ch2")
    assert await height(data, "ch2") == 3


def test_a_peer_without_channels(tmp_path: Path) -> None:
    for command in ("rebuild-dbs", "reset"):
        done = node(tmp_path, command)
        assert (done.returncode, done.stdout) == (0, "this peer has joined no channel\n")
    assert list(tmp_path.iterdir()) == []
