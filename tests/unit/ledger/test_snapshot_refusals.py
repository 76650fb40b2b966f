"""Snapshots that are damaged, incomplete or none at all: refused, with nothing left behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from fabric_protos.wire import varint_bytes
from peer.errors import LedgerError, SnapshotRefused
from peer.ledger import ledger_ids, open_ledger, staged_ledger
from peer.ledger.api import Ledger, Timestamp, ValidationCode, Version
from peer.ledger.blocks import version_bytes
from peer.ledger.snapshot_files import ADDITIONAL, SIGNABLE, read_metadata, verify_files
from tests.unit.ledger.snapshotting import configured, running, snapshot, take_in
from tests.unordered import CommittingTransaction, commit_unordered

Wrap = Callable[[Ledger], Any]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of a ledger with public and private state."""
    return trio.run(generate, tmp_path_factory.mktemp("template") / "a")


async def generate(home: Path) -> Path:
    async with running(home, collections={"cc": {"secrets"}}.get) as ledger:
        await configured(ledger)
        simulator = ledger.new_tx_simulator("tx")
        simulator.set_private_data("cc", "secrets", "k", b"v")
        simulator.set_state("cc", "k", b"v" * 1000)
        results = simulator.get_tx_simulation_results()
        transaction = CommittingTransaction(tx_id="tx", timestamp=Timestamp(1), results=results)
        assert await commit_unordered(ledger, [transaction]) == [ValidationCode.VALID]
        return await snapshot(ledger, home)


@pytest.fixture
def good(tmp_path: Path, template: Path) -> Path:
    """A copy of it that can be written to."""
    copy = tmp_path / "copy"
    shutil.copytree(template, copy)
    for path in copy.iterdir():
        path.chmod(0o644)
    return copy


async def refused(tmp_path: Path, place: Path) -> SnapshotRefused:
    with pytest.raises(SnapshotRefused) as caught:
        await take_in(tmp_path / "b", place)
    assert not list((tmp_path / "b").glob("*"))
    assert not list((tmp_path / "b").glob(".*"))
    return caught.value


def rehash(place: Path, **changes: Any) -> None:
    """Make the metadata fit the files, and say something else where told."""
    signable = json.loads((place / SIGNABLE).read_text())
    hashes = signable["snapshot_files_raw_hashes"]
    for name in hashes:
        if (place / name).exists():
            hashes[name] = sha256((place / name).read_bytes()).hexdigest()
    signable |= changes
    content = json.dumps(signable).encode()
    (place / SIGNABLE).write_bytes(content)
    additional = json.loads((place / ADDITIONAL).read_text())
    additional["snapshot_hash"] = sha256(content).hexdigest()
    (place / ADDITIONAL).write_text(json.dumps(additional))


async def test_what_is_whole_is_taken(tmp_path: Path, good: Path) -> None:
    rehash(good)
    assert await take_in(tmp_path / "b", good) == "ch"
    assert ledger_ids(tmp_path / "b") == ["ch"]


async def test_every_changed_byte_is_seen(tmp_path: Path, good: Path) -> None:
    names = sorted(path.name for path in good.iterdir())
    assert len(names) == 8  # nobody has defined collections
    for name in names:
        path = good / name
        content = path.read_bytes()
        for at in {0, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[at] ^= 1
            path.write_bytes(changed)
            await refused(tmp_path, good)
        path.write_bytes(content)
    assert await take_in(tmp_path / "b", good) == "ch"


async def test_every_file_must_be_there(tmp_path: Path, good: Path) -> None:
    for path in sorted(good.iterdir()):
        content = path.read_bytes()
        path.unlink()
        assert path.name in str(await refused(tmp_path, good))
        path.write_bytes(content)


async def test_no_directory_at_all(tmp_path: Path) -> None:
    assert "No such file" in str(await refused(tmp_path, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    await refused(tmp_path, tmp_path / "empty")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channel_name": "../elsewhere"}, "is no channel"),
        ({"channel_name": ""}, "is no channel"),
        ({"channel_name": 7}, "is no channel"),
        ({"last_block_number": -1}, "is no block"),
        ({"last_block_number": 1 << 63}, "is no block"),
        ({"last_block_number": "1"}, "missing or malformed"),
        ({"last_block_number": 1.5}, "missing or malformed"),
        ({"last_block_hash": "xx"}, "missing or malformed"),
        ({"last_block_hash": ""}, "another length"),
        ({"previous_block_hash": "00"}, "another length"),
        ({"snapshot_files_raw_hashes": 1}, "missing or malformed"),
        ({"snapshot_files_raw_hashes": {}}, "do not name it"),
        ({"snapshot_files_raw_hashes": {"../a": "00"}}, "is no file of a snapshot"),
        ({"snapshot_files_raw_hashes": {"txids.data": "00"}}, "names only one of"),
        ({"last_block_number": 0}, "is of no block before"),
    ],
)
async def test_metadata_that_no_peer_writes(
    tmp_path: Path, good: Path, changes: dict[str, Any], reason: str
) -> None:
    rehash(good, **changes)
    assert reason in str(await refused(tmp_path, good))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"[" * 100_000, b"\xff"])
@pytest.mark.parametrize("name", [SIGNABLE, ADDITIONAL])
async def test_metadata_that_are_none(
    tmp_path: Path, good: Path, name: str, content: bytes
) -> None:
    (good / name).write_bytes(content)
    assert re.search(
        "is no JSON|missing or malformed|its hash is not", str(await refused(tmp_path, good))
    )


def lp(data: bytes) -> bytes:
    return varint_bytes(len(data)) + data


def record(key: bytes, value: bytes, version: bytes) -> bytes:
    fields = b"".join(bytes((n << 3 | 2,)) + lp(x) for n, x in ((1, key), (2, value), (4, version)))
    return lp(fields)


GOOD = version_bytes(Version(1, 0))
NAMES = b"\1\1" + lp(b"cc") + b"\1"


@pytest.mark.parametrize(
    ("names", "data", "reason"),
    [
        (NAMES, b"", "cut short"),
        (NAMES, b"\2" + record(b"k", b"v", GOOD), "format"),
        (NAMES, b"\1", "cut short"),
        (NAMES, b"\1\xff\xff\xff\xff\x0f", "cut short"),
        (NAMES, b"\1" + b"\xff" * 11, "too long"),
        (NAMES, b"\1" + record(b"k", b"v", GOOD) + b"x", "bytes follow"),
        (NAMES + b"x", b"\1" + record(b"k", b"v", GOOD), "bytes follow"),
        (NAMES, b"\1" + record(b"k", b"", GOOD), "no block before"),
        (NAMES, b"\1" + record(b"\xff", b"v", GOOD), "cannot be read"),
        (NAMES, b"\1" + record(b"k", b"v", b""), "cannot be read"),
        (NAMES, b"\1" + record(b"k", b"v", b"\2\0\1\0"), "cannot be read"),
        (NAMES, b"\1" + record(b"k", b"v", b"\x09"), "cannot be read"),
        (NAMES, b"\1" + record(b"k", b"v", version_bytes(Version(2, 0))), "no block before"),
        (NAMES, b"\1" + lp(b"\xff"), "cannot be read"),
        (b"\1\1" + lp(b"cc$$hc") + b"\1", b"\1" + record(b"k", b"v", GOOD), "no place"),
        (b"\1\1" + lp(b"cc$$pc") + b"\1", b"\1" + record(b"k", b"v", GOOD), "no place"),
        (b"\1\1" + lp(b"\xff") + b"\1", b"\1" + record(b"k", b"v", GOOD), "no text"),
        (b"\1\1" + lp(b"cc") + b"\2", b"\1" + record(b"k", b"v", GOOD) * 2, "there twice"),
        (NAMES, b"\1" + record(b"k", b"v", GOOD), "no channel configuration"),
    ],
)
async def test_state_that_no_peer_writes(
    tmp_path: Path, good: Path, names: bytes, data: bytes, reason: str
) -> None:
    (good / "public_state.metadata").write_bytes(names)
    (good / "public_state.data").write_bytes(data)
    rehash(good)
    assert reason in str(await refused(tmp_path, good))


@pytest.mark.parametrize(
    ("key", "package", "reason"),
    [
        (b"slscc\0cc~collection" + b"\xff" * 8, b"\xff", "cannot be read"),
        (b"slscc\0cc~collection" + b"\0" * 8, b"", "is no key"),
        (b"s_lifecycle\0cc~collection" + b"\xff" * 8, b"", "is no key"),
        (b"", b"", "is no key"),
    ],
)
async def test_collections_that_no_peer_writes(
    tmp_path: Path, good: Path, key: bytes, package: bytes, reason: str
) -> None:
    (good / "confighistory.metadata").write_bytes(b"\1\1")
    (good / "confighistory.data").write_bytes(b"\1" + lp(key) + lp(package))
    hashes = json.loads((good / SIGNABLE).read_text())["snapshot_files_raw_hashes"]
    for suffix in ("data", "metadata"):
        content = (good / f"confighistory.{suffix}").read_bytes()
        hashes[f"confighistory.{suffix}"] = sha256(content).hexdigest()
    rehash(good, snapshot_files_raw_hashes=hashes)
    assert reason in str(await refused(tmp_path, good))


async def test_nothing_is_taken_in_before_all_is_verified(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = good / "txids.data"
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    def taken(*args: Any) -> None:
        raise AssertionError("something was taken in")

    monkeypatch.setattr("peer.ledger.joining._take_in", taken)
    assert "hash mismatch" in str(await refused(tmp_path, good))


async def test_a_ledger_that_exists_stays(tmp_path: Path, good: Path, wrap: Wrap) -> None:
    async with open_ledger(tmp_path / "b", "ch") as ledger:
        await wrap(ledger).put(k=b"mine")
    with pytest.raises(LedgerError, match="there is a ledger of channel ch already"):
        await take_in(tmp_path / "b", good)
    async with open_ledger(tmp_path / "b", "ch") as ledger:
        assert wrap(ledger).get("k") == b"mine"


async def test_one_without_any_block_gives_way(tmp_path: Path, good: Path) -> None:
    async with open_ledger(tmp_path / "b", "ch"):
        pass
    await take_in(tmp_path / "b", good)
    async with open_ledger(tmp_path / "b", "ch") as ledger:
        assert ledger.first_block == 2


async def test_given_up_and_cancelled_joins_leave_nothing(tmp_path: Path, good: Path) -> None:
    async with staged_ledger(tmp_path / "b", good) as staged:
        assert staged.config == b"config"
        assert ledger_ids(tmp_path / "b") == []
    assert not list((tmp_path / "b").glob(".*"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await take_in(tmp_path / "b", good)
    assert scope.cancelled_caught
    assert ledger_ids(tmp_path / "b") == []


async def test_verifying_can_be_ended(good: Path) -> None:
    def end() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        verify_files(good, read_metadata(good), end)
