"""Snapshots: what is in them, whole ledgers made of them, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fabric_protos.codec import encode
from fabric_protos.common import Block
from fabric_protos.wire import varint_bytes
from peer.ledger.api import Ledger, ValidationCode
from peer.ledger.blocks import commit_hash_of, flags_of, header_hash, header_of
from peer.ledger.snapshot_files import read_metadata
from peer.lifecycle.state import defined_collections
from tests.leveldb_log import read_log, read_state
from tests.unit.ledger.snapshotting import running, snapshot, take_in
from tests.unit.ledger.test_real_ledger import commit_all, policy, real_private_data


def lp(data: bytes) -> bytes:
    return varint_bytes(len(data)) + data


def field(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + lp(data) if data else b""


def parts(entries: list[tuple[str, bytes]]) -> tuple[bytes, bytes]:
    """Return data and metadata of a state file: namespaces and records in their order."""
    counts: dict[str, int] = {}
    for namespace, _ in entries:
        counts[namespace] = counts.get(namespace, 0) + 1
    told = (lp(name.encode()) + varint_bytes(count) for name, count in counts.items())
    data = b"\1" + b"".join(lp(record) for _, record in entries)
    return data, b"\1" + varint_bytes(len(counts)) + b"".join(told)


def expected_files(real: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what a snapshot of the recorded peer holds, made of its databases."""
    state: dict[str, list[tuple[str, bytes]]] = {"public_state": [], "private_state_hashes": []}
    for (namespace, key), (version, value, metadata) in sorted(
        read_state(real, "testchannel").items()
    ):
        if "$$p" not in namespace:
            part = "private_state_hashes" if "$$h" in namespace else "public_state"
            fields = enumerate((key, value, metadata, version), start=1)
            state[part].append((namespace, b"".join(field(*each) for each in fields)))
    for part, entries in state.items():
        yield from zip((f"{part}.data", f"{part}.metadata"), parts(entries), strict=True)
    ids = sorted(
        key[len(b"testchannel\0t") + 2 :][:64]
        for key in read_log(real / "chains" / "index")
        if key.startswith(b"testchannel\0t")
    )
    yield "txids.data", b"\1" + b"".join(map(lp, ids))
    yield "txids.metadata", b"\1" + varint_bytes(len(ids))
    history = sorted(
        (key.removeprefix(b"testchannel\0"), value)
        for key, value in read_log(real / "configHistory").items()
        if key.startswith(b"testchannel\0s")
    )
    yield "confighistory.data", b"\1" + b"".join(lp(part) for each in history for part in each)
    yield "confighistory.metadata", b"\1" + varint_bytes(len(history))


async def real_snapshot(directory: Path, real: Path, blocks: list[Block]) -> Path:
    """Commit the recorded blocks and return a snapshot of what they lead to."""
    async with running(
        directory, "testchannel", policies=policy, defined=defined_collections
    ) as ledger:
        await commit_all(ledger, blocks, real_private_data(real))
        return await snapshot(ledger, directory, "testchannel")


async def test_the_files_are_those_of_the_recorded_peer(
    tmp_path: Path, real_ledger: Path, real_blocks: list[Block]
) -> None:
    place = await real_snapshot(tmp_path / "a", real_ledger, real_blocks)
    expected = dict(expected_files(real_ledger))
    found = {path.name: path.read_bytes() for path in place.iterdir()}
    signable = found.pop("_snapshot_signable_metadata.json")
    additional = found.pop("_snapshot_additional_metadata.json")
    assert found == expected
    last = header_of(real_blocks[-1])
    hashes = {name: sha256(content).hexdigest() for name, content in sorted(expected.items())}
    lines = ",\n".join(f'        "{name}": "{digest}"' for name, digest in hashes.items())
    assert signable.decode() == (
        "{\n"
        '    "channel_name": "testchannel",\n'
        '    "last_block_number": 19,\n'
        f'    "last_block_hash": "{header_hash(last).hex()}",\n'
        f'    "previous_block_hash": "{last.previous_hash.hex()}",\n'
        f'    "snapshot_files_raw_hashes": {{\n{lines}\n    }},\n'
        '    "state_db_type": "SimpleKeyValueDB"\n'
        "}"
    )
    assert additional.decode() == (
        "{\n"
        f'    "snapshot_hash": "{sha256(signable).hexdigest()}",\n'
        f'    "last_block_commit_hash": "{commit_hash_of(real_blocks[-1]).hex()}"\n'
        "}"
    )
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o444}


@pytest.mark.parametrize("number", [0, 1, 9, 13, 18])
async def test_a_ledger_made_of_a_snapshot_goes_on_with_the_same_hashes(
    tmp_path: Path, real_ledger: Path, real_blocks: list[Block], number: int
) -> None:
    place = await real_snapshot(tmp_path / "a", real_ledger, real_blocks[: number + 1])
    assert await take_in(tmp_path / "b", place) == "testchannel"
    options: dict[str, Any] = {"policies": policy, "defined": defined_collections}
    async with running(tmp_path / "b", "testchannel", **options) as ledger:
        assert (ledger.first_block, ledger.height) == (number + 1, number + 1)
        hashes = await commit_rest(ledger, real_blocks[number + 1 :])
        assert hashes == [commit_hash_of(block) for block in real_blocks[number + 1 :]]
        again = await snapshot(ledger, tmp_path / "b", "testchannel")
    complete = await real_snapshot(tmp_path / "c", real_ledger, real_blocks)
    assert read_metadata(again) == read_metadata(complete)


async def commit_rest(ledger: Ledger, blocks: list[Block]) -> list[bytes]:
    hashes = []
    for block in blocks:
        done = await ledger.commit(block, [ValidationCode(flag) for flag in flags_of(block)])
        assert encode(done.block.header) == encode(block.header)  # type: ignore[arg-type]  # it has one
        hashes.append(commit_hash_of(done.block))
    return hashes
