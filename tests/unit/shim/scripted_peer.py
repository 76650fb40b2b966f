"""The peer's end of a stream, in a test's own words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import shim
from fabric_protos.stream import ChaincodeInput, ChaincodeMessage
from fabric_protos.stream import ChaincodeMessageType as T
from shim.transport import Duplex

LIMIT_S = 60.0


class ScriptedPeer:
    """Receives what the chaincode sends and answers what the test says."""

    def __init__(self, stream: Duplex) -> None:
        self.stream = stream
        self.messages: asyncio.Queue[ChaincodeMessage | None] = asyncio.Queue()
        self.raw: list[bytes] = []
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ScriptedPeer:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.stream.close()
        assert self._reader is not None
        await self._reader

    async def _read(self) -> None:
        try:
            await self.stream.run(self._take)
        finally:
            self.messages.put_nowait(None)

    def _take(self, data: bytes) -> None:
        self.raw.append(data)
        self.messages.put_nowait(ChaincodeMessage.decode(data))

    async def receive(self) -> ChaincodeMessage:
        async with asyncio.timeout(LIMIT_S):
            message = await self.messages.get()
        assert message is not None, "the chaincode ended the stream"
        return message

    async def ended(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            assert await self.messages.get() is None

    def send(self, kind: int, payload: bytes = b"", txid: str = "", channel: str = "") -> None:
        message = ChaincodeMessage(type=kind, payload=payload, txid=txid, channel_id=channel)
        self.stream.send(message.encode())

    async def shake_hands(self, ready: bytes = b"") -> None:
        assert (await self.receive()).type == T.REGISTER
        self.send(T.REGISTERED)
        self.send(T.READY, ready)

    def begin(
        self,
        *args: bytes,
        txid: str = "tx1",
        channel: str = "ch1",
        kind: int = T.TRANSACTION,
        **fields: Any,
    ) -> None:
        payload = ChaincodeInput(args=list(args), **fields).encode()
        self.send(kind, payload, txid, channel)

    def answer(self, to: ChaincodeMessage, payload: bytes = b"", kind: int = T.RESPONSE) -> None:
        self.send(kind, payload, to.txid, to.channel_id)


Script = Callable[[ScriptedPeer], Awaitable[None]]


def play(chaincode: shim.Chaincode, script: Script, ready: bytes = b"", **options: Any) -> None:
    """Run a chaincode against a script, from REGISTER to a clean end."""

    async def both() -> None:
        here, there = shim.memory_streams()
        chaincode_task = asyncio.create_task(
            shim.start_in_process(chaincode, "mycc:1.0", here, **options)
        )
        try:
            async with ScriptedPeer(there) as peer:
                await peer.shake_hands(ready)
                await script(peer)
        finally:
            async with asyncio.timeout(LIMIT_S):
                await chaincode_task

    asyncio.run(both())


def transact(
    chaincode: shim.Chaincode,
    answers: Iterable[bytes | str] = (),
    args: Iterable[bytes] = (b"f",),
    ready: bytes = b"",
    kind: int = T.TRANSACTION,
) -> tuple[list[ChaincodeMessage], ChaincodeMessage]:
    """Run one transaction; return its requests and its last message. A str answer is an ERROR."""
    requests: list[ChaincodeMessage] = []
    last: list[ChaincodeMessage] = []

    async def script(peer: ScriptedPeer) -> None:
        peer.begin(*args, kind=kind)
        for answer in answers:
            requests.append(await peer.receive())
            if isinstance(answer, str):
                peer.answer(requests[-1], answer.encode(), T.ERROR)
            else:
                peer.answer(requests[-1], answer)
        last.append(await peer.receive())

    play(chaincode, script, ready)
    return requests, last[0]


class Calls(shim.Chaincode):
    """A coroutine chaincode made of one function; remembers what that returned."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self.call = call
        self.result: Any = None

    async def invoke(self, stub: shim.ChaincodeStub) -> None:
        result = self.call(stub)
        if isinstance(result, shim.Results):
            result = [record async for record in result]
        elif hasattr(result, "__await__"):
            result = await result
        self.result = result


class SyncCalls(Calls):
    """The same as a plain function."""

    def invoke(self, stub: shim.SyncChaincodeStub) -> None:  # type: ignore[override]
        result = self.call(stub)
        self.result = list(result) if isinstance(result, shim.SyncResults) else result
