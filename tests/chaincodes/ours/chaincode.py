"""The behaviour of ../README.md on `shim`, with coroutines.

Room:      a process of its own   (imports shim and fabric_protos)
Loop:      asyncio, run by shim
Lifetime:  until its stream ends, or until it is told to stop when it serves
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import datetime
from typing import Any

from shim import Chaincode, ChaincodeError, ChaincodeStub, Response, error, start

LIST_LIMIT = 10
"""Number of records up to which a range is listed in full."""


class Behaviour(Chaincode):
    """Each method with a trailing underscore is a function of the chaincode."""

    async def init(self, stub: ChaincodeStub) -> Response | None:
        if stub.function == "fail":
            return await self.fail_(stub, *stub.parameters)
        await stub.put_state("init", encode(stub.string_args))
        return None

    async def invoke(self, stub: ChaincodeStub) -> Response | bytes | str | None:
        name, parameters = stub.get_function_and_parameters()
        function = getattr(self, f"{name}_", None)
        if function is None:
            raise ChaincodeError(f"unknown function: {name}")
        return await function(stub, *parameters)

    async def noop_(self, stub: ChaincodeStub) -> None:
        pass

    async def put_(self, stub: ChaincodeStub, key: str, value: str) -> None:
        await stub.put_state(key, stub.args[2])

    async def get_(self, stub: ChaincodeStub, key: str) -> bytes | None:
        return await stub.get_state(key)

    async def gets_(self, stub: ChaincodeStub, count: str, key: str) -> bytes | None:
        value = None
        for _ in range(int(count)):
            value = await stub.get_state(key)
        return value

    async def del_(self, stub: ChaincodeStub, key: str) -> None:
        await stub.del_state(key)

    async def fill_(self, stub: ChaincodeStub, count: str) -> str:
        for i in range(int(count)):
            await stub.put_state(f"k{i:03}", f"v{i:03}")
        return count

    async def range_(self, stub: ChaincodeStub, start: str, end: str) -> str:
        keys, listed = [], []
        async for key, value in stub.get_state_by_range(start, end):
            keys.append(key)
            listed.append([key, value.decode()])
        return encode(summarise(keys) if len(keys) > LIST_LIMIT else listed)

    async def range_page_(
        self, stub: ChaincodeStub, start: str, end: str, size: str, bookmark: str
    ) -> str:
        page = await stub.get_state_by_range_with_pagination(start, end, int(size), bookmark)
        summary = summarise([record.key for record in page])
        return encode({**summary, "fetched": page.fetched, "bookmark": page.bookmark})

    async def page_then_put_(self, stub: ChaincodeStub, key: str, value: str) -> None:
        await stub.get_state_by_range_with_pagination("", "", 1)
        await stub.put_state(key, value)

    async def composite_put_(
        self, stub: ChaincodeStub, type_: str, a: str, b: str, value: str
    ) -> None:
        await stub.put_state(stub.create_composite_key(type_, [a, b]), value)

    async def composite_range_(self, stub: ChaincodeStub, type_: str, *attributes: str) -> str:
        found = stub.get_state_by_partial_composite_key(type_, attributes)
        rows = [(*stub.split_composite_key(key), value) async for key, value in found]
        return encode([[object_type, *parts, value.decode()] for object_type, parts, value in rows])

    async def history_(self, stub: ChaincodeStub, key: str) -> str:
        return encode(
            [
                [entry.tx_id, entry.value.decode(), entry.is_delete, instant(entry.timestamp)]
                async for entry in stub.get_history_for_key(key)
            ]
        )

    async def event_(self, stub: ChaincodeStub, name: str, payload: str) -> None:
        await stub.put_state(name, payload)
        stub.set_event(name, payload)

    async def call_(self, stub: ChaincodeStub, name: str, channel: str, *args: str) -> bytes:
        response = await stub.invoke_chaincode(name, stub.args[3:], channel)
        if response.status >= 400:
            raise ChaincodeError(f"call returned {response.status}: {response.message}")
        return response.payload

    async def big_(self, stub: ChaincodeStub, size: str) -> str:
        await stub.put_state("big", bytes(i % 251 for i in range(int(size))))
        return size

    async def big_get_(self, stub: ChaincodeStub, key: str) -> str:
        value = await stub.get_state(key) or b""
        return f"{len(value)} {hashlib.sha256(value).hexdigest()}"

    async def fail_(self, stub: ChaincodeStub, text: str, status: str = "500") -> Response:
        return error(text, int(status))

    async def throw_(self, stub: ChaincodeStub, text: str) -> None:
        raise RuntimeError(text)

    async def sleep_(self, stub: ChaincodeStub, milliseconds: str) -> str:
        await asyncio.sleep(int(milliseconds) / 1000)
        return milliseconds

    async def private_put_(
        self, stub: ChaincodeStub, collection: str, key: str, value: str
    ) -> None:
        await stub.put_private_data(collection, key, stub.args[3])

    async def private_get_(self, stub: ChaincodeStub, collection: str, key: str) -> bytes | None:
        return await stub.get_private_data(collection, key)

    async def private_del_(self, stub: ChaincodeStub, collection: str, key: str) -> None:
        await stub.del_private_data(collection, key)

    async def private_hash_(self, stub: ChaincodeStub, collection: str, key: str) -> str:
        return (await stub.get_private_data_hash(collection, key) or b"").hex()

    async def metadata_put_(self, stub: ChaincodeStub, key: str, policy: str) -> None:
        await stub.set_state_validation_parameter(key, stub.args[2])

    async def metadata_get_(self, stub: ChaincodeStub, key: str) -> bytes | None:
        return await stub.get_state_validation_parameter(key)

    async def creator_(self, stub: ChaincodeStub) -> str:
        from fabric_protos.msp import SerializedIdentity

        identity = SerializedIdentity.parse(stub.creator)
        return f"{identity.mspid} {hashlib.sha256(identity.id_bytes).hexdigest()}"

    async def transient_(self, stub: ChaincodeStub, name: str) -> bytes | None:
        return stub.transient.get(name)

    async def txid_(self, stub: ChaincodeStub) -> str:
        return stub.tx_id

    async def channel_(self, stub: ChaincodeStub) -> str:
        return stub.channel_id

    async def timestamp_(self, stub: ChaincodeStub) -> str:
        return "{}.{:09}".format(*divmod(stub.tx_timestamp_ns, 10**9))

    async def args_(self, stub: ChaincodeStub, *parameters: str) -> str:
        return encode([arg.hex() for arg in stub.args])


def summarise(keys: list[str]) -> dict[str, Any]:
    return {"count": len(keys), "first": keys[0] if keys else "", "last": keys[-1] if keys else ""}


def instant(when: datetime | None) -> str:
    assert when is not None
    return f"{int(when.timestamp())}.{when.microsecond * 1000:09}"


def encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    start(Behaviour())
