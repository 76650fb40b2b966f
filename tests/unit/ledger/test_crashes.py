"""A peer that is killed at any write of a commit loses nothing and contradicts nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from fabric_protos.codec import encode
from fabric_protos.common import Block
from fabric_protos.kvrwset import KvMetadataEntry, KvMetadataWrite
from peer.ledger import open_ledger, rebuild_databases
from peer.ledger.blockfile import BlockFiles
from peer.ledger.blocks import commit_hash_of, data_hash, flags_of, header_hash

ROUNDS = int(os.environ.get("PEER_TEST_CRASH_ROUNDS", "0"))
"""How many kills there must be at least; each point of four commits is one in any case."""
PROGRAM = Path(__file__).with_name("crashing.py")
TABLES = ("blocks", "state", "transactions", "history")


class Committer:
    """The program that commits and is killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, directory: Path, point: int, *numbers: int) -> tuple[bool, int]:
        """Let it run until a point; return whether it was killed, and the height it told."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(directory, point, *numbers, file=self._process.stdin, flush=True)
        height = 0
        for line in self._process.stdout:
            if line.startswith("exited"):
                assert line == "exited 0\n"
                return False, height
            if line == "killed\n":
                return True, height
            height = int(line)
        raise AssertionError("the program has ended")


@pytest.fixture(scope="module")
def committer() -> Iterator[Committer]:
    with subprocess.Popen(
        [sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Committer(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: what matters here is the order of the writes."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as directory:
        yield Path(directory)


def test_killed_at_every_point(committer: Committer, quick_path: Path) -> None:
    kills = chains = 0
    while not chains or kills < ROUNDS:
        chains += 1
        directory = quick_path / f"chain{chains}"
        directory.mkdir()
        point, acknowledged, was_killed = 1, 0, True
        while was_killed:
            was_killed, told = committer.run(directory, point, kills)
            acknowledged = max(acknowledged, told)
            acknowledged = check(directory, quick_path / "copy", acknowledged)
            kills += was_killed
            point += 1
        assert point > 30  # files opened, and four commits with several points each
        shutil.rmtree(directory)
    print(f"{kills} kills")


def test_a_rollback_killed_at_every_point(committer: Committer, quick_path: Path) -> None:
    original, target = quick_path / "chain", 1
    original.mkdir()
    for height in (4, 8, 12):
        assert committer.run(original, 0, 0) == (False, height)
    assert len(list((original / "ch" / "blocks").iterdir())) == 3
    heights = []
    point, was_killed = 1, True
    while was_killed:
        copy = quick_path / f"copy{point}"
        shutil.copytree(original, copy)
        was_killed, _ = committer.run(copy, point, 0, target)
        heights.append(trio.run(reopened_height, copy))
        check_chain(
            [record.block for record in BlockFiles(copy / "ch" / "blocks").scan()], heights[-1]
        )
        public = [row for row in expected_state(heights[-1]) if "$$p" not in str(row[0])]
        assert [row for row in dump(copy)["state"] if "$$p" not in str(row[0])] == public
        if heights[-1] > target + 1:
            assert committer.run(copy, 0, 0, target) == (False, 0)
            assert trio.run(reopened_height, copy) == target + 1
        shutil.rmtree(copy)
        point += 1
    assert heights == sorted(heights, reverse=True)
    assert (heights[0], heights[-1]) == (12, target + 1)
    assert len(set(heights)) == 4  # killed between two files, too


def check(directory: Path, copy: Path, acknowledged: int) -> int:
    """Check a copy of what a killed peer left; return the height it comes up with."""
    shutil.copytree(directory, copy)
    try:
        height = trio.run(reopened_height, copy)
        assert height in (acknowledged, acknowledged + 1)
        check_chain([record.block for record in BlockFiles(copy / "ch" / "blocks").scan()], height)
        left = dump(copy)
        assert left["state"] == expected_state(height)
        trio.run(rebuild_databases, copy, "ch")
        assert trio.run(reopened_height, copy) == height
        assert dump(copy) == left
        return height
    finally:
        shutil.rmtree(copy)


async def reopened_height(directory: Path) -> int:
    async with open_ledger(directory, "ch") as ledger:
        return ledger.height


def check_chain(blocks: list[Block], height: int) -> None:
    assert len(blocks) == height
    previous = b""
    for number, block in enumerate(blocks):
        assert block.header is not None
        assert block.data is not None
        assert (block.header.number, block.header.previous_hash) == (number, previous)
        assert block.header.data_hash == data_hash(block.data)
        assert flags_of(block) == b"\0\x0b\0"
        assert bool(commit_hash_of(block)) == bool(number)
        previous = header_hash(block.header)


def dump(directory: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(directory / "ch" / "ledger.sqlite")) as database:
        return {
            table: database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in TABLES
        }


def expected_state(height: int) -> list[tuple[object, ...]]:
    """Return the rows that the program's blocks leave, worked out without a ledger."""
    state: dict[tuple[str, bytes], tuple[object, ...]] = {}

    def put_private(collection: str, name: str, number: int) -> None:
        key, value = name.encode(), b"%d" % number
        key_hash = sha256(key).digest()
        hashed = (sha256(value).digest(), b"", number, 0, None)
        state[f"cc$$h{collection}", key_hash] = hashed
        state[f"cc$$p{collection}", key] = (value, b"", number, 0, key_hash)

    def delete_private(collection: str, name: str) -> None:
        state.pop((f"cc$$h{collection}", sha256(name.encode()).digest()), None)
        state.pop((f"cc$$p{collection}", name.encode()), None)

    for number in range(height):
        entry = KvMetadataEntry(name="VALIDATION_PARAMETER", value=b"%d" % number)
        metadata = encode(KvMetadataWrite(entries=[entry]))
        state["cc", b"last"] = (b"%d" % number, metadata, number, 2, None)
        state["cc", b"block%04d" % number] = (b"x" * 200, b"", number, 0, None)
        state.pop(("cc", b"block%04d" % (number - 2)), None)
        delete_private("short", f"key{number - 3}")  # expired
        put_private("short", "last", number)
        put_private("short", f"key{number}", number)
        put_private("long", f"key{number % 3}", number)
        if number % 2:
            delete_private("long", f"key{(number + 1) % 3}")
    return sorted((*where, *row) for where, row in state.items())
