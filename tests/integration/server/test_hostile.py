"""Clients that mean harm, or are broken: they are sent away, and nobody else notices."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest
import trio
from hpack import Encoder
from trio.testing import wait_all_tasks_blocked

from peer.services.api import Streaming, Unary
from tests.integration.rpc import raw
from tests.integration.server.conftest import (
    MEGABYTE,
    GoogleClient,
    Service,
    google_client,
    in_thread,
    path,
    serving,
)

pytestmark = pytest.mark.usefixtures("both_ways")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, HEADERS, CONTINUATION, DATA = 4, 6, 1, 9, 0
FRAME_SIZE_ERROR, ENHANCE_YOUR_CALM = 6, 11
HONEST_CALLS = 20


async def read_to_the_end(stream: trio.SocketStream) -> bytes:
    """Read until the server closes the connection."""
    found = b""
    with trio.fail_after(20):
        try:
            while data := await stream.receive_some(1 << 16):
                found += data
        except trio.BrokenResourceError:
            pass
    return found


async def honest(client: GoogleClient) -> None:
    """Make calls that must all be answered."""
    for number in range(HONEST_CALLS):
        assert await client.unary("echo", str(number).encode(), timeout=20) == str(number).encode()


@asynccontextmanager
async def hello(address: str, *, receive_bytes: int = 0) -> AsyncIterator[trio.SocketStream]:
    """Connect and say that this end speaks HTTP/2, and no more."""
    host, _, port = address.rpartition(":")
    sock = trio.socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await sock.connect((host, int(port)))
    async with trio.SocketStream(sock) as stream:
        await stream.send_all(PREFACE + raw.h2_frame(SETTINGS, 0, b""))
        yield stream


async def test_who_says_nothing_is_dropped(service: Service) -> None:
    async with serving(service.methods(), begin_s=0.1) as address:
        async with await raw.dial(address) as stream:
            await read_to_the_end(stream)
        async with hello(address) as stream:  # may stay as long as it likes
            with trio.move_on_after(0.5) as waited:
                while await stream.receive_some():
                    pass
            assert waited.cancelled_caught


@pytest.mark.parametrize("seed", range(5))
async def test_garbage(service: Service, seed: int) -> None:
    noise = random.Random(seed)
    async with serving(service.methods(), begin_s=0.2) as address, google_client(address) as client:
        async with await raw.dial(address) as stream:
            await stream.send_all(noise.randbytes(10_000))
            await read_to_the_end(stream)
        async with hello(address) as stream:
            try:
                for _ in range(2000):
                    size = noise.randrange(64)
                    frame = raw.h2_frame(
                        noise.randrange(12),
                        noise.randrange(8),
                        noise.randbytes(size),
                        noise.randrange(256),
                    )
                    await stream.send_all(frame)
            except trio.BrokenResourceError:
                pass
            await read_to_the_end(stream)
        await honest(client)


async def test_a_header_list_without_end(service: Service) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        async with hello(address) as stream:
            try:
                await stream.send_all(raw.h2_frame(HEADERS, 1, b"\0" * 16_384))
                for _ in range(1000):
                    await stream.send_all(raw.h2_frame(CONTINUATION, 1, b"\0" * 16_384))
            except trio.BrokenResourceError:
                pass
            await read_to_the_end(stream)
        await honest(client)


@pytest.mark.parametrize("name", [b":path", b"grpc-timeout"])
async def test_long_headers_are_not_sent_back_in_whole(service: Service, name: bytes) -> None:
    """A few bytes would make the server pack many times as many, again and again."""
    fields = [(":method", "POST"), (":path", path(service.echo)), (name, b"/\xff" * 30_000)]
    block = Encoder().encode([*fields, ("content-type", "application/grpc")], huffman=False)
    async with serving(service.methods()) as address, google_client(address) as client:
        async with hello(address) as stream:
            pieces = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
            await stream.send_all(raw.h2_frame(HEADERS, 1, pieces[0], flags=1))
            for piece in pieces[1:]:
                flags = 4 if piece is pieces[-1] else 0
                await stream.send_all(raw.h2_frame(CONTINUATION, 1, piece, flags))
            await stream.send_all(raw.h2_frame(PING, 0, bytes(8)))
            answer, pong = b"", raw.h2_frame(PING, 0, bytes(8), flags=1)
            with trio.fail_after(20):
                while pong not in answer:
                    answer += await stream.receive_some()
        assert b"grpc-status" in answer
        assert len(answer) < 32_768
        await honest(client)


async def test_frames_that_are_too_large_are_not_waited_for(service: Service) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        for kind in (SETTINGS, HEADERS, DATA):
            async with hello(address) as stream:
                await stream.send_all(raw.h2_frame(kind, 1, bytes(16_385))[:9])
                assert raw.goaway(FRAME_SIZE_ERROR, 0) in await read_to_the_end(stream)
        await honest(client)


async def test_ten_thousand_streams(service: Service, memory: Callable[[], int]) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        async with raw.client(address) as many:
            many.h2.remote_settings.max_concurrent_streams = 10_000
            many.h2.remote_settings.acknowledge()
            try:
                for _ in range(10_000):
                    await many.call(path(service.wait))
                    await many.send_data(raw.frame(b"x"), end=True)
            except trio.BrokenResourceError:
                many.closed = True
            await many.until_closed()
            assert service.began.is_set()
        await honest(client)
        assert service.waiting == 0
        assert memory() < 100 * MEGABYTE


async def test_who_takes_back_what_it_calls_is_sent_away(
    service: Service, memory: Callable[[], int]
) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        async with raw.client(address) as fickle:
            try:
                for _ in range(10_000):
                    await fickle.call(path(service.wait))
                    fickle.h2.reset_stream(fickle.stream_id)
            except trio.BrokenResourceError:
                pass
            await fickle.until_closed()
            assert fickle.goaway in (ENHANCE_YOUR_CALM, None)  # the rest may overtake it
        await honest(client)
        assert memory() < 100 * MEGABYTE


async def test_calls_may_be_taken_back_among_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.rpc.http2_server.RESETS", 2)
    async with serving(service.methods()) as address, raw.client(address) as client:
        for number in range(1, 10):
            await client.call(path(service.wait))
            client.h2.reset_stream(client.stream_id)
            await client.call(path(service.echo))
            await client.send_data(raw.frame(b"x"), end=True)
            assert await client.messages(1) == [b"x"], number
        for _ in range(3):
            await client.call(path(service.wait))
            client.h2.reset_stream(client.stream_id)
        await client.flush()
        await client.until_closed()
        assert client.goaway == ENHANCE_YOUR_CALM


async def test_a_call_that_was_waited_for_may_be_taken_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.rpc.http2_server.RESETS", 0)
    monkeypatch.setattr("peer.rpc.http2_server.RESET_S", 0.0)
    async with serving(service.methods()) as address, raw.client(address) as client:
        await client.call(path(service.wait))
        client.h2.reset_stream(client.stream_id)
        await client.call(path(service.echo))
        await client.send_data(raw.frame(b"x"), end=True)
        assert await client.messages(1) == [b"x"]


async def test_who_pings_too_often_is_sent_away(service: Service) -> None:
    async with serving(service.methods(), min_ping_s=3600) as address:
        async with raw.client(address) as client:
            for _ in range(4):
                await client.send_frame(PING, 0, bytes(8))
            await client.until_closed()
            assert client.goaway == ENHANCE_YOUR_CALM
        async with raw.client(address) as client:  # to measure, after an answer, is no offence
            for number in range(1, 6):
                await client.send_frame(PING, 0, bytes(8))
                await client.call(path(service.echo))
                await client.send_data(raw.frame(b"x"), end=True)
                assert await client.messages(1) == [b"x"]
                assert client.goaway is None, number


async def test_who_does_not_answer_pings_is_dropped(service: Service) -> None:
    async with (
        serving(service.methods(), ping_s=0.2, ping_timeout_s=0.2) as address,
        google_client(address) as alive,
        hello(address) as dead,
    ):
        listening = alive.channel.stream_stream(path(service.listen))(iter([b"x"]))
        assert await in_thread(partial(next, listening)) == b"x"
        await read_to_the_end(dead)
        assert not service.ended.is_set()
        listening.cancel()


async def test_who_never_reads_is_dropped(service: Service, memory: Callable[[], int]) -> None:
    async with (
        serving(service.methods(), ping_timeout_s=1) as address,
        google_client(address) as client,
        trio.open_nursery() as nursery,
        hello(address, receive_bytes=4096) as deaf,
    ):
        helper = raw.RawPeer(deaf, client=True)
        helper.h2.initiate_connection()
        helper.h2.data_to_send()  # `hello` has said that
        await deaf.send_all(
            raw.h2_frame(8, 0, (raw.WINDOW - 65535).to_bytes(4, "big"))
            + raw.h2_frame(SETTINGS, 0, b"\0\4" + raw.WINDOW.to_bytes(4, "big"))
        )
        await helper.call(path(service.flood))
        await helper.send(b"x")
        nursery.start_soon(honest, client)
        with trio.fail_after(30):
            await service.ended.wait()
        assert memory() < 100 * MEGABYTE


async def test_who_makes_the_server_talk_and_does_not_listen(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.rpc.http2_server.MAX_BACKLOG_BYTES", 10_000)
    async with serving(service.methods()) as address, google_client(address) as client:
        async with hello(address, receive_bytes=4096) as deaf:
            helper = raw.RawPeer(deaf, client=True)
            helper.h2.initiate_connection()
            helper.h2.data_to_send()
            with trio.fail_after(60):
                try:
                    while True:
                        await helper.call("/no.Such/Method")
                        helper.h2.reset_stream(helper.stream_id)
                except trio.BrokenResourceError:
                    pass
        await honest(client)


async def test_a_request_that_takes_long_to_read_holds_up_no_other(service: Service) -> None:
    entered, go = threading.Event(), threading.Event()

    def slowly(data: bytes) -> bytes:
        entered.set()
        assert go.wait(30)
        return data

    slow = [
        Unary(path="/test.Slow/echo", decode=slowly, call=service.echo, encode=bytes),
        Streaming(path="/test.Slow/chat", decode=slowly, call=service.chat, encode=bytes),
    ]
    large = bytes(MEGABYTE)
    async with (
        serving([*service.methods(), *slow]) as address,
        google_client(address) as client,
        google_client(address) as evil,
    ):
        for kind in (evil.channel.unary_unary, evil.channel.stream_unary):
            is_unary = kind == evil.channel.unary_unary
            entered.clear()
            go.clear()
            name = "/test.Slow/echo" if is_unary else "/test.Slow/chat"
            pending = kind(name).future(large if is_unary else iter([large]))
            await in_thread(entered.wait)
            await honest(client)
            go.set()
            assert await in_thread(pending.result) == large


async def test_a_request_byte_by_byte(service: Service) -> None:
    async with (
        serving(service.methods()) as address,
        google_client(address) as client,
        raw.client(address) as slow,
        trio.open_nursery() as nursery,
    ):
        await slow.call(path(service.echo))
        nursery.start_soon(honest, client)
        for byte in raw.h2_frame(DATA, slow.stream_id, raw.frame(b"slowly"), flags=1):
            await slow.transport.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
        assert await slow.messages(1) == [b"slowly"]


async def test_idle_connections_make_room(service: Service) -> None:
    async with serving(service.methods(), connections=3) as address:

        async def busy(client: raw.RawPeer) -> None:
            service.began = trio.Event()
            await client.call(path(service.wait))
            await client.send_data(raw.frame(b"x"), end=True)
            await service.began.wait()

        async with (
            raw.client(address) as first,
            raw.client(address) as idle,
            raw.client(address) as third,
        ):
            await busy(first)
            await _answers(idle, service)
            await _answers(third, service)
            async with raw.client(address) as fourth:
                await idle.until_closed()
                assert idle.goaway == 0
                await busy(fourth)
                await busy(third)
                async with await raw.dial(address) as fifth:
                    await read_to_the_end(fifth)
                service.go.set()
                for client in (first, third, fourth):
                    assert await client.messages(1) == [b"x"]


async def test_who_has_never_called_makes_room_first(service: Service) -> None:
    async with (
        serving(service.methods(), connections=3) as address,
        raw.client(address) as useful,
    ):
        await _answers(useful, service)
        async with hello(address) as silent, await raw.dial(address) as mute:
            await wait_all_tasks_blocked(0.05)
            async with raw.client(address) as second:
                await read_to_the_end(silent)  # before the mute one, which came later
                await _answers(second, service)
                async with raw.client(address) as third:
                    await read_to_the_end(mute)
                    await _answers(third, service)
                    async with raw.client(address) as fourth:  # now the one idle longest goes
                        await useful.until_closed()
                        for client in (second, third, fourth):
                            await _answers(client, service)


async def test_connections_without_a_request_make_room(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.rpc.calls.STANDSTILL_S", 0.0)
    async with (
        serving(service.methods(), connections=2) as address,
        await raw.dial(address) as silent,
        raw.client(address) as asks_nothing,
    ):
        await asks_nothing.call(path(service.chat))
        await asks_nothing.send_data(raw.frame(b"never whole")[:-1])
        await wait_all_tasks_blocked(0.05)
        async with raw.client(address) as first:
            await read_to_the_end(silent)
            await first.call(path(service.chat))
            await first.send(b"1")
            assert await first.messages(1) == [b"1"]
            async with raw.client(address) as second:
                await asks_nothing.until_closed()
                await _answers(second, service)
            await first.send(b"2")
            assert await first.messages(1) == [b"2"]


async def test_nobody_waits_for_those_who_have_left(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.rpc.accepted.PER_S", 1.0)
    monkeypatch.setattr("peer.rpc.accepted.BURST", 2)
    async with serving(service.methods()) as address:
        host, _, port = address.rpartition(":")
        for _ in range(100):  # the server has no turn in between
            socket.create_connection((host, int(port))).close()
        with trio.fail_after(20):
            async with raw.client(address) as client:
                await _answers(client, service)


async def _answers(client: raw.RawPeer, service: Service) -> None:
    await client.call(path(service.echo))
    await client.send_data(raw.frame(b"y"), end=True)
    assert await client.messages(1) == [b"y"]


async def test_a_request_that_was_taken_is_still_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.rpc.calls.STANDSTILL_S", 0.0)
    async with (
        serving(service.methods(), held=8 * MEGABYTE) as address,
        google_client(address) as client,
    ):
        listening = []
        for number in range(10):  # each would keep its request as long as it listens
            call = client.channel.stream_stream(path(service.listen))(iter([bytes(7 * MEGABYTE)]))
            listening.append(call)
            assert len(await in_thread(partial(next, call))) == 7 * MEGABYTE, number
        await wait_all_tasks_blocked(0.05)
        assert [call.is_active() for call in listening] == [False] * 9 + [True]
        for call in listening[:-1]:
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await honest(client)
        listening[-1].cancel()


async def test_requests_that_never_come_to_an_end_make_room(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.rpc.calls.STANDSTILL_S", 0.0)
    async with (
        serving(service.methods(), held=MEGABYTE) as address,
        google_client(address) as client,
        raw.client(address) as slow,
    ):
        for number in (3, 2, 1):
            await slow.call(path(service.echo))
            await slow.send_data(raw.frame(bytes(MEGABYTE))[: MEGABYTE // 3 - number])
        await wait_all_tasks_blocked(0.05)
        assert await client.unary("echo", bytes(MEGABYTE // 8)) == bytes(MEGABYTE // 8)
        assert await slow.status() == (8, "the server has too many requests; others go first")
        await honest(client)


async def test_calls_without_a_request_make_room(service: Service) -> None:
    async with (
        serving(service.methods(), calls=3) as address,
        google_client(address) as client,
        raw.client(address) as idle,
    ):
        for _ in range(5):
            await idle.call(path(service.chat))
        await honest(client)
        pending = []
        for _ in range(3):
            service.began = trio.Event()
            pending.append(client.channel.unary_unary(path(service.wait)).future(b"x"))
            await service.began.wait()
        failure = await client.failure("echo", b"x")
        assert (failure.code, failure.text) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "too many calls at once",
        )
        service.go.set()
        for call in pending:
            assert await in_thread(call.result) == b"x"
        await honest(client)


async def test_streams_without_a_request_take_no_place(service: Service) -> None:
    async with (
        serving(service.methods(), concurrency={"/test.Service": 1}) as address,
        google_client(address) as client,
        raw.client(address) as idle,
    ):
        await idle.call(path(service.chat))
        await wait_all_tasks_blocked(0.05)
        await honest(client)
        await idle.send(b"x")
        assert await idle.messages(1) == [b"x"]
        failure = await client.failure("echo", b"x")
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
