"""Rich queries answered by a server: PouchDB's, which speaks CouchDB's protocol, not CouchDB."""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from peer.couchdb import CouchDB, CouchSettings
from peer.couchdb.client import CouchClient, open_client
from peer.errors import DocumentsChanged, DocumentsError, DocumentsUnavailable, QueryError
from peer.ledger import open_ledger, rebuild_databases
from peer.ledger.api import KV, Ledger, ValidationCode, Version
from peer.ledger.blocks import version_bytes
from tests.couchdb.server import CouchServer, couch_server
from tests.unit.ledger.conftest import COLLECTIONS, Channel

N = b'{"index":{"fields":["n"]},"ddoc":"byN","name":"n","type":"json"}'
NAME = b'{"index":{"fields":["name"]},"ddoc":"byName","name":"name","type":"json"}'
BOTH = {"selector": {"n": {"$gt": 0}}}


@pytest.fixture
async def server() -> AsyncIterator[CouchServer]:
    async with couch_server() as server:
        yield server


class ServedChannel(Channel):
    """A ledger with its documents on a server."""

    def __init__(self, ledger: Ledger, client: CouchClient) -> None:
        super().__init__(ledger)
        self._client = client

    def hurry(self) -> None:
        """Wait for no answer any more: none will come."""
        self._client.settings = replace(self._client.settings, request_timeout_s=0.2)

    def wait(self) -> None:
        """Wait for answers again."""
        self._client.settings = replace(self._client.settings, request_timeout_s=35.0)


@asynccontextmanager
async def opened_ledger(directory: Path, server: CouchServer) -> AsyncIterator[ServedChannel]:
    settings = CouchSettings(address=server.address, retries=0)
    async with (
        open_client(settings) as client,
        open_ledger(
            directory,
            "my.ch",
            collections=COLLECTIONS.get,
            documents=CouchDB(client).channel("my.ch"),
        ) as ledger,
    ):
        yield ServedChannel(ledger, client)


Opened = Callable[[], AbstractAsyncContextManager[ServedChannel]]


@pytest.fixture
def opened(tmp_path: Path, server: CouchServer) -> Opened:
    """Open the ledger of the test with the documents on the server of the test."""
    return partial(opened_ledger, tmp_path, server)


@pytest.fixture
async def channel(opened: Opened) -> AsyncIterator[Channel]:
    async with opened() as channel:
        yield channel


async def keys(channel: Channel, query: Any, **page: Any) -> list[str]:
    executor = channel.ledger.new_query_executor()
    try:
        results = await executor.execute_query("cc", json.dumps(query), **page)
        return [record.key for record in await results.take(100)]
    finally:
        executor.done()


async def test_values_and_versions_are_those_of_the_state(
    channel: Channel, public_set: Any
) -> None:
    await channel.put(a=b'{ "n": 1.0, "name":"x" }', b=b'{"n":2}', c=b"no JSON", d=b'{"n":0}')
    simulator = channel.simulate()
    results = await simulator.execute_query("cc", json.dumps(BOTH))
    assert await results.take(99) == [
        KV("cc", "a", b'{ "n": 1.0, "name":"x" }'),
        KV("cc", "b", b'{"n":2}'),
    ]
    assert await results.take(99) == []
    reads = public_set(simulator).reads
    assert [(read.key, read.version is not None) for read in reads] == [("a", True), ("b", True)]


async def test_documents_are_fabrics(channel: Channel, server: CouchServer) -> None:
    big = b'{"n":12345678901234567890,"x":1.50}'
    await channel.put(**{"a": big, "\0composite\0key\0": b'{"n":1}', "t": b"text", "_x": b"{}"})
    await channel.put(u=b'{"_rev":"x"}', v=b'{"~version":"x"}', w=b"[]")
    simulator = channel.simulate()
    simulator.set_state_metadata("cc", "a", {"VALIDATION_PARAMETER": b"p" * 200})
    simulator.set_private_data("cc", "secrets", "p", b'{"n":1}')
    await channel.commit(simulator)
    assert {"my$ch_", "my$ch_cc", "my$ch_cc$$psecrets"} == set(await server.get("_all_dbs"))
    rows = (await server.get("my$ch_cc", "_all_docs"))["rows"]
    assert [row["id"] for row in rows] == ["\0composite\0key\0", "a"]
    document = await server.get("my$ch_cc", "a")
    assert {name for name in document if name != "_rev"} == {"_id", "n", "x", "~version"}
    version = version_bytes(Version(2, 0))
    stored = b64decode(document["~version"])
    assert stored.startswith(bytes([0x0A, len(version)]) + version + b"\x12")
    assert stored.endswith(b"p" * 200)
    savepoint = await server.get("my$ch_", "statedb_savepoint")
    assert (savepoint["BlockNum"], savepoint["TxNum"]) == (2, 0)


async def test_what_blocks_change_and_delete(channel: Channel) -> None:
    await channel.put(a=b'{"n":1}', b=b'{"n":1}', c=b'{"n":1}', d=b'{"n":1}')
    assert await keys(channel, BOTH) == ["a", "b", "c", "d"]
    simulator = channel.simulate()
    simulator.delete_state("cc", "a")
    simulator.set_state("cc", "b", b"no JSON any more")
    simulator.set_state("cc", "c", b'{"n":0}')
    await channel.commit(simulator)
    assert await keys(channel, BOTH) == ["d"]
    await channel.put(a=b'{"n":3}', b=b'{"n":3}')
    assert await keys(channel, BOTH) == ["a", "b", "d"]


async def test_private_data(channel: Channel) -> None:
    async def found() -> list[KV]:
        executor = channel.ledger.new_query_executor()
        try:
            query = json.dumps(BOTH)
            results = await executor.execute_query_on_private_data("cc", "secrets", query)
            return list(await results.take(9))
        finally:
            executor.done()

    assert await found() == []  # there is no such database yet
    simulator = channel.simulate()
    simulator.set_private_data("cc", "secrets", "p", b'{"n":1}')
    simulator.set_private_data("cc", "secrets", "q", b'{"n":1}')
    await channel.commit(simulator)
    assert await found() == [KV("cc", "p", b'{"n":1}'), KV("cc", "q", b'{"n":1}')]
    simulator = channel.simulate()
    simulator.purge_private_data("cc", "secrets", "p")
    await channel.commit(simulator)
    assert await found() == [KV("cc", "q", b'{"n":1}')]


async def test_sort_fields_skip_and_indexes(channel: Channel, server: CouchServer) -> None:
    await channel.put(**{f"k{i}": b'{"n":%d,"name":"x","z":1.0}' % (9 - i) for i in range(5)})
    query = {"selector": {"n": {"$gt": 5}}, "sort": ["n"], "fields": ["z", "name"]}
    with pytest.raises(DocumentsError, match=r"error handling CouchDB request\. Error:.*sort"):
        await keys(channel, query)
    await channel.ledger.set_indexes("cc", {"": [N, NAME], "secrets": [N]})
    executor = channel.ledger.new_query_executor()
    results = await executor.execute_query("cc", json.dumps(query))
    assert [(each.key, each.value) for each in await results.take(9)] == [
        (f"k{i}", b'{"name":"x","z":1.0}') for i in (3, 2, 1, 0)
    ]
    executor.done()
    # This server counts wrong where it skips after $gt.
    assert await keys(channel, {**query, "selector": {"n": {"$gte": 6}}, "skip": 3}) == ["k0"]
    assert await keys(channel, {**query, "use_index": ["_design/byN", "n"]}) == [
        "k3",
        "k2",
        "k1",
        "k0",
    ]

    async def names(database: str) -> list[str]:
        found = (await server.get(database, "_index"))["indexes"]
        return [each["name"] for each in found if each["type"] == "json"]

    assert await names("my$ch_cc$$psecrets") == ["n"]
    assert await names("my$ch_cc") == ["n", "name"]
    await channel.ledger.set_indexes("cc", {"": [NAME], "secrets": [], "others": []})
    assert await names("my$ch_cc$$psecrets") == []
    assert await names("my$ch_cc") == ["name"]


async def test_an_index_the_server_refuses_is_logged(
    channel: Channel, caplog: pytest.LogCaptureFixture, server: CouchServer
) -> None:
    await channel.ledger.set_indexes("cc", {"": [b"no JSON", N]})
    assert "an index of my$ch_cc is not used: error handling CouchDB request" in caplog.text
    found = (await server.get("my$ch_cc", "_index"))["indexes"]
    assert [each["name"] for each in found] == ["_all_docs", "n"]


@pytest.mark.parametrize(
    ("query", "error", "text"),
    [
        ("", QueryError, "query is no JSON"),
        ("[]", QueryError, "query is no JSON object"),
        ('{"selector":{},"fields":"a"}', QueryError, "fields definition must be an array"),
        ('{"selector":{"n":{"$nope":1}}}', DocumentsError, "Status Code:400,  Reason:unknown"),
    ],
)
async def test_queries_that_are_refused(
    channel: Channel, query: str, error: type[Exception], text: str
) -> None:
    await channel.put(a=b"{}")
    executor = channel.ledger.new_query_executor()
    with pytest.raises(error, match=text):
        await (await executor.execute_query("cc", query)).take(1)
    executor.done()


async def test_a_query_answers_for_its_snapshot_or_fails(channel: Channel) -> None:
    await channel.put(a=b'{"n":1}', b=b'{"n":0}')
    gone, come, other, undisturbed = (channel.simulate() for _ in range(4))
    await channel.put(a=b'{"n":0}')  # the server finds it no more
    query = json.dumps(BOTH)
    with pytest.raises(DocumentsChanged, match="changed by a block since the transaction began"):
        await (await gone.execute_query("cc", query)).take(9)
    fresh = channel.simulate()
    assert await (await fresh.execute_query("cc", query)).take(9) == []
    await channel.put(b=b'{"n":2}')  # the server finds it, the snapshots have not got it
    for simulator in (come, fresh):
        with pytest.raises(DocumentsChanged):
            await (await simulator.execute_query("cc", query)).take(9)
    # What changed is neither found now nor was it to be found.
    elsewhere = json.dumps({"selector": {"n": {"$gt": 5}}})
    assert await (await other.execute_query("cc", elsewhere)).take(9) == []
    unrelated = channel.simulate()
    unrelated.set_private_data("cc", "others", "b", b'{"n":1}')
    await channel.commit(unrelated)
    latest = channel.simulate()
    results = await latest.execute_query("cc", query)
    unrelated = channel.simulate()
    unrelated.set_private_data("cc", "others", "b", b'{"n":2}')
    await channel.commit(unrelated)
    assert [record.key for record in await results.take(9)] == ["b"]
    for simulator in (gone, come, other, undisturbed, fresh, latest):
        simulator.done()


async def test_a_returned_key_that_changes_is_a_conflict(channel: Channel) -> None:
    await channel.put(a=b'{"n":1}')
    simulator = channel.simulate()
    await (await simulator.execute_query("cc", json.dumps(BOTH))).take(9)
    simulator.set_state("cc", "sum", b"1")
    await channel.put(a=b'{"n":1}')
    assert await channel.commit(simulator) == [ValidationCode.MVCC_READ_CONFLICT]


async def test_pages_need_bookmarks_which_this_server_has_not(channel: Channel) -> None:
    await channel.put(a=b'{"n":1}', b=b'{"n":2}')
    executor = channel.ledger.new_query_executor()
    results = await executor.execute_query("cc", json.dumps(BOTH), page_size=1)
    assert [record.key for record in await results.take(1)] == ["a"]
    with pytest.raises(DocumentsError, match="gives no bookmarks"):
        await results.take(1)
    executor.done()


# Trouble with the server


async def test_a_server_that_hangs_holds_up_queries_and_loses_nothing(
    tmp_path: Path, server: CouchServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened_ledger(tmp_path, server) as channel:
        await channel.put(a=b'{"n":1}')
        server.stop()
        channel.hurry()
        await channel.put(b=b'{"n":1}')
        await channel.put(c=b'{"n":1}')
        assert channel.get("c") == b'{"n":1}'
        assert "the block is committed without its documents: CouchDB at" in caplog.text
        with pytest.raises(DocumentsUnavailable, match=r"no answer within 0.2 s, 1 times"):
            await keys(channel, BOTH)
        server.go_on()
        channel.wait()
        assert await keys(channel, BOTH) == ["a", "b", "c"]
        await channel.put(d=b'{"n":1}')
        assert await keys(channel, BOTH) == ["a", "b", "c", "d"]


async def test_what_is_owed_is_made_up_for_at_the_next_start(
    server: CouchServer, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as channel:
        await channel.put(a=b'{"n":1}', b=b'{"n":1}')
        server.stop()
        channel.hurry()
        simulator = channel.simulate()
        simulator.delete_state("cc", "a")
        simulator.set_state("cc", "c", b'{"n":1}')
        await channel.commit(simulator)
    server.go_on()
    caplog.clear()
    async with opened() as channel:
        assert await keys(channel, BOTH) == ["b", "c"]
    assert "writing all anew" not in caplog.text
    savepoint = await server.get("my$ch_", "statedb_savepoint")
    assert savepoint["BlockNum"] == 1


async def test_a_server_that_lost_its_data_gets_them_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with couch_server() as server, opened_ledger(tmp_path, server) as channel:
        await channel.put(a=b'{"n":1}')
    async with couch_server() as server, opened_ledger(tmp_path, server) as channel:
        assert await keys(channel, BOTH) == ["a"]
        rows = (await server.get("my$ch_cc", "_all_docs"))["rows"]
        assert [row["id"] for row in rows] == ["a"]


async def test_documents_of_another_ledger_are_removed(
    tmp_path: Path, server: CouchServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened_ledger(tmp_path / "one", server) as channel:
        await channel.put(a=b'{"n":1}')
        await channel.put(b=b'{"n":1}')
    async with opened_ledger(tmp_path / "two", server) as channel:
        assert "writing all anew" in caplog.text
        assert await server.get("_all_dbs") == []
        await channel.put(c=b'{"n":1}')
        assert await keys(channel, BOTH) == ["c"]


async def test_without_the_server_meanwhile_and_with_rebuilt_databases(
    tmp_path: Path, server: CouchServer, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as channel:
        await channel.put(a=b'{"n":1}')
    async with open_ledger(tmp_path, "my.ch") as ledger:
        await Channel(ledger).put(b=b'{"n":1}')
        assert await keys(Channel(ledger), BOTH) == ["a", "b"]
    async with opened() as channel:
        assert await keys(channel, BOTH) == ["a", "b"]
        simulator = channel.simulate()
        simulator.delete_state("cc", "a")
        await channel.commit(simulator)
    await rebuild_databases(tmp_path, "my.ch")
    with caplog.at_level(logging.INFO):
        async with opened() as channel:
            assert await keys(channel, BOTH) == ["b"]
    assert "removing database my$ch_cc" in caplog.text
