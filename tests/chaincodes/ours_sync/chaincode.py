"""The behaviour of ../README.md on `shim`, with plain functions, each in a worker thread.

Room:      a process of its own   (imports shim and fabric_protos)
Loop:      asyncio, run by shim; the functions here block in worker threads
Lifetime:  until its stream ends, or until it is told to stop when it serves
"""

from __future__ import annotations

import hashlib
import json
import time
from datetime import datetime
from typing import Any

from shim import Chaincode, ChaincodeError, Response, SyncChaincodeStub, error, start

LIST_LIMIT = 10
"""Number of records up to which a range is listed in full."""


class Behaviour(Chaincode):
    """Each method with a trailing underscore is a function of the chaincode."""

    def init(self, stub: SyncChaincodeStub) -> Response | None:
        if stub.function == "fail":
            return self.fail_(stub, *stub.parameters)
        stub.put_state("init", encode(stub.string_args))
        return None

    def invoke(self, stub: SyncChaincodeStub) -> Response | bytes | str | None:
        name, parameters = stub.get_function_and_parameters()
        function = getattr(self, f"{name}_", None)
        if function is None:
            raise ChaincodeError(f"unknown function: {name}")
        return function(stub, *parameters)

    def noop_(self, stub: SyncChaincodeStub) -> None:
        pass

    def put_(self, stub: SyncChaincodeStub, key: str, value: str) -> None:
        stub.put_state(key, stub.args[2])

    def get_(self, stub: SyncChaincodeStub, key: str) -> bytes | None:
        return stub.get_state(key)

    def gets_(self, stub: SyncChaincodeStub, count: str, key: str) -> bytes | None:
        value = None
        for _ in range(int(count)):
            value = stub.get_state(key)
        return value

    def del_(self, stub: SyncChaincodeStub, key: str) -> None:
        stub.del_state(key)

    def fill_(self, stub: SyncChaincodeStub, count: str) -> str:
        for i in range(int(count)):
            stub.put_state(f"k{i:03}", f"v{i:03}")
        return count

    def range_(self, stub: SyncChaincodeStub, start: str, end: str) -> str:
        keys, listed = [], []
        for key, value in stub.get_state_by_range(start, end):
            keys.append(key)
            listed.append([key, value.decode()])
        return encode(summarise(keys) if len(keys) > LIST_LIMIT else listed)

    def range_page_(
        self, stub: SyncChaincodeStub, start: str, end: str, size: str, bookmark: str
    ) -> str:
        page = stub.get_state_by_range_with_pagination(start, end, int(size), bookmark)
        summary = summarise([record.key for record in page])
        return encode({**summary, "fetched": page.fetched, "bookmark": page.bookmark})

    def page_then_put_(self, stub: SyncChaincodeStub, key: str, value: str) -> None:
        stub.get_state_by_range_with_pagination("", "", 1)
        stub.put_state(key, value)

    def composite_put_(
        self, stub: SyncChaincodeStub, type_: str, a: str, b: str, value: str
    ) -> None:
        stub.put_state(stub.create_composite_key(type_, [a, b]), value)

    def composite_range_(self, stub: SyncChaincodeStub, type_: str, *attributes: str) -> str:
        found = stub.get_state_by_partial_composite_key(type_, attributes)
        rows = [(*stub.split_composite_key(key), value) for key, value in found]
        return encode([[object_type, *parts, value.decode()] for object_type, parts, value in rows])

    def history_(self, stub: SyncChaincodeStub, key: str) -> str:
        return encode(
            [
                [entry.tx_id, entry.value.decode(), entry.is_delete, instant(entry.timestamp)]
                for entry in stub.get_history_for_key(key)
            ]
        )

    def event_(self, stub: SyncChaincodeStub, name: str, payload: str) -> None:
        stub.put_state(name, payload)
        stub.set_event(name, payload)

    def call_(self, stub: SyncChaincodeStub, name: str, channel: str, *args: str) -> bytes:
        response = stub.invoke_chaincode(name, stub.args[3:], channel)
        if response.status >= 400:
            raise ChaincodeError(f"call returned {response.status}: {response.message}")
        return response.payload

    def big_(self, stub: SyncChaincodeStub, size: str) -> str:
        stub.put_state("big", bytes(i % 251 for i in range(int(size))))
        return size

    def big_get_(self, stub: SyncChaincodeStub, key: str) -> str:
        value = stub.get_state(key) or b""
        return f"{len(value)} {hashlib.sha256(value).hexdigest()}"

    def fail_(self, stub: SyncChaincodeStub, text: str, status: str = "500") -> Response:
        return error(text, int(status))

    def throw_(self, stub: SyncChaincodeStub, text: str) -> None:
        raise RuntimeError(text)

    def sleep_(self, stub: SyncChaincodeStub, milliseconds: str) -> str:
        time.sleep(int(milliseconds) / 1000)
        return milliseconds

    def private_put_(self, stub: SyncChaincodeStub, collection: str, key: str, value: str) -> None:
        stub.put_private_data(collection, key, stub.args[3])

    def private_get_(self, stub: SyncChaincodeStub, collection: str, key: str) -> bytes | None:
        return stub.get_private_data(collection, key)

    def private_del_(self, stub: SyncChaincodeStub, collection: str, key: str) -> None:
        stub.del_private_data(collection, key)

    def private_hash_(self, stub: SyncChaincodeStub, collection: str, key: str) -> str:
        return (stub.get_private_data_hash(collection, key) or b"").hex()

    def metadata_put_(self, stub: SyncChaincodeStub, key: str, policy: str) -> None:
        stub.set_state_validation_parameter(key, stub.args[2])

    def metadata_get_(self, stub: SyncChaincodeStub, key: str) -> bytes | None:
        return stub.get_state_validation_parameter(key)

    def creator_(self, stub: SyncChaincodeStub) -> str:
        from fabric_protos.msp import SerializedIdentity

        identity = SerializedIdentity.parse(stub.creator)
        return f"{identity.mspid} {hashlib.sha256(identity.id_bytes).hexdigest()}"

    def transient_(self, stub: SyncChaincodeStub, name: str) -> bytes | None:
        return stub.transient.get(name)

    def txid_(self, stub: SyncChaincodeStub) -> str:
        return stub.tx_id

    def channel_(self, stub: SyncChaincodeStub) -> str:
        return stub.channel_id

    def timestamp_(self, stub: SyncChaincodeStub) -> str:
        return "{}.{:09}".format(*divmod(stub.tx_timestamp_ns, 10**9))

    def args_(self, stub: SyncChaincodeStub, *parameters: str) -> str:
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
