"""What a ledger owes a server of documents, when it pays, and how it pages through answers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from peer.errors import DocumentsChanged, DocumentsUnavailable
from peer.ledger import open_ledger
from tests.fakes.documents import FakeDocuments
from tests.unit.ledger.conftest import COLLECTIONS, Channel

ALL: dict[str, Any] = {"selector": {}}
TEN = {f"k{i}": b'{"n":%d}' % i for i in range(10)}


@asynccontextmanager
async def opened(directory: Path, server: FakeDocuments | None) -> AsyncIterator[Channel]:
    async with open_ledger(
        directory, "ch", collections=COLLECTIONS.get, documents=server
    ) as ledger:
        yield Channel(ledger)


def owed(directory: Path) -> list[tuple[str, bytes]]:
    with closing(sqlite3.connect(directory / "ch" / "ledger.sqlite")) as database:
        return database.execute("SELECT * FROM owed").fetchall()


async def keys(channel: Channel, query: Any = ALL, **page: Any) -> list[str]:
    executor = channel.ledger.new_query_executor()
    try:
        results = await executor.execute_query("cc", json.dumps(query), **page)
        return [record.key for record in await results.take(100)]
    finally:
        executor.done()


@pytest.mark.parametrize("page_size", [1, 3, 10, 11])
async def test_pages_of_the_server_are_joined(tmp_path: Path, page_size: int) -> None:
    server = FakeDocuments(page_size=page_size)
    async with opened(tmp_path, server) as channel:
        await channel.put(**TEN)
        assert await keys(channel) == list(TEN)
        assert await keys(channel, {**ALL, "skip": 4}) == list(TEN)[4:]
        executor = channel.ledger.new_query_executor()
        results = await executor.execute_query("cc", json.dumps({**ALL, "skip": 1}))
        taken = [[record.key for record in await results.take(4)] for _ in range(4)]
        assert taken == [list(TEN)[1:5], list(TEN)[5:9], ["k9"], []]
        assert results.bookmark() == "k9"
        results.close()
        executor.done()


async def test_a_bookmark_goes_on_where_a_page_ended(tmp_path: Path) -> None:
    async with opened(tmp_path, FakeDocuments(page_size=2)) as channel:
        await channel.put(**TEN)
        executor = channel.ledger.new_query_executor()
        bookmark, pages = "", []
        for size in (3, 3, 3, 3, 3):
            results = await executor.execute_query(
                "cc", json.dumps(ALL), bookmark=bookmark, page_size=size
            )
            pages.append([record.key for record in await results.take(size)])
            bookmark = results.bookmark()
        assert pages == [list(TEN)[i : i + 3] for i in (0, 3, 6, 9, 12)]
        assert bookmark == "k9"
        results = await executor.execute_query("cc", json.dumps({"selector": {"n": 99}}))
        assert (await results.take(1), results.bookmark()) == ([], "nil")
        executor.done()


async def test_a_cancelled_page_was_not_taken(tmp_path: Path) -> None:
    async with opened(tmp_path, FakeDocuments(page_size=2)) as channel:
        await channel.put(**TEN)
        executor = channel.ledger.new_query_executor()
        results = await executor.execute_query("cc", json.dumps(ALL))
        for _ in range(3):
            with trio.CancelScope() as scope:
                scope.cancel()
                await results.take(3)
        assert [record.key for record in await results.take(3)] == ["k0", "k1", "k2"]
        executor.done()


async def test_a_block_is_paid_in_batches_before_it_counts(tmp_path: Path) -> None:
    server = FakeDocuments(batch_size=4)
    async with opened(tmp_path, server) as channel:
        server.asked.clear()
        await channel.put(**TEN)
        assert server.asked == ["write", "write", "write", "save"]
        assert server.saved == (0, 0)
        assert owed(tmp_path) == []


async def test_a_query_waits_for_the_block_that_is_being_paid(tmp_path: Path) -> None:
    server = FakeDocuments()
    async with opened(tmp_path, server) as channel, trio.open_nursery() as nursery:
        before = channel.simulate()
        server.gate = trio.Event()
        nursery.start_soon(lambda: channel.put(**TEN))
        await server.is_writing.wait()
        assert channel.ledger.height == 0
        answered = trio.Event()

        async def query() -> None:
            results = await before.execute_query("cc", json.dumps({"selector": {"n": 77}}))
            assert await results.take(9) == []
            answered.set()

        nursery.start_soon(query)
        await trio.testing.wait_all_tasks_blocked()
        assert not answered.is_set()
        server.gate.set()
        await answered.wait()
        assert channel.ledger.height == 1
        with pytest.raises(DocumentsChanged):
            await (await before.execute_query("cc", json.dumps(ALL))).take(9)
        before.done()


@pytest.mark.parametrize("step", ["write", "save"])
async def test_what_fails_is_owed_until_somebody_asks(tmp_path: Path, step: str) -> None:
    server = FakeDocuments()
    async with opened(tmp_path, server) as channel:
        await channel.put(a=b"{}")
        server.fails_at = {step}
        await channel.put(b=b"{}", a=b"{}")
        assert channel.ledger.height == 2
        server.fails_at = {"check"}
        server.asked.clear()
        await channel.put(c=b"{}")
        assert server.asked == ["check"]
        with pytest.raises(DocumentsUnavailable, match="CouchDB at fake:5984 is not available"):
            await keys(channel)
        assert server.asked == ["check", "check"]
        server.fails_at = set()
        assert await keys(channel) == ["a", "b", "c"]
        assert server.saved == (2, 0)
        assert owed(tmp_path) == []
        server.asked.clear()
        await keys(channel)
        assert server.asked == ["find"]


@pytest.mark.parametrize("step", ["write", "save"])
async def test_a_start_that_failed_goes_on_at_the_next(tmp_path: Path, step: str) -> None:
    async with opened(tmp_path, FakeDocuments()) as channel:
        await channel.put(**TEN)
    server = FakeDocuments(batch_size=4)  # another one, without data
    server.fails_at = {step}
    with pytest.raises(DocumentsUnavailable):
        async with opened(tmp_path, server):
            pass
    assert owed(tmp_path)
    server.fails_at = set()
    async with opened(tmp_path, server) as channel:
        assert await keys(channel) == list(TEN)
    assert owed(tmp_path) == []


async def test_a_start_that_agrees_writes_nothing(tmp_path: Path) -> None:
    server = FakeDocuments()
    async with opened(tmp_path, server) as channel:
        await channel.put(**TEN)
    server.asked.clear()
    async with opened(tmp_path, server):
        pass
    assert server.asked == ["savepoint", "save"]


async def test_nothing_is_owed_where_nobody_is(tmp_path: Path) -> None:
    server = FakeDocuments()
    async with opened(tmp_path, server) as channel:
        await channel.put(a=b"{}")
    async with opened(tmp_path, None) as channel:
        await channel.put(b=b"{}")
        assert owed(tmp_path) == []
    async with opened(tmp_path, server) as channel:
        assert "clear" in server.asked[-4:]
        assert await keys(channel) == ["a", "b"]


async def test_cancelling_a_commit_does_not_lose_its_documents(tmp_path: Path) -> None:
    server = FakeDocuments()
    async with opened(tmp_path, server) as channel:
        server.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: channel.put(**TEN))
            await server.is_writing.wait()
            nursery.cancel_scope.cancel()
            server.gate.set()
        assert channel.ledger.height == 1
        assert await keys(channel) == list(TEN)


async def test_hashes_and_configurations_are_not_owed(tmp_path: Path) -> None:
    server = FakeDocuments()
    async with opened(tmp_path, server) as channel:
        server.fails_at = {"write"}
        simulator = channel.simulate()
        simulator.set_private_data("cc", "secrets", "p", b"{}")
        simulator.set_state("cc", "k", b"{}")
        await channel.commit(simulator)
        assert owed(tmp_path) == [("cc", b"k"), ("cc$$psecrets", b"p")]


async def test_indexes_are_the_servers(tmp_path: Path) -> None:
    server = FakeDocuments()
    index = b'{"index":{"fields":["n"]}}'
    async with opened(tmp_path, None) as channel:
        await channel.ledger.set_indexes("cc", {"": [index]})
    async with opened(tmp_path, server) as channel:
        await channel.ledger.set_indexes("cc", {"": [index], "secrets": []})
        assert server.indexes == {"cc": [index], "cc$$psecrets": []}
    with closing(sqlite3.connect(tmp_path / "ch" / "ledger.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM indexes").fetchone() == (0,)


async def test_indexes_do_not_wait_for_a_server_that_is_away(tmp_path: Path) -> None:
    server = FakeDocuments()
    async with opened(tmp_path, server) as channel:
        server.fails_at = {"write", "check"}
        await channel.put(a=b"{}")
        server.asked.clear()
        with pytest.raises(DocumentsUnavailable):
            await channel.ledger.set_indexes("cc", {"": [b"{}"]})
        assert server.asked == ["check"]
        server.fails_at = set()
        await channel.ledger.set_indexes("cc", {"": [b"{}"]})
        assert server.indexes == {"cc": [b"{}"]}
