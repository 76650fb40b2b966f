"""A server on a real socket, and Google's client library in a thread."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
import trio

from peer.chaincode.certificates import CertificateAuthority
from peer.errors import CallRefused, Code, ErrorDetail
from peer.rpc.http2_server import ServerProtocol
from peer.rpc.loop import open_loop
from peer.rpc.served_stream import ServedStream
from peer.rpc.server import Limits, Server
from peer.services.api import Caller, Method, Requests, Send, Streaming, Unary

T = TypeVar("T")

SERVICE = "test.Service"
MEGABYTE = 1 << 20


class Service:
    """What the tests call, and what it saw.

    Attributes:
        waiting: how many calls of `wait` have begun and not ended.
        began: a call of `wait` has begun.
        ended: a call of `wait` or `listen` has ended, by whatever way.
        go: lets `wait` answer.
    """

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.waiting = 0
        self.began = trio.Event()
        self.ended = trio.Event()
        self.go = trio.Event()

    async def echo(self, request: bytes, caller: Caller) -> bytes:
        self.callers.append(caller)
        return request

    async def refuse(self, request: bytes, _: Caller) -> bytes:
        details = (ErrorDetail("peer0:7051", "Org1MSP", "because"), ErrorDetail("", "", "and so"))
        raise CallRefused(Code.ABORTED, request.decode(), details)

    async def fail(self, request: bytes, _: Caller) -> bytes:
        raise RuntimeError("a secret")

    async def wait(self, request: bytes, _: Caller) -> bytes:
        self.waiting += 1
        self.began.set()
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1
            self.ended.set()
        return request

    async def fill(self, request: bytes, _: Caller) -> bytes:
        return bytes(int(request))

    async def chat(self, requests: Requests, send: Send, _: Caller) -> None:
        async for request in requests:
            await send(request)

    async def listen(self, requests: Requests, send: Send, _: Caller) -> None:
        try:
            async for request in requests:
                await send(request)
                await trio.sleep_forever()
        finally:
            self.ended.set()

    async def flood(self, requests: Requests, send: Send, _: Caller) -> None:
        """Send megabytes until the caller is gone; `waiting` counts them."""
        async for _request in requests:
            self.began.set()
            try:
                while True:
                    await send(bytes(MEGABYTE))
                    self.waiting += 1
            finally:
                self.ended.set()

    def methods(self) -> Sequence[Method]:
        def only_text(data: bytes) -> bytes:
            return data

        unary = (self.echo, self.refuse, self.fail, self.wait, self.fill)
        streaming = ((self.chat, False), (self.listen, True), (self.flood, True))
        return [
            *(Unary(path=path(call), decode=only_text, call=call, encode=bytes) for call in unary),
            *(
                Streaming(
                    path=path(call), decode=only_text, call=call, encode=bytes, is_endless=endless
                )
                for call, endless in streaming
            ),
        ]


def path(call: Callable[..., object]) -> str:
    return f"/{SERVICE}/{call.__name__}"


@pytest.fixture(params=[True, False], ids=["past h2", "through h2"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, their requests and their answers take either way."""
    if not request.param:
        monkeypatch.setattr(ServerProtocol, "take_frame", lambda *frame: False)
        monkeypatch.setattr(ServedStream, "respond", lambda stream, message: False)


@pytest.fixture
def service() -> Service:
    return Service()


@asynccontextmanager
async def serving(
    methods: Sequence[Method], *, tls: ssl.SSLContext | None = None, **limits: Any
) -> AsyncIterator[str]:
    """Hold a server with a loop of its own; yields its address."""
    async with open_loop():
        server = Server(methods, tls=tls, limits=Limits(**limits))
        async with server.listen("127.0.0.1", 0) as address:
            yield address


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call failed, as Google's library tells it."""

    code: grpc.StatusCode
    text: str
    trailers: dict[str, Any]


class GoogleClient:
    """Google's client in threads of its own."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    async def unary(self, name: str, request: bytes = b"", **options: Any) -> bytes:
        method = self.channel.unary_unary(name if "/" in name else f"/{SERVICE}/{name}")
        return await in_thread(partial(method, request, **options))

    async def stream(self, name: str, *requests: bytes, **options: Any) -> list[bytes]:
        method = self.channel.stream_stream(name if "/" in name else f"/{SERVICE}/{name}")
        return await in_thread(lambda: list(method(iter(requests), **options)))

    async def failure(self, name: str, request: bytes = b"", **options: Any) -> Ended:
        """Return how a unary call fails."""
        with pytest.raises(grpc.RpcError) as info:
            await self.unary(name, request, **options)
        return ended(info.value)


def ended(error: Any) -> Ended:
    trailers = dict(error.trailing_metadata() or ())
    return Ended(error.code(), error.details(), trailers)


async def in_thread(call: Callable[[], T]) -> T:
    """Run a blocking call; the test does not wait for it for ever."""
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


@asynccontextmanager
async def google_client(
    address: str, credentials: grpc.ChannelCredentials | None = None, **options: Any
) -> AsyncIterator[GoogleClient]:
    """Hold a connection of Google's client; options are its ``grpc.`` arguments."""
    arguments = [(f"grpc.{name}", value) for name, value in options.items()]
    arguments += [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    arguments += [("grpc.use_local_subchannel_pool", 1)]  # each with a connection of its own
    if credentials is None:
        channel = grpc.insecure_channel(address, options=arguments)
    else:
        channel = grpc.secure_channel(address, credentials, options=arguments)
    try:
        yield GoogleClient(channel)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(channel.close)


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


@pytest.fixture
def memory() -> Callable[[], int]:
    """Return what tells how many bytes of memory this process has, more than at first."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * 4096

    first = resident()
    return lambda: resident() - first
