"""The chaincode under measurement, on our own library.

Every function does one thing, as often as its arguments say, so that what one costs is a division.
"""

import os

import shim
from shim import ChaincodeStub, Response

VALUE = b"v" * 100


class Measured(shim.Chaincode):
    """One branch per function."""

    async def invoke(self, stub: ChaincodeStub) -> Response:
        match stub.string_args:
            case ["pid"]:
                return shim.success(str(os.getpid()).encode())
            case ["gets", count, key]:
                for _ in range(int(count)):
                    await stub.get_state(key)
            case ["get", key]:
                return shim.success(await stub.get_state(key) or b"")
            case ["update", key]:
                value = await stub.get_state(key) or b""
                await stub.put_state(key, (value[1:] + value[:1]) or VALUE)
            case ["fill", first, count]:
                async with stub.write_batch():
                    await put(stub, int(first), int(count))
            case ["puts", count]:
                await put(stub, 0, int(count))
            case ["range", start, end]:
                found = 0
                async for _ in stub.get_state_by_range(start, end):
                    found += 1
                return shim.success(str(found).encode())
            case ["put_bytes", key, size]:
                await stub.put_state(key, bytes(int(size)))
            case unknown:
                return shim.error(f"no function {unknown}")
        return shim.success()


async def put(stub: ChaincodeStub, first: int, count: int) -> None:
    for number in range(first, first + count):
        await stub.put_state(f"k{number:07}", VALUE)


if __name__ == "__main__":
    shim.start(Measured())
