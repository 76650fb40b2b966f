"""The server alone, with real sockets: clients of every kind, and its own end."""

from __future__ import annotations

import http.client
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from peer.config.values import split_address
from peer.operations import http as server
from peer.operations.http import open_http
from peer.operations.messages import Answer, Request

CLOSED = b""


class Site:
    """Echoes what is asked, unless a test wants otherwise."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[Request] = []
        self.answer = Answer(200, b"hello")
        self.hold = trio.Event()
        self.hold.set()
        self._asked = trio.Semaphore(0)

    async def respond(self, request: Request) -> Answer:
        self.requests.append(request)
        self._asked.release()
        await self.hold.wait()
        if request.path == "/bug":
            raise ZeroDivisionError("a bug")
        return self.answer

    async def asked(self, count: int) -> None:
        """Return once so many requests more are being answered."""
        with trio.fail_after(30):
            for _ in range(count):
                await self._asked.acquire()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*split_address(self.address))

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, bytes]:
        """Ask with the standard library's client."""

        def asked() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(*split_address(self.address), timeout=30)
            try:
                connection.request(method, path, body, headers)  # type: ignore[arg-type]  # any body
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        return await trio.to_thread.run_sync(asked)

    async def say(self, *parts: bytes) -> bytes:
        """Send bytes as they are and return all that comes back until the end."""
        async with await self.connect() as stream:
            for part in parts:
                await stream.send_all(part)
            return await everything(stream)


async def everything(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    with trio.fail_after(30):
        while chunk := await stream.receive_some():
            received += chunk
    return bytes(received)


@asynccontextmanager
async def opened() -> AsyncIterator[Site]:
    site = Site()
    async with open_http(site.respond, host="127.0.0.1", port=0) as site.address:
        yield site


# Requests


async def test_a_request_is_what_the_client_sent() -> None:
    async with opened() as site:
        assert await site.ask("PUT", "/logspec?x=1", b"body") == (200, b"hello")
        assert site.requests == [Request("PUT", "/logspec", b"body", False)]


async def test_a_body_in_chunks() -> None:
    async with opened() as site:
        assert await site.ask("PUT", "/", iter([b"one", b"two"])) == (200, b"hello")
        assert site.requests[0].body == b"onetwo"


async def test_a_client_that_waits_to_be_asked_for_its_body() -> None:
    async with opened() as site, await site.connect() as stream:
        await stream.send_all(
            b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"body")
        assert (await everything(stream)).startswith(b"HTTP/1.1 200 ")
        assert site.requests[0].body == b"body"


async def test_a_head_without_the_body() -> None:
    async with opened() as site:
        assert await site.ask("HEAD", "/") == (200, b"")


async def test_an_answer_without_content() -> None:
    async with opened() as site:
        site.answer = Answer(204)
        assert await site.ask("PUT", "/") == (204, b"")


async def test_one_request_a_connection() -> None:
    async with opened() as site:
        request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
        answered = await site.say(request + request)
        assert answered.count(b"HTTP/1.1 200 ") == 1
        assert b"connection: close" in answered.lower()
        assert len(site.requests) == 1


async def test_http_1_0() -> None:
    async with opened() as site:
        assert (await site.say(b"GET / HTTP/1.0\r\n\r\n")).endswith(b"hello")


# Trouble of the client's making


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # whom does it mean?
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 6\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /" + b"a" * (server.MAX_HEAD_BYTES + 1000), 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 10_000, 431),
    ],
)
async def test_what_is_no_request_is_refused(sent: bytes, status: int) -> None:
    async with opened() as site:
        answered = await site.say(sent)
        assert answered.startswith(f"HTTP/1.1 {status} ".encode()), answered
        assert site.requests == []
        assert await site.ask("GET", "/") == (200, b"hello")


async def test_a_body_that_is_too_large_is_refused_though_more_is_coming() -> None:
    async with opened() as site:
        body = bytes(4 * server.MAX_BODY_BYTES)
        assert await site.ask("PUT", "/", body) == (413, b"")
        assert await site.ask("PUT", "/", iter([body])) == (413, b"")
        assert await site.ask("PUT", "/", bytes(server.MAX_BODY_BYTES)) == (200, b"hello")
        assert len(site.requests) == 1


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
async def test_who_leaves_early_is_no_trouble(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as site:
        for _ in range(10):
            async with await site.connect() as stream:
                await stream.send_all(sent)
        assert await site.ask("GET", "/") == (200, b"hello")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_who_does_not_say_what_it_wants_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.2)
    async with opened() as site, await site.connect() as silent, await site.connect() as slow:
        await slow.send_all(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
        assert await everything(silent) == CLOSED
        assert await everything(slow) == CLOSED
        assert site.requests == []


async def test_who_does_not_take_the_answer_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_S", 0.2)
    monkeypatch.setattr(server, "GRACE_S", 1000.0)
    with trio.fail_after(30):
        async with opened() as site:
            site.answer = Answer(200, bytes(1 << 26))
            stream = await site.connect()
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await site.asked(1)
        # Leaving waits for answers, so this one has been given up.
    await stream.aclose()


async def test_a_crowd_of_silent_clients_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 1000.0)
    async with opened() as site:
        crowd = [await site.connect() for _ in range(2 * server.MAX_CONNECTIONS)]
        assert await site.ask("GET", "/") == (200, b"hello")
        assert await everything(crowd[0]) == CLOSED, "the oldest has made room"
        with trio.move_on_after(0.05) as limit:
            await crowd[-1].receive_some()
        assert limit.cancelled_caught, "the youngest still has its time"
        for stream in crowd:
            await stream.aclose()


async def test_who_is_being_answered_makes_no_room(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as site:
        site.hold = trio.Event()
        crowd = [await site.connect() for _ in range(server.MAX_CONNECTIONS)]
        for stream in crowd:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await site.asked(len(crowd))
        async with await site.connect() as late:
            assert await everything(late) == CLOSED
        assert f"connection refused: {len(crowd)} are being answered" in caplog.text
        site.hold.set()
        for stream in crowd:
            assert (await everything(stream)).endswith(b"hello")
            await stream.aclose()


# Its own trouble, and its end


async def test_a_bug_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as site:
        assert await site.ask("GET", "/bug") == (500, b"")
        assert await site.ask("GET", "/") == (200, b"hello")
    assert "GET /bug failed" in caplog.text


async def test_leaving_finishes_answers_and_waits_for_nobody_else() -> None:
    async with trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def read(stream: trio.SocketStream) -> None:
            async with stream:
                answers.append(await everything(stream))
            site.hold.set()  # by the silent one: it is gone, so leaving has begun

        async with opened() as site:
            site.hold = trio.Event()
            silent, asking = await site.connect(), await site.connect()
            await asking.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await site.asked(1)
            nursery.start_soon(read, asking)
            nursery.start_soon(read, silent)
        with pytest.raises(OSError, match="failed"):
            await site.connect()
    assert answers[0] == CLOSED
    assert answers[1].endswith(b"hello")


async def test_an_answer_that_never_comes_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "GRACE_S", 0.1)
    with trio.fail_after(30):
        async with opened() as site:
            site.hold = trio.Event()
            stream = await site.connect()
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await site.asked(1)
        assert await everything(stream) == CLOSED
        await stream.aclose()


async def test_cancelled_it_ends_at_once() -> None:
    with trio.CancelScope() as scope:
        async with opened() as site:
            site.hold = trio.Event()
            stream = await site.connect()
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await site.asked(1)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert await everything(stream) == CLOSED
    await stream.aclose()


async def test_a_taken_address_is_an_error() -> None:
    async with opened() as site:
        host, port = split_address(site.address)
        with pytest.raises(OSError, match="in use"):
            async with open_http(site.respond, host=host, port=port):
                pytest.fail("opened")
