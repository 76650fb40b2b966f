"""The peer's end on real sockets, with grpclib's own public streams."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from grpclib.client import Channel, StreamStreamMethod
from grpclib.const import Cardinality
from grpclib.const import Handler as Method
from grpclib.encoding.base import CodecBase
from grpclib.server import Server

from shim.transport import Http2
from tests.unit.shim.scripted_peer import LIMIT_S, ScriptedPeer

REGISTER = "/protos.ChaincodeSupport/Register"
CONNECT = "/protos.Chaincode/Connect"


class RawCodec(CodecBase):
    """Messages are bytes."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return bytes(data)


class GrpclibDuplex:
    """A duplex on a grpclib stream of either side."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()

    def send(self, data: bytes) -> None:
        self.outgoing.put_nowait(data)

    def close(self) -> None:
        self.outgoing.put_nowait(None)

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        reader = asyncio.create_task(self._read(on_message))
        try:
            while (data := await self.outgoing.get()) is not None:
                await self.stream.send_message(data)
        finally:
            reader.cancel()
        if reader.done():
            reader.result()

    async def _read(self, on_message: Callable[[bytes], None]) -> None:
        try:
            while (data := await self.stream.recv_message()) is not None:
                on_message(data)
        finally:
            self.close()


Script = Callable[[ScriptedPeer], Awaitable[None]]


class Waitable(Server):
    """A server whose connections can be waited for, so that no test leaves a socket."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.protocols: list[Http2] = []

    def _protocol_factory(self) -> Http2:
        handler = super()._protocol_factory().handler
        self.protocols.append(Http2(handler, self._config, self._h2_config))
        return self.protocols[-1]


class ListeningPeer:
    """Serves ``ChaincodeSupport/Register`` with a script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.done = asyncio.Event()

    def __mapping__(self) -> dict[str, Method]:
        return {REGISTER: Method(self._register, Cardinality.STREAM_STREAM, bytes, bytes)}

    async def _register(self, stream: Any) -> None:
        try:
            async with ScriptedPeer(GrpclibDuplex(stream)) as peer:
                await self._script(peer)
        finally:
            self.done.set()

    @asynccontextmanager
    async def listening(
        self, *, path: str = "", tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[str]:
        """Listen on a free port, or a path; give the address."""
        server = Waitable([self], codec=RawCodec())
        if path:
            await server.start(path=path, ssl=tls)
            address = f"unix://{path}"
        else:
            await server.start("localhost", 0, ssl=tls)
            listener = server._server
            assert isinstance(listener, asyncio.Server)
            address = f"localhost:{listener.sockets[0].getsockname()[1]}"
        try:
            yield address
        finally:
            server.close()
            for connection in list(server._handlers):
                await connection.wait_closed()
            for protocol in server.protocols:
                await protocol.shut(LIMIT_S)


@asynccontextmanager
async def dialled(
    port: int = 0, *, path: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedPeer]:
    """Open ``Chaincode/Connect`` as a peer does."""
    where = {"path": path} if path else {"host": "localhost", "port": port}
    async with Channel(codec=RawCodec(), ssl=tls, **where) as channel:  # type: ignore[arg-type]
        method = StreamStreamMethod(channel, CONNECT, bytes, bytes)
        async with method.open() as stream:
            await stream.send_request()
            async with ScriptedPeer(GrpclibDuplex(stream)) as peer:
                yield peer
            await stream.end()
