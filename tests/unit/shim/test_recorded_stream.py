"""Feed the library a recorded stream of a Fabric 2.5 peer: it must send what the Go library sent.

The recording's chaincode is rewritten below. Only two things may differ: QUERY_STATE_CLOSE after
the last page, which this library saves, and times measured by the recorded chaincode.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import shim
from fabric_protos.stream import ChaincodeMessage, Response
from fabric_protos.stream import ChaincodeMessageType as T
from shim.handler import Handler
from tests.shared_fixtures import shared_fixture
from tests.unit.shim.scripted_peer import LIMIT_S

RECORDING = "chaincode-stream/go-shim-with-fabric-2.5-peer.jsonl"


def recorded() -> list[tuple[str, bytes]]:
    lines = [json.loads(line) for line in shared_fixture(RECORDING).read_text().splitlines()]
    return [(line["dir"], bytes.fromhex(line["raw_hex"])) for line in lines]


class Recorded(shim.Chaincode):
    """What the recorded chaincode did."""

    async def invoke(self, stub: shim.ChaincodeStub) -> Any:
        function, parameters = stub.get_function_and_parameters()
        match function:
            case "noop":
                return None
            case "put":
                await stub.put_state(*parameters)
                return parameters[1]
            case "get":
                return await stub.get_state(parameters[0])
            case "putev":
                await stub.put_state(*parameters)
                stub.set_event("putev", "=".join(parameters))
                return None
            case "getn":
                found = 0
                for number in range(int(parameters[0])):
                    found += len(await stub.get_state(f"k{number:08d}") or b"")
                return f"0 {parameters[0]} {found}"
            case "putn":
                for number in range(int(parameters[0])):
                    await stub.put_state(f"k{number:08d}", "value-0123456789")
                return f"0 {parameters[0]}"
            case "range":
                count = 0
                async for _ in stub.get_state_by_range(*parameters):
                    count += 1
                return f"0 {count}"
            case "fail":
                raise shim.ChaincodeError("failed on purpose")
        raise shim.ChaincodeError(f"unknown function {function}")


def without_times(data: bytes) -> ChaincodeMessage:
    """Decode; in answers like ``1527531 3 0`` the first number is a duration."""
    message = ChaincodeMessage.decode(data)
    if message.type == T.COMPLETED:
        response = Response.decode(message.payload)
        words = response.payload.split()
        if len(words) > 1 and words[0].isdigit():
            response.payload = b" ".join([b"0", *words[1:]])
            message.payload = response.encode()
    return message


class Replay:
    """Delivers the peer's messages; each one when everything before it has been answered."""

    def __init__(self, messages: list[tuple[str, bytes]]) -> None:
        self.messages = messages
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.compared = 0

    def send(self, data: bytes) -> None:
        self.sent.put_nowait(data)

    async def run(self, on_message: Any) -> None:
        for sender, data in self.messages:
            if sender == "peer->cc":
                on_message(data)
                continue
            async with asyncio.timeout(LIMIT_S):
                mine = await self.sent.get()
            if mine != data:
                assert without_times(mine).encode() == without_times(data).encode()
            self.compared += 1
        assert self.sent.empty()

    def close(self) -> None: ...


def without_last_closes(messages: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    kept, pairs = [], iter(messages)
    for sender, data in pairs:
        if ChaincodeMessage.decode(data).type == T.QUERY_STATE_CLOSE:
            answer = ChaincodeMessage.decode(next(pairs)[1])
            assert answer.type == T.RESPONSE
        else:
            kept.append((sender, data))
    return kept


def test_the_same_bytes_as_the_go_library() -> None:
    messages = recorded()
    kept = without_last_closes(messages)
    assert len(messages) - len(kept) == 4  # two ranges, a request and an answer each
    register = ChaincodeMessage.decode(kept[0][1])
    ccid = register.payload[2:].decode()

    async def replay() -> int:
        stream = Replay(kept)
        await Handler(Recorded(), ccid, stream).run()
        return stream.compared

    assert asyncio.run(replay()) == sum(sender == "cc->peer" for sender, _ in kept)
