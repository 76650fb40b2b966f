"""Rich queries of a chaincode on our library, over its stream."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import trio

from fabric_protos.stream import ChaincodeMessageType as Type
from peer import Peer
from peer.ledger.api import ValidationCode
from tests.integration.peer.scene import CHANNEL, Code, watched_peer

CHAINCODE = '''
import asyncio
import json
from pathlib import Path

import shim


class Stock(shim.Chaincode):
    async def invoke(self, stub):
        name, arguments = stub.get_function_and_parameters()
        return await getattr(self, name)(stub, *arguments)

    async def fill(self, stub, count, collection=""):
        for number in range(int(count)):
            key, value = f"item{number:03}", json.dumps({"n": number, "even": number % 2 == 0})
            if collection:
                await stub.put_private_data(collection, key, value)
            else:
                await stub.put_state(key, value)

    async def put(self, stub, key, value):
        await stub.put_state(key, value)

    async def find(self, stub, query):
        async with stub.get_query_result(query) as records:
            return json.dumps([[record.key, record.value.decode()] async for record in records])

    async def find_private(self, stub, collection, query):
        found = stub.get_private_data_query_result(collection, query)
        return json.dumps([record.key async for record in found])

    async def page(self, stub, query, size, bookmark=""):
        page = await stub.get_query_result_with_pagination(query, int(size), bookmark)
        return json.dumps([[record.key for record in page], page.bookmark])

    async def close_all(self, stub, query, gate=""):
        """Read what matches, wait until the gate is opened, then write."""
        async with stub.get_query_result(query) as records:
            keys = [record.key async for record in records]
        if gate:
            await stub.get_private_data_hash("secrets", "waiting")
            await asyncio.to_thread(Path(gate).read_bytes)
        for key in keys:
            await stub.put_state(key, json.dumps({"closed": True}))
        return json.dumps(keys)

    async def page_and_write(self, stub, query):
        await stub.get_query_result_with_pagination(query, 1)
        await stub.put_state("k", "v")


shim.start(Stock())
'''
EVEN = json.dumps({"selector": {"even": True}})


async def call(peer: Peer, name: str, *args: str) -> Any:
    result = await peer.query(CHANNEL, name, list(args))
    assert result.status == 200, result.message
    return json.loads(result.payload)


async def test_a_chaincode_queries_its_documents(code: Code) -> None:
    source = code.files({"chaincode.py": CHAINCODE})
    name = source.name
    async with watched_peer() as (peer, _):
        await peer.install(source, collections=["secrets"])
        assert (await peer.invoke(CHANNEL, name, ["fill", "450"])).committed
        assert (await peer.invoke(CHANNEL, name, ["fill", "3", "secrets"])).committed
        assert (await peer.invoke(CHANNEL, name, ["put", "other", "even, but no JSON"])).committed

        # More than two messages of a hundred, in the order of keys, as they were put.
        found = await call(peer, name, "find", EVEN)
        assert found == [[f"item{n:03}", f'{{"n": {n}, "even": true}}'] for n in range(0, 450, 2)]

        last = {"selector": {"n": {"$gte": 447}}, "sort": [{"n": "desc"}], "fields": ["n"]}
        assert await call(peer, name, "find", json.dumps(last)) == [
            ["item449", '{"n":449}'],
            ["item448", '{"n":448}'],
            ["item447", '{"n":447}'],
        ]

        pages, bookmark = [], ""
        for size in (150, 150):
            keys, bookmark = await call(peer, name, "page", EVEN, str(size), bookmark)
            pages.append(keys)
        assert [len(keys) for keys in pages] == [150, 75]
        assert pages[0] + pages[1] == [key for key, _ in found]
        assert await call(peer, name, "page", EVEN, "150", bookmark) == [[], bookmark]

        assert await call(peer, name, "find_private", "secrets", EVEN) == ["item000", "item002"]

        refused = await peer.query(CHANNEL, name, ["find", '{"selector":{"a":{"$in":1}}}'])
        assert "rich query: selector.a.$in must be an array" in refused.message
        refused = await peer.invoke(CHANNEL, name, ["page_and_write", EVEN])
        assert "performed a paginated query. Writes are not allowed" in refused.message


async def test_the_indexes_of_a_package_are_there_when_it_is_defined(code: Code) -> None:
    """A partial index changes what a query finds that names it, so one can see that it is there."""
    source = code.files({"chaincode.py": CHAINCODE})
    indexes = source / "META-INF" / "statedb" / "couchdb" / "collections" / "secrets" / "indexes"
    for directory in (indexes, indexes.parents[2] / "indexes"):
        directory.mkdir(parents=True)
        (directory / "even.json").write_text(
            '{"index":{"fields":["n"],"partial_filter_selector":{"even":true}},"ddoc":"even"}'
        )
    name = source.name
    query = json.dumps({"selector": {"n": {"$gte": 0}}, "use_index": "_design/even"})
    async with watched_peer() as (peer, _):
        await peer.install(source, collections=["secrets"])
        await peer.invoke(CHANNEL, name, ["fill", "5"])
        await peer.invoke(CHANNEL, name, ["fill", "5", "secrets"])
        even = ["item000", "item002", "item004"]
        assert [key for key, _ in await call(peer, name, "find", query)] == even
        assert await call(peer, name, "find_private", "secrets", query) == even


async def test_what_was_found_and_changed_meanwhile_is_a_conflict(
    code: Code, tmp_path: Path
) -> None:
    source = code.files({"chaincode.py": CHAINCODE})
    name = source.name
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    results = []

    async def close_all(peer: Peer, *more: str) -> None:
        results.append(await peer.invoke(CHANNEL, name, ["close_all", EVEN, *more]))

    async with watched_peer() as (peer, watch):
        await peer.install(source, collections=["secrets"])
        await peer.invoke(CHANNEL, name, ["fill", "4"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_all, peer, str(gate))
            await watch.message(Type.GET_PRIVATE_DATA_HASH, b"waiting")
            await close_all(peer)
            await trio.to_thread.run_sync(gate.write_bytes, b"open")
        assert [result.validation_code for result in results] == [
            ValidationCode.VALID,
            ValidationCode.MVCC_READ_CONFLICT,
        ]
        assert await call(peer, name, "find", EVEN) == []


async def test_the_example_finds_by_query_what_it_finds_by_its_index() -> None:
    name = "asset_transfer"
    async with watched_peer() as (peer, _):
        await peer.install(Path(__file__).parents[3] / "examples" / name)
        await peer.invoke(CHANNEL, name, ["InitLedger"])
        await peer.invoke(CHANNEL, name, ["TransferAsset", "asset3", "Brad"])
        await peer.invoke(CHANNEL, name, ["put", "note", '{"Owner":"Brad"}'])
        for owner, assets in (
            ("Brad", ["asset2", "asset3"]),
            ("Jin Soo", []),
            ("Tomoko", ["asset1"]),
        ):
            found = await call(peer, name, "QueryAssetsByOwner", owner)
            assert found == await call(peer, name, "GetAssetsByOwner", owner)
            assert [asset["ID"] for asset in found] == assets
