"""A chaincode that does what its caller names; run as a process, or as a service on a port.

Room:      tests.integration.peer   (copied into a directory as chaincode.py, next to wire.py)
Loop:      asyncio
Lifetime:  one chaincode process
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import wire

from fabric_protos.stream import ChaincodeEvent, GetState, Response

held: dict[str, asyncio.Event] = {}


async def function(stub: wire.Stub, args: list[bytes]) -> bytes | Response:
    name, *texts = (arg.decode() for arg in args)
    match name, *texts:
        case ["pid"]:
            return str(os.getpid()).encode()
        case ["put", key, value, *collection]:
            await stub.put(key, value.encode(), *collection)
        case ["get", key, *collection]:
            return await stub.get(key, *collection)
        case ["add", key]:
            value = int(await stub.get(key) or b"0") + 1
            await stub.put(key, str(value).encode())
            return str(value).encode()
        case ["add_when", key, event]:  # read, wait to be told, write
            value = int(await stub.get(key) or b"0") + 1
            await held.setdefault(event, asyncio.Event()).wait()
            await stub.put(key, str(value).encode())
        case ["release", event]:
            held.setdefault(event, asyncio.Event()).set()
        case ["hold"]:
            await stub.get("holding")  # the test sees this in its trace
            await asyncio.Event().wait()
        case ["fill", count]:
            for number in range(int(count)):
                await stub.put(f"row{number:05}", b"value")
        case ["count_rows"]:
            return str(len([record async for record in stub.range("row", "rox")])).encode()
        case ["die_in_range", signum]:
            async for _ in stub.range("row", "rox"):
                os.kill(os.getpid(), getattr(signal, signum))
        case ["exit", code]:
            os._exit(int(code))
        case ["exit_afterwards", code]:
            await stub.complete(Response(status=200, payload=b"bye"))
            os._exit(int(code))
        case ["hang_up"]:
            await stub.get("before the end")
            sys.exit(0)
        case ["big", size]:
            return bytes(int(size))
        case ["stray_request"]:  # for a transaction that does not exist
            await stub.call.send(
                type=wire.T.GET_STATE,
                payload=GetState(key="key").encode(),
                txid="nobody-knows",
                channel_id=stub.channel_id,
            )
            answer = await wire.strays.get()
            return f"{wire.T(answer.type).name} {answer.payload.decode()}".encode()
        case ["fail", status, text]:
            await stub.put("failed", b"written and dropped")
            return Response(status=int(status), message=text)
        case ["transient", key]:
            return stub.transient[key]
        case ["event", event, payload]:
            stub.event = ChaincodeEvent(event_name=event, payload=payload.encode())
        case ["call", callee, channel_id, *callee_args]:
            return await stub.invoke(callee, channel_id, [arg.encode() for arg in callee_args])
        case ["init_or_not"]:
            return b"init" if stub.is_init else b"transaction"
        case _:
            return Response(status=400, message=f"no function {name} of {len(texts)} arguments")
    return b"ok"


if __name__ == "__main__":
    if "--port" in sys.argv:
        *_, port, name = sys.argv
        wire.run(wire.service(function, int(port), name))
    else:
        wire.run(wire.chaincode(function))
