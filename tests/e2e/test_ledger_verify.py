"""``ledger verify`` as its user meets it, on the ledger of a real peer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.leveldb_log import State, read_state
from tests.shared_fixtures import shared_fixture

ROOT = Path(__file__).parents[2]
SEARCHED = os.pathsep.join((str(ROOT), str(ROOT / "proto")))
COUNTS = (
    "header links 20/20, data hashes 20/20, block signatures 19/19, configurations 5/5, "
    "creator signatures 15/15, transaction ids 15/15, proposal hashes 15/15, endorsements 21/21"
)


def verify(*args: str | Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peer", "ledger", "verify", *args],
        env={**os.environ, "PYTHONPATH": SEARCHED, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.fixture
def real(tmp_path: Path) -> Path:
    with zipfile.ZipFile(shared_fixture("fabric-v20-ledger/ledgersData.zip")) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "ledgersData"


def test_a_table(real: Path, scratch: Path) -> None:
    done = verify(real, scratch=scratch)
    assert (done.returncode, done.stderr) == (0, "")
    first, titles, *rows, counts, outcome = done.stdout.splitlines()
    assert first == f"channel testchannel: {real / 'chains' / 'chains' / 'testchannel'}"
    assert titles.split()[:3] == ["block", "txs", "link"]
    assert [int(row.split()[0]) for row in rows] == list(range(20))
    assert rows[17].split() == [
        *("17", "1", "1/1", "1/1", "1/1", "1/1", "1/1", "1/1", "3/3"),
        *("29136756ff6194", "ok", "VALID"),
    ]
    assert counts == f"{COUNTS}, read sets 15/15, commit hashes 19/19"
    assert outcome == "testchannel: 20 blocks, 20 transactions, no difference"
    assert list(scratch.iterdir()) == []


def objects(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_replay_leads_to_the_state_of_the_real_peer(real: Path, scratch: Path) -> None:
    done = verify(real, "--replay", "--json", scratch=scratch)
    assert (done.returncode, done.stderr) == (0, "")
    found = objects(done.stdout)
    assert [each["type"] for each in found[:20]] == ["block"] * 20
    assert {each["channel"] for each in found} == {"testchannel"}
    for number, block in enumerate(found[:20]):
        assert block["block"] == number
        assert block["differences"] == []
        assert block["commit_hash"]["recorded"] == block["commit_hash"]["computed"]
        assert len(block["commit_hash"]["computed"]) == (64 if number else 0)
        (transaction,) = block["transactions"]
        assert transaction["recorded"] == transaction["computed"] == "VALID"
    summary = found[-1]
    counts = {f"{name} {passed}/{made}" for name, (passed, made) in summary["counts"].items()}
    assert counts == {*COUNTS.split(", "), "validation codes 20/20", "commit hashes 19/19"}
    assert (summary["differences"], summary["first"], summary["damage"]) == (0, None, "")
    keys = [(each["namespace"], each["key"]) for each in found[20:-1]]
    assert keys == sorted(set(keys))
    state: State = {
        (each["namespace"], bytes.fromhex(each["key"])): (
            bytes.fromhex(each["version"]),
            bytes.fromhex(each["value"]),
            bytes.fromhex(each["metadata"]),
        )
        for each in found[20:-1]
    }
    expected = read_state(real, "testchannel")
    public = {where: held for where, held in expected.items() if "$$p" not in where[0]}
    assert 0 < len(public) < len(expected)
    assert state == public


def test_one_byte(real: Path, scratch: Path) -> None:
    path = real / "chains" / "chains" / "testchannel" / "blockfile_000000"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the end of the last commit hash
    path.write_bytes(content)
    done = verify(path, scratch=scratch)
    assert (done.returncode, done.stderr) == (1, "")
    *_, counts, outcome = done.stdout.splitlines()
    assert "commit hashes 18/19" in counts
    digest = "02dc6429aaca0204e23d86dd36d1340dc5656d7e4eeb4344652cc3d1aaa3db5"
    assert outcome == (
        "testchannel: 20 blocks, 20 transactions, differences: 1, the first: block 19, "
        f"commit hashes: recorded is {digest}9, computed {digest}8"
    )
    done = verify(path, "--replay", "--json", scratch=scratch)
    assert done.returncode == 1
    first = objects(done.stdout)[-1]["first"]
    assert (first["block"], first["transaction"], first["check"]) == (19, None, "commit hashes")
    assert list(scratch.iterdir()) == []


def test_several_channels_and_a_torn_one(real: Path, scratch: Path) -> None:
    chains = real / "chains" / "chains"
    whole = (chains / "testchannel" / "blockfile_000000").read_bytes()
    (chains / "another").mkdir()
    (chains / "another" / "blockfile_000000").write_bytes(whole[:-1])
    done = verify(real, "--json", scratch=scratch)
    assert done.returncode == 1
    torn, good = (each for each in objects(done.stdout) if each["type"] == "summary")
    assert (torn["path"], torn["blocks"]) == (str(chains / "another"), 19)
    assert torn["damage"].endswith("bytes are no whole block")
    assert torn["first"]["check"] == "block files"
    assert (good["blocks"], good["differences"]) == (20, 0)


def test_what_cannot_be_read(tmp_path: Path, scratch: Path) -> None:
    for path, reason in (
        (tmp_path / "missing", "No such file or directory"),
        (scratch, "there is no block file"),
    ):
        done = verify(path, scratch=scratch)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"Error: ledger {path}: {reason}\n"
    assert verify(scratch=scratch).returncode == 2
