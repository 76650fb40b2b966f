"""The behaviour of ../README.md on the official Python library, as far as the library goes.

Room:      a process of its own, in its own environment: the library pins another protobuf
Loop:      asyncio, run by the library
Lifetime:  until it is killed; the library serves only, it cannot dial a peer
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from fabric_chaincode_python.fabric_shim import server
from fabric_chaincode_python.fabric_shim.interfaces import Chaincode
from fabric_chaincode_python.fabric_shim.response import error, success

from fabric_protos.peer import proposal_response_pb2

LIST_LIMIT = 10
"""Number of records up to which a range is listed in full."""

Payload = bytes | str | None
FUNCTIONS: dict[str, Callable[..., Awaitable[Payload]]] = {}


def function(body: Callable[..., Awaitable[Payload]]) -> Callable[..., Awaitable[Payload]]:
    FUNCTIONS[body.__name__.removesuffix("_")] = body
    return body


@function
async def noop(stub: Any) -> Payload:
    return None


@function
async def put(stub: Any, key: str, value: str) -> Payload:
    await stub.put_state(key, value)
    return None


@function
async def get(stub: Any, key: str) -> Payload:
    return await stub.get_state(key)


@function
async def gets(stub: Any, count: str, key: str) -> Payload:
    value = None
    for _ in range(int(count)):
        value = await stub.get_state(key)
    return value


@function
async def del_(stub: Any, key: str) -> Payload:
    await stub.delete_state(key)
    return None


@function
async def fill(stub: Any, count: str) -> Payload:
    for i in range(int(count)):
        await stub.put_state(f"k{i:03}", f"v{i:03}")
    return count


@function
async def range_(stub: Any, start: str, end: str) -> Payload:
    records = await collect(await stub.get_state_by_range(start, end))
    return encode(summarise(records) if len(records) > LIST_LIMIT else records)


@function
async def range_page(stub: Any, start: str, end: str, size: str, bookmark: str) -> Payload:
    found = await stub.get_state_by_range_with_pagination(start, end, int(size), bookmark)
    # The library keeps the number fetched and the next bookmark to itself.
    return encode({**summarise(await collect(found)), "fetched": 0, "bookmark": ""})


@function
async def page_then_put(stub: Any, key: str, value: str) -> Payload:
    found = await stub.get_state_by_range_with_pagination("", "", 1)
    await found.aclose()
    await stub.put_state(key, value)
    return None


@function
async def composite_put(stub: Any, type_: str, a: str, b: str, value: str) -> Payload:
    await stub.put_state(stub.create_composite_key(type_, [a, b]), value)
    return None


@function
async def composite_range(stub: Any, type_: str, *attributes: str) -> Payload:
    found = await collect(await stub.get_state_by_partial_composite_key(type_, attributes))
    split = [(stub.split_composite_key(key), value) for key, value in found]
    return encode([[object_type, *parts, value] for (object_type, parts), value in split])


@function
async def history(stub: Any, key: str) -> Payload:
    return encode(
        [
            [entry.tx_id, entry.value.decode(), entry.is_delete, instant(entry.timestamp)]
            async for entry in await stub.get_history_for_key(key)
        ]
    )


@function
async def event(stub: Any, name: str, payload: str) -> Payload:
    await stub.put_state(name, payload)
    stub.set_event(name, payload)
    return None


@function
async def big(stub: Any, size: str) -> Payload:
    await stub.put_state("big", bytes(i % 251 for i in range(int(size))))
    return size


@function
async def big_get(stub: Any, key: str) -> Payload:
    value = await stub.get_state(key)
    return f"{len(value)} {hashlib.sha256(value).hexdigest()}"


@function
async def sleep(stub: Any, milliseconds: str) -> Payload:
    await asyncio.sleep(int(milliseconds) / 1000)
    return milliseconds


@function
async def creator(stub: Any) -> Payload:
    identity = stub.get_creator()
    return f"{identity['mspid']} {hashlib.sha256(identity['idBytes']).hexdigest()}"


@function
async def transient(stub: Any, name: str) -> Payload:
    return (stub.get_transient() or {}).get(name)


@function
async def txid(stub: Any) -> Payload:
    return stub.get_txid()


@function
async def channel(stub: Any) -> Payload:
    return stub.get_channel_id()


@function
async def timestamp(stub: Any) -> Payload:
    return instant(stub.get_tx_timestamp())


@function
async def args(stub: Any, *parameters: str) -> Payload:
    return encode([text.encode().hex() for text in ("args", *parameters)])


@function
async def call(stub: Any, name: str, channel: str, *args: str) -> Payload:
    response = await stub.invoke_chaincode(name, args, channel)
    if response.status >= 400:
        raise CallFailed(f"call returned {response.status}: {response.message}")
    return response.payload


class CallFailed(Exception):
    """The callee answered with an error status."""


async def collect(found: Any) -> list[list[str]]:
    return [[record.key, record.value.decode()] async for record in found]


def summarise(records: list[list[str]]) -> dict[str, Any]:
    first, last = (records[0][0], records[-1][0]) if records else ("", "")
    return {"count": len(records), "first": first, "last": last}


def instant(when: Any) -> str:
    return f"{when.seconds}.{when.nanos:09}"


def encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fail(text: str, status: str = "500") -> Any:
    return proposal_response_pb2.Response(status=int(status), message=text)


class Behaviour(Chaincode):
    async def init(self, stub: Any) -> Any:
        name, parameters = stub.get_function_and_parameters()
        if name == "fail":
            return fail(*parameters)
        await stub.put_state("init", encode([name, *parameters]))
        return success(None)

    async def invoke(self, stub: Any) -> Any:
        name, parameters = stub.get_function_and_parameters()
        if name == "fail":
            return fail(*parameters)
        if name == "throw":
            raise RuntimeError(*parameters)
        if name not in FUNCTIONS:
            return error(f"unknown function: {name}")
        try:
            return success(await FUNCTIONS[name](stub, *parameters))
        except CallFailed as exc:
            return error(str(exc))


if __name__ == "__main__":
    server.start(
        Behaviour,
        os.environ["CORE_CHAINCODE_ID_NAME"],
        os.environ["CHAINCODE_SERVER_ADDRESS"],
    )
