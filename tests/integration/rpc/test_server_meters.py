"""Calls over real connections are counted with how they ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from peer.errors import CallFailed, CallRefused, Code
from peer.metrics import GrpcMeters, Registry
from peer.remote import Endpoint
from peer.rpc.client import GrpcConnection, dial
from peer.rpc.loop import open_loop
from peer.rpc.server import Limits, Server
from peer.services.api import Caller, Requests, Send, Streaming, Unary

ECHO, CHAT = "/test.Test/Echo", "/test.Test/Chat"


async def echo(request: bytes, caller: Caller) -> bytes:
    if request == b"refuse":
        raise CallRefused(Code.NOT_FOUND, "no")
    if request == b"wait":
        await trio.sleep_forever()
    return request


async def chat(requests: Requests, send: Send, caller: Caller) -> None:
    async for request in requests:
        await send(request)
        await send(request)


METHODS = [
    Unary(path=ECHO, decode=bytes, call=echo, encode=bytes),
    Streaming(path=CHAT, decode=bytes, call=chat, encode=bytes),
]


class Site:
    """A server and a client of it."""

    def __init__(self, connection: GrpcConnection, counted: Registry) -> None:
        self.connection = connection
        self._counted = counted

    def count(self, name: str, method: str = "Echo", **labels: str) -> float | None:
        return self._counted.value(
            f"grpc_server_{name}", service="test_Test", method=method, **labels
        )


@asynccontextmanager
async def opened(registry: Registry) -> AsyncIterator[Site]:
    limits = Limits(concurrency={"/test.Test": 1})
    server = Server(METHODS, limits=limits, meters=GrpcMeters(registry))
    async with (
        open_loop(),
        server.listen("127.0.0.1", 0) as address,
        dial(Endpoint(address)) as connection,
    ):
        yield Site(connection, registry)


async def test_calls_are_counted_with_their_codes() -> None:
    registry = Registry()
    async with opened(registry) as site:
        call = site.connection.unary
        assert await call(ECHO, b"hello") == b"hello"
        with pytest.raises(CallFailed):
            await call(ECHO, b"refuse")
        with pytest.raises(CallFailed):
            await call(ECHO, b"wait", timeout_s=0.05)
        assert site.count("unary_requests_received") == 3
        for code in ("OK", "NotFound"):
            assert site.count("unary_requests_completed", code=code) == 1
            assert site.count("unary_request_duration_count", code=code) == 1
        assert registry.value("grpc_comm_conn_opened") == 1
        assert registry.value("grpc_comm_conn_closed") == 0
    ended = ("DeadlineExceeded", "Canceled")  # whose clock was first
    assert sum(site.count("unary_requests_completed", code=code) or 0 for code in ended) == 1
    assert registry.value("grpc_comm_conn_closed") == 1


async def test_messages_of_a_stream_are_counted_as_they_come() -> None:
    async with opened(Registry()) as site:
        async with site.connection.stream(CHAT) as stream:
            answers = aiter(stream)
            for text in (b"one", b"two"):
                await stream.send(text)
                assert [await anext(answers), await anext(answers)] == [text, text]
            assert site.count("stream_messages_received", "Chat") == 2
            assert site.count("stream_messages_sent", "Chat") == 4
            assert site.count("stream_requests_received", "Chat") == 1
            with pytest.raises(CallFailed, match="concurrency limit"):
                await site.connection.unary(ECHO, b"too many")
            assert site.count("unary_requests_completed", code="ResourceExhausted") == 1
            await stream.end()
            assert [message async for message in answers] == []
        assert site.count("stream_requests_completed", "Chat", code="OK") == 1
