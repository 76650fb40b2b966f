"""A whole peer whose rich queries a server answers; see test_documents.py for what it is."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from peer import Peer, PeerConfig, open_peer
from peer.errors import ConfigError, DocumentsUnavailable
from tests.couchdb.server import CouchServer, couch_server
from tests.integration.peer.scene import CHANNEL
from tests.integration.peer.test_rich_queries import CHAINCODE

INDEX = b'{"index":{"fields":["n"]},"ddoc":"byN","name":"n","type":"json"}'


@pytest.fixture
async def server() -> AsyncIterator[CouchServer]:
    async with couch_server() as server:
        yield server


def configured(address: str, data: Path) -> PeerConfig:
    variables = {
        "CORE_PEER_FILESYSTEMPATH": str(data),
        "CORE_LEDGER_STATE_STATEDATABASE": "CouchDB",
        "CORE_LEDGER_STATE_COUCHDBCONFIG_COUCHDBADDRESS": address,
        "CORE_LEDGER_STATE_COUCHDBCONFIG_MAXRETRIESONSTARTUP": "0",
    }
    return PeerConfig.load(env=variables)


def chaincode(directory: Path) -> Path:
    indexes = directory / "META-INF" / "statedb" / "couchdb" / "indexes"
    indexes.mkdir(parents=True)
    (indexes / "byN.json").write_bytes(INDEX)
    (directory / "chaincode.py").write_text(CHAINCODE)
    return directory


async def call(peer: Peer, *args: str) -> Any:
    result = await peer.query(CHANNEL, "stock", list(args))
    return json.loads(result.payload) if result.status == 200 else result.message


async def test_a_chaincode_finds_its_documents(tmp_path: Path, server: CouchServer) -> None:
    config = configured(server.address, tmp_path / "data")
    last = json.dumps({"selector": {"n": {"$gt": 7}}, "sort": [{"n": "desc"}], "fields": ["n"]})
    found = [["item009", '{"n":9}'], ["item008", '{"n":8}']]
    async with open_peer(config) as peer:
        await peer.install(chaincode(tmp_path / "stock"), name="stock", collections=["secrets"])
        assert (await peer.invoke(CHANNEL, "stock", ["fill", "10"])).committed
        assert (await peer.invoke(CHANNEL, "stock", ["fill", "3", "secrets"])).committed
        assert await call(peer, "find", last) == found
        even = json.dumps({"selector": {"even": True}})
        assert await call(peer, "find_private", "secrets", even) == ["item000", "item002"]
        assert (await peer.invoke(CHANNEL, "stock", ["close_all", even])).committed
        assert await call(peer, "find", even) == []
        refused = await call(peer, "find", '{"selector":{"n":{"$nope":1}}}')
        assert "error handling CouchDB request. Error:bad_request,  Status Code:400" in refused
    assert "mychannel_stock" in await server.get("_all_dbs")
    async with open_peer(config) as peer:
        await peer.install(tmp_path / "stock", name="stock", collections=["secrets"])
        assert await call(peer, "find", last) == [found[0]]


async def test_health_tells_of_the_server(tmp_path: Path, server: CouchServer) -> None:
    config = configured(server.address, tmp_path / "data")
    limits = replace(config.ledger, couchdb_request_timeout_s=3.0)
    listening = replace(config.operations, listen_address="127.0.0.1:0")
    config = replace(config, ledger=limits, operations=listening)
    async with open_peer(config) as peer, httpx.AsyncClient(timeout=60) as client:
        health = f"http://{peer.operations_address}/healthz"
        assert (await client.get(health)).json()["status"] == "OK"
        server.stop()
        (failed,) = (await client.get(health)).json()["failed_checks"]
        assert failed["component"] == "couchdb"
        assert "no answer within 3 s" in failed["reason"]
        server.go_on()


async def test_a_peer_does_not_start_without_its_server(tmp_path: Path) -> None:
    with pytest.raises(DocumentsUnavailable, match=r"CouchDB at 127\.0\.0\.1:1 is not available"):
        async with open_peer(configured("127.0.0.1:1", tmp_path / "data")):
            pass


async def test_without_the_extra_a_peer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.startswith("peer.couchdb")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx", None)
    config = configured("127.0.0.1:1", tmp_path / "data")
    with pytest.raises(ConfigError, match=r"pip install triopeer\[couchdb\]"):
        async with open_peer(config):
            pass


async def test_a_password_is_not_shown() -> None:
    config = PeerConfig()
    config = replace(config, ledger=replace(config.ledger, couchdb_password="secret-word"))
    assert "secret-word" not in repr(config)
