"""Private data: where a commit takes it from, and when it goes."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from pathlib import Path

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.kvrwset import HashedRwSet, KvrwSet, KvWriteHash
from fabric_protos.rwset import (
    CollectionHashedReadWriteSet,
    CollectionPvtReadWriteSet,
    NsPvtReadWriteSet,
    NsReadWriteSet,
    TxPvtReadWriteSet,
    TxReadWriteSet,
)
from peer.errors import LedgerStorageError
from peer.ledger import durable, open_ledger, rebuild_databases, transient
from peer.ledger.api import (
    CollectionPolicy,
    Ledger,
    MissingSet,
    SimulationResults,
    Timestamp,
    TxSimulator,
    ValidationCode,
)
from tests.unordered import CommittingTransaction, make_block

VALID = ValidationCode.VALID
Step = Callable[[TxSimulator], object]
POLICIES = {
    "kept": CollectionPolicy(),
    "brief": CollectionPolicy(block_to_live=2),
    "theirs": CollectionPolicy(is_member=False),
}


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Ledger]:
    async with open_ledger(
        directory,
        "ch",
        collections={"cc": list(POLICIES)}.get,
        policies=lambda namespace, collection: POLICIES[collection],
    ) as ledger:
        yield ledger


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with opened(tmp_path) as ledger:
        yield ledger


def put(collection: str, key: str, value: bytes) -> Step:
    return lambda simulator: simulator.set_private_data("cc", collection, key, value)


def purge(collection: str, key: str) -> Step:
    return lambda simulator: simulator.purge_private_data("cc", collection, key)


def endorse(ledger: Ledger, *steps: Step) -> SimulationResults:
    simulator = ledger.new_tx_simulator("")
    for step in steps:
        step(simulator)
    return simulator.get_tx_simulation_results()


async def commit(
    ledger: Ledger,
    *results: SimulationResults,
    private: Sequence[bytes] | None = None,
    verdict: ValidationCode = VALID,
) -> Sequence[ValidationCode]:
    """Commit a block of transactions named by height and index, by default with private data."""
    info = ledger.blockchain_info()
    transactions = [
        CommittingTransaction(
            tx_id=f"{info.height}.{tx}",
            timestamp=Timestamp(0),
            results=SimulationResults(public=each.public),
        )
        for tx, each in enumerate(results)
    ]
    block = make_block(info.height, info.current_block_hash, transactions)
    given = [each.private for each in results] if private is None else private
    done = await ledger.commit(block, [verdict] * len(results), dict(enumerate(given)))
    return done.codes


def held(ledger: Ledger, collection: str, key: str) -> tuple[bytes | None, bool]:
    """Return a key's value as far as it is here, and whether there is a hash."""
    snapshot = ledger._store.snapshot()  # type: ignore[attr-defined]  # below every check
    try:
        value = snapshot.get(f"cc$$p{collection}", key.encode())
        digest = snapshot.get(f"cc$$h{collection}", sha256(key.encode()).digest())
        return value and value.value, digest is not None
    finally:
        snapshot.release()


def rows(directory: Path, table: str, file: str = "private") -> int:
    with closing(sqlite3.connect(directory / "ch" / f"{file}.sqlite")) as database:
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


async def test_data_endorsed_here_waits_for_its_block(ledger: Ledger, tmp_path: Path) -> None:
    results = endorse(ledger, put("kept", "k", b"v"))
    other = endorse(ledger, put("kept", "k", b"not committed"))
    await ledger.keep_private_data("0.0", other.private)
    await ledger.keep_private_data("0.0", results.private)
    await ledger.keep_private_data("1.0", results.private)
    await commit(ledger, results, private=[])
    assert held(ledger, "kept", "k") == (b"v", True)
    assert await ledger.private_data(0) == {0: results.private}
    assert await ledger.private_data(1) == {}
    assert await ledger.missing_private_data() == []
    assert rows(tmp_path, "transient", "transient") == 1  # the one no block has brought


async def test_data_comes_from_several_places(ledger: Ledger) -> None:
    both = endorse(ledger, put("kept", "k", b"1"), put("brief", "k", b"2"))
    [namespace] = decode(TxPvtReadWriteSet, both.private).ns_pvt_rwset
    parts = [
        encode(
            TxPvtReadWriteSet(
                ns_pvt_rwset=[NsPvtReadWriteSet(namespace="cc", collection_pvt_rwset=[each])]
            )
        )
        for each in namespace.collection_pvt_rwset
    ]
    await ledger.keep_private_data("0.0", parts[0])
    await commit(ledger, both, private=[parts[1]])
    assert held(ledger, "kept", "k") == (b"1", True)
    assert held(ledger, "brief", "k") == (b"2", True)


async def test_what_is_nowhere_is_missing_where_we_are_members(ledger: Ledger) -> None:
    results = endorse(
        ledger, put("kept", "k", b"1"), put("theirs", "k", b"2"), put("brief", "k", b"3")
    )
    assert await commit(ledger, results, private=[]) == [VALID]
    for collection in POLICIES:
        assert held(ledger, collection, "k") == (None, True)
    assert await ledger.missing_private_data() == [
        MissingSet(0, 0, "cc", "brief"),
        MissingSet(0, 0, "cc", "kept"),
    ]


async def test_what_is_none_of_our_business_is_not_kept(ledger: Ledger) -> None:
    await commit(ledger, endorse(ledger, put("theirs", "k", b"v")))
    assert held(ledger, "theirs", "k") == (None, True)
    assert await ledger.private_data(0) == {}


async def test_data_of_an_invalid_transaction_is_not_kept(ledger: Ledger) -> None:
    results = endorse(ledger, put("kept", "k", b"v"))
    await commit(ledger, results, verdict=ValidationCode.ENDORSEMENT_POLICY_FAILURE)
    assert held(ledger, "kept", "k") == (None, False)
    assert await ledger.private_data(0) == {}
    assert await ledger.missing_private_data() == []


@pytest.mark.parametrize("private", [b"\xff", b"garbage"])
async def test_no_verdict_depends_on_private_data(ledger: Ledger, private: bytes) -> None:
    hashed = CollectionHashedReadWriteSet(
        collection_name="kept",
        hashed_rwset=encode(
            HashedRwSet(hashed_writes=[KvWriteHash(key_hash=b"k" * 32, value_hash=b"v" * 32)])
        ),
        pvt_rwset_hash=sha256(private).digest(),
    )
    public = encode(
        TxReadWriteSet(ns_rwset=[NsReadWriteSet(namespace="cc", collection_hashed_rwset=[hashed])])
    )
    rwset = CollectionPvtReadWriteSet(collection_name="kept", rwset=private)
    fitting = encode(
        TxPvtReadWriteSet(
            ns_pvt_rwset=[NsPvtReadWriteSet(namespace="cc", collection_pvt_rwset=[rwset])]
        )
    )
    for each in (fitting, private, b""):
        assert await commit(ledger, SimulationResults(public=public), private=[each]) == [VALID]
    assert len(await ledger.missing_private_data()) == 3


async def test_what_no_block_brought_is_given_up(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transient, "MAX_BLOCK_RETENTION", 3)
    counts = []
    for height in range(6):
        await ledger.keep_private_data(f"lost at {height}", b"")
        await commit(ledger, endorse(ledger))
        counts.append(rows(tmp_path, "transient", "transient"))
    assert counts == [1, 2, 3, 4, 5, 3]  # at height 6 those of 0, 1 and 2 go


async def test_a_value_lives_for_its_blocks(ledger: Ledger, tmp_path: Path) -> None:
    await commit(ledger, endorse(ledger, put("brief", "k", b"v"), put("kept", "k", b"v")))
    for _ in range(2):
        await commit(ledger, endorse(ledger))
        assert held(ledger, "brief", "k") == (b"v", True)
    assert rows(tmp_path, "data") == 2
    late = endorse(ledger, lambda s: s.get_private_data_hash("cc", "brief", "k"))
    assert await commit(ledger, late) == [VALID]  # read as it was before the block
    assert held(ledger, "brief", "k") == (None, False)
    assert held(ledger, "kept", "k") == (b"v", True)
    assert rows(tmp_path, "data") == rows(tmp_path, "keys") == 1


async def test_expiry_is_no_part_of_the_commit_hash(tmp_path: Path) -> None:
    async def chain(directory: Path, policy: CollectionPolicy) -> bytes:
        async with open_ledger(
            directory, "ch", collections={"cc": ["c"]}.get, policies=lambda *_: policy
        ) as ledger:
            await commit(ledger, endorse(ledger, put("c", "k", b"v")))
            for _ in range(4):
                await commit(ledger, endorse(ledger))
            block = await ledger.block_by_number(4)
            assert block is not None
            assert block.metadata is not None
            return block.metadata.metadata[4]

    brief = await chain(tmp_path / "brief", CollectionPolicy(block_to_live=1))
    assert brief == await chain(tmp_path / "kept", CollectionPolicy())


@pytest.mark.parametrize("rewritten_at", [1, 2, 3])
async def test_a_value_written_again_lives_on(ledger: Ledger, rewritten_at: int) -> None:
    await commit(ledger, endorse(ledger, put("brief", "k", b"v"), put("brief", "goes", b"v")))
    for number in range(1, 4):
        steps = [put("brief", "k", b"again")] if number == rewritten_at else []
        await commit(ledger, endorse(ledger, *steps))
    assert held(ledger, "brief", "k") == (b"again", True)
    assert held(ledger, "brief", "goes") == (None, False)


async def test_a_metadata_write_is_a_write(ledger: Ledger) -> None:
    await commit(ledger, endorse(ledger, put("brief", "k", b"v")))
    mark = endorse(ledger, lambda s: s.set_private_data_metadata("cc", "brief", "k", {"n": b"m"}))
    await commit(ledger, mark)
    await commit(ledger, endorse(ledger))
    await commit(ledger, endorse(ledger))
    assert held(ledger, "brief", "k") == (b"v", True)
    await commit(ledger, endorse(ledger))
    assert held(ledger, "brief", "k") == (None, False)


async def test_missing_data_that_expires_is_missed_no_more(ledger: Ledger) -> None:
    await commit(ledger, endorse(ledger, put("brief", "k", b"v")), private=[])
    for _ in range(3):
        assert await ledger.missing_private_data() == [MissingSet(0, 0, "cc", "brief")]
        await commit(ledger, endorse(ledger))
    assert await ledger.missing_private_data() == []


async def test_a_purge_reaches_into_the_past(ledger: Ledger, tmp_path: Path) -> None:
    for value in (b"secret 1", b"secret 2"):
        await commit(ledger, endorse(ledger, put("kept", "k", value), put("kept", "j", b"stays")))
    same_block = endorse(ledger, put("kept", "k", b"secret 3"))
    after = endorse(ledger, put("kept", "k", b"later"))
    await commit(ledger, same_block, endorse(ledger, purge("kept", "k")), after)
    assert held(ledger, "kept", "k") == (b"later", True)
    kept = [await ledger.private_data(number) for number in range(3)]
    values = [
        write.value
        for block in kept
        for private in block.values()
        for namespace in decode(TxPvtReadWriteSet, private).ns_pvt_rwset
        for collection in namespace.collection_pvt_rwset
        for write in decode(KvrwSet, collection.rwset).writes
    ]
    assert values == [b"stays", b"stays", b"", b"later"]
    assert rows(tmp_path, "purges") == 0
    before = held(ledger, "kept", "k"), held(ledger, "kept", "j")
    assert before[1] == (b"stays", True)


async def test_a_rebuild_comes_to_the_same_private_state(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await commit(ledger, endorse(ledger, put("brief", "k", b"v"), put("kept", "p", b"v")))
        await commit(ledger, endorse(ledger, put("kept", "k", b"v"), purge("kept", "p")))
        await commit(ledger, endorse(ledger, put("brief", "j", b"v")))
        await commit(ledger, endorse(ledger, put("kept", "m", b"v")), private=[])
        before = state_rows(tmp_path)
    await rebuild_databases(tmp_path, "ch")
    async with open_ledger(tmp_path, "ch"):  # the policies of that time are not needed
        assert state_rows(tmp_path) == before
    assert len(before) == 5


async def test_a_rebuild_has_no_value_whose_time_had_come_without_a_mark(tmp_path: Path) -> None:
    """Metadata lengthens the life of a hash; the value's own block does not hold it any more."""
    async with opened(tmp_path) as ledger:
        await commit(ledger, endorse(ledger, put("brief", "k", b"v")))
        mark = endorse(
            ledger, lambda s: s.set_private_data_metadata("cc", "brief", "k", {"n": b"m"})
        )
        await commit(ledger, mark)
        await commit(ledger, endorse(ledger))
        await commit(ledger, endorse(ledger))
        assert held(ledger, "brief", "k") == (b"v", True)
    await rebuild_databases(tmp_path, "ch")
    async with opened(tmp_path) as ledger:
        assert held(ledger, "brief", "k") == (None, True)
        await commit(ledger, endorse(ledger))
        assert held(ledger, "brief", "k") == (None, False)


def state_rows(directory: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(directory / "ch" / "ledger.sqlite")) as database:
        return database.execute("SELECT * FROM state ORDER BY namespace, key").fetchall()


async def test_data_of_a_block_that_was_not_written_is_dropped(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = endorse(ledger, put("brief", "doomed", b"v"))

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(ledger._chain.files, "append", failing)  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="Input/output error"):
            await commit(ledger, doomed)
    assert rows(tmp_path, "data") == rows(tmp_path, "expiry") == 1
    await commit(ledger, endorse(ledger))
    for table in ("blocks", "data", "keys", "expiry", "missing", "purges"):
        assert rows(tmp_path, table) == 0
    assert held(ledger, "brief", "doomed") == (None, False)


async def test_cleaning_up_that_failed_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as ledger:
        await commit(ledger, endorse(ledger, put("kept", "k", b"secret")))

        def failing(number: int, *, since: int) -> None:
            raise LedgerStorageError("private", "disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(ledger._chain.private, "settle", failing)  # type: ignore[attr-defined]
            assert await commit(ledger, endorse(ledger, purge("kept", "k"))) == [VALID]
        assert "block 1 is committed; cleaning up after it failed" in caplog.text
        assert rows(tmp_path, "keys") == 2
    async with opened(tmp_path):
        assert rows(tmp_path, "keys") == 1


async def test_nothing_is_written_for_blocks_without_private_data(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = []
    original = durable.commit

    def counting(connection: sqlite3.Connection) -> None:
        commits.append(connection)
        original(connection)

    monkeypatch.setattr(durable, "commit", counting)
    await commit(ledger, endorse(ledger))
    assert len(commits) == 1
    await commit(ledger, endorse(ledger, put("kept", "k", b"v")))
    assert len(commits) == 3
