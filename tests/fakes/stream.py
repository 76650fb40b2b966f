"""The other side of the peer's streams, played by the test.

Room:      tests.fakes   (imports peer.chaincode.stream and connections, fabric_protos)
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeId,
    ChaincodeMessage,
    ChaincodeMessageType,
    Response,
)
from peer.chaincode.connections import ChaincodeServerInfo, ConnectionFailed, Endpoint, Serve
from peer.chaincode.stream import MemoryStream, PeerEnd, StreamClosed, StreamRefused, memory_pipe
from runtimes.api import Origin

Type = ChaincodeMessageType


class FakeChaincode:
    """A chaincode whose every message the test decides; `run` collects what the peer sends."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.ended = trio.Event()
        self._inbox_in, self._inbox = trio.open_memory_channel[bytes](100_000)

    async def run(self) -> None:
        """Collect messages until the stream ends."""
        try:
            await self.stream.run(self._inbox_in.send_nowait)
        except StreamClosed:
            pass
        finally:
            self._inbox_in.close()
            self.ended.set()

    def send(
        self,
        kind: int,
        payload: bytes = b"",
        *,
        tx: str = "",
        channel: str = "",
        event: ChaincodeEvent | None = None,
    ) -> None:
        message = ChaincodeMessage(
            type=kind, payload=payload, txid=tx, channel_id=channel, chaincode_event=event
        )
        self.stream.send(message.encode())

    async def receive_bytes(self) -> bytes:
        """Return the next message of the peer, within a second."""
        with trio.fail_after(1):
            return await self._inbox.receive()

    async def receive(self, kind: int | None = None) -> ChaincodeMessage:
        """Return the next message of the peer and check its type."""
        message = ChaincodeMessage.decode(await self.receive_bytes())
        if kind is not None:
            assert message.type == kind, (Type(message.type).name, message.payload)
        return message

    async def wait_for_work(self) -> ChaincodeMessage:
        """Return the next INIT or TRANSACTION, however long it takes."""
        message = ChaincodeMessage.decode(await self._inbox.receive())
        assert message.type in (Type.INIT, Type.TRANSACTION), Type(message.type).name
        return message

    def nothing_waits(self) -> bool:
        """Tell that the peer has sent no more than was received."""
        return self._inbox.statistics().current_buffer_used == 0

    async def register(self, ccid: str) -> None:
        """Go through the handshake."""
        self.send(Type.REGISTER, ChaincodeId(name=ccid).encode())
        await self.receive(Type.REGISTERED)
        await self.receive(Type.READY)

    async def ask(
        self, kind: int, payload: bytes = b"", *, tx: str = "tx1", channel: str = "ch1"
    ) -> ChaincodeMessage:
        """Send a request and return the answer, which must be of the same transaction."""
        self.send(kind, payload, tx=tx, channel=channel)
        answer = await self.receive()
        assert (answer.txid, answer.channel_id) == (tx, channel)
        return answer

    def complete(
        self,
        *,
        tx: str = "tx1",
        channel: str = "ch1",
        status: int = 200,
        payload: bytes = b"",
        message: str = "",
        event: ChaincodeEvent | None = None,
    ) -> None:
        """End a transaction with a response."""
        response = Response(status=status, payload=payload, message=message)
        self.send(Type.COMPLETED, response.encode(), tx=tx, channel=channel, event=event)

    def close(self) -> None:
        """End the stream."""
        self.stream.close()


class FakeEndpoint:
    """An open listener; the test connects to it."""

    def __init__(self, address: str, serve: Serve, streams: trio.Nursery) -> None:
        self.address = address
        self.accepting = True
        self.refusals: list[StreamRefused] = []
        self._serve = serve
        self._streams = streams

    def stop_accepting(self) -> None:
        self.accepting = False

    def connect(self, origin: Origin | None, certificate: bytes | None = None) -> FakeChaincode:
        """Come in as the process `origin`; how the stream was refused ends up in `refusals`."""
        assert self.accepting, "the listener takes nobody in any more"
        near, far = memory_pipe()
        near.far_end = PeerEnd(origin, certificate)
        chaincode = FakeChaincode(far)
        self._streams.start_soon(self._hold, near)
        self._streams.start_soon(chaincode.run)
        return chaincode

    async def _hold(self, near: MemoryStream) -> None:
        try:
            await self._serve(near)
        except StreamRefused as exc:
            self.refusals.append(exc)
        finally:
            near.close()


class FakeListeners:
    """Listeners in memory.

    Attributes:
        opened: every endpoint ever opened; `open_now` those that are.
        unix: whether a Unix socket was asked for, per endpoint.
        failure: raised instead of opening.
    """

    def __init__(self) -> None:
        self.opened: list[FakeEndpoint] = []
        self.open_now: set[FakeEndpoint] = set()
        self.unix: list[bool] = []
        self.failure: OSError | None = None

    @asynccontextmanager
    async def open(
        self, serve: Serve, *, unix: bool, host: str = "127.0.0.1", name: str = ""
    ) -> AsyncIterator[Endpoint]:
        if self.failure is not None:
            raise self.failure
        async with trio.open_nursery() as streams:
            number = len(self.opened) + 1
            address = f"unix:///fake/{number}.sock" if unix else f"{name or host}:{number}"
            endpoint = FakeEndpoint(address, serve, streams)
            self.opened.append(endpoint)
            self.unix.append(unix)
            self.open_now.add(endpoint)
            try:
                yield endpoint
            finally:
                self.open_now.discard(endpoint)
                streams.cancel_scope.cancel()


class FakeConnector:
    """Dials services the test plays.

    Attributes:
        refusing: how many dials fail before one succeeds.
        dial_s: seconds every dial takes.
        dialled: virtual time of each dial.
        services: the service's side of every stream that came about.
        on_connect: called with each of them.
    """

    def __init__(self) -> None:
        self.refusing = 0
        self.dial_s = 0.0
        self.dialled: list[float] = []
        self.services: list[FakeChaincode] = []
        self.on_connect: Callable[[FakeChaincode], None] = lambda service: None

    async def connect(self, info: ChaincodeServerInfo, serve: Serve) -> None:
        self.dialled.append(trio.current_time())
        await trio.sleep(min(self.dial_s, info.dial_timeout_s))
        if self.dial_s > info.dial_timeout_s:
            raise ConnectionFailed(f"{info.address}: no answer within the dial timeout")
        if self.refusing:
            self.refusing -= 1
            raise ConnectionFailed(f"{info.address}: connection refused")
        near, far = memory_pipe()
        service = FakeChaincode(far)
        self.services.append(service)
        async with trio.open_nursery() as both:
            both.start_soon(service.run)
            self.on_connect(service)
            try:
                await serve(near)
            except StreamRefused:
                pass
            finally:
                near.close()
            both.cancel_scope.cancel()
