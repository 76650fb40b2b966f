"""Chaincodes coming in: streams, refusals, broken clients, limits, and the end of it all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from peer.chaincode.stream import MessageStream, StreamClosed, StreamRefused
from peer.rpc.streams import GrpcStream
from runtimes.api import TcpOrigin, UnixOrigin

from .conftest import Server, listening, settle
from .raw import client, dial, frame, goaway

pytestmark = pytest.mark.usefixtures("both_ways")

OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 3, 8, 12
PERMISSION_DENIED, FAILED_PRECONDITION, INTERNAL = 7, 9, 13


@pytest.mark.parametrize("unix", [False, True])
async def test_messages_go_both_ways(served: Server, tmp_path: Path, unix: bool) -> None:
    async with listening(served, tmp_path, unix=unix) as endpoint:
        assert endpoint.address.startswith("unix://" if unix else "127.0.0.1:")
        async with client(endpoint.address) as chaincode:
            await chaincode.call()
            await chaincode.send(b"one")
            await chaincode.send(b"two", b"", b"three")
            assert await chaincode.messages(4) == [b"one", b"two", b"", b"three"]
            assert chaincode.headers["content-type"].startswith("application/grpc")
            await chaincode.send_data(frame(b"last"), end=True)
            assert await chaincode.messages(1) == [b"last"]
            assert await chaincode.status() == (OK, "")
    assert served.reasons == ["closed"]


async def test_the_far_end_is_who_the_kernel_says(served: Server, tmp_path: Path) -> None:
    async with (
        listening(served, tmp_path, unix=True) as endpoint,
        client(endpoint.address) as chaincode,
    ):
        await chaincode.call()
        await chaincode.send(b"x")
        await chaincode.messages(1)
    async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
        await chaincode.call()
        await chaincode.send(b"x")
        await chaincode.messages(1)
        assert isinstance(chaincode.transport, trio.SocketStream)
        here = chaincode.transport.socket.getsockname()
        there = chaincode.transport.socket.getpeername()
    over_unix, over_tcp = served.streams
    assert over_unix.far_end.origin == UnixOrigin(pid=os.getpid(), uid=os.getuid())
    assert over_tcp.far_end.origin == TcpOrigin(remote=here, local=there)
    assert over_tcp.far_end.certificate is None


async def test_ipv6_has_brackets(served: Server, tmp_path: Path) -> None:
    try:
        async with listening(served, tmp_path, host="::1") as endpoint:
            assert endpoint.address.startswith("[::1]:")
            async with client(endpoint.address) as chaincode:
                await chaincode.call()
                await chaincode.send(b"x")
                assert await chaincode.messages(1) == [b"x"]
    except* OSError:
        pytest.skip("no IPv6 on this machine")


async def test_what_comes_before_the_handler_reads_is_not_lost(
    served: Server, tmp_path: Path
) -> None:
    served.hold = trio.Event()
    async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
        await chaincode.call()
        await chaincode.send(b"early", b"bird")
        await settle()
        assert served.received == []
        served.hold.set()
        assert await chaincode.messages(2) == [b"early", b"bird"]


async def test_an_end_before_the_handler_reads_is_an_end(served: Server, tmp_path: Path) -> None:
    served.hold = trio.Event()
    async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
        await chaincode.call()
        await chaincode.send_data(frame(b"early"), end=True)
        await settle()
        served.hold.set()
        assert await chaincode.status() == (OK, "")
    assert served.received == [b"early"]
    assert served.reasons == ["closed"]


@pytest.mark.parametrize("early", [False, True])
async def test_empty_data_frames_mean_nothing(served: Server, tmp_path: Path, early: bool) -> None:
    if early:
        served.hold = trio.Event()
    async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
        await chaincode.call()
        chaincode.h2.send_data(chaincode.stream_id, b"")
        chaincode.h2.send_data(chaincode.stream_id, b"", pad_length=7)
        await chaincode.flush()
        await settle()
        served.hold.set()
        await chaincode.send(b"after")
        assert await chaincode.messages(1) == [b"after"]
        chaincode.h2.send_data(chaincode.stream_id, b"")
        await chaincode.send(b"again")
        assert await chaincode.messages(1) == [b"again"]


async def test_a_message_may_come_byte_by_byte(served: Server, tmp_path: Path) -> None:
    async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
        await chaincode.call()
        for byte in frame(b"slow") + frame(b"") + frame(b"er"):
            await chaincode.send_data(bytes([byte]))
        assert await chaincode.messages(3) == [b"slow", b"", b"er"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("PERMISSION_DENIED", PERMISSION_DENIED),
        ("FAILED_PRECONDITION", FAILED_PRECONDITION),
        ("INVALID_ARGUMENT", INVALID_ARGUMENT),
    ],
)
async def test_a_refusal_is_readable(
    served: Server, tmp_path: Path, code: str, status: int
) -> None:
    text = f"not [tx] with 100% {code}"

    def refuse(stream: MessageStream, data: bytes) -> None:
        stream.send(b"before")
        raise StreamRefused(code, text)

    served.answer = refuse
    async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
        await chaincode.call()
        await chaincode.send(b"x", b"y")
        assert await chaincode.messages(1) == [b"before"]
        found, message = await chaincode.status()
        assert found == status
        assert message == text.replace("%", "%25")
    assert served.received == [b"x"]


async def test_a_bug_in_the_handler_is_not_shown(served: Server, tmp_path: Path) -> None:
    async def broken(stream: MessageStream) -> None:
        raise ZeroDivisionError("secret details")

    async with (
        listening(broken, tmp_path) as endpoint,  # type: ignore[arg-type]
        client(endpoint.address) as chaincode,
    ):
        await chaincode.call()
        assert await chaincode.status() == (INTERNAL, "internal error")


async def test_a_bug_in_a_message_ends_its_stream_only(served: Server, tmp_path: Path) -> None:
    def explode(stream: MessageStream, data: bytes) -> None:
        if data == b"bomb":
            raise ZeroDivisionError("a bug")
        stream.send(data)

    served.answer = explode
    async with (
        listening(served, tmp_path) as endpoint,
        client(endpoint.address) as one,
        client(endpoint.address) as two,
    ):
        for chaincode in (one, two):
            await chaincode.call()
            await chaincode.send(b"x")
            await chaincode.messages(1)
        await one.send(b"bomb")
        assert (await one.status())[0] == INTERNAL
        await two.send(b"still here")
        assert await two.messages(1) == [b"still here"]


class TestBadMessages:
    async def test_too_large_is_refused_by_its_first_bytes(
        self, served: Server, tmp_path: Path
    ) -> None:
        async with (
            listening(served, tmp_path, limit=1000) as endpoint,
            client(endpoint.address) as chaincode,
        ):
            await chaincode.call()
            await chaincode.send(b"x" * 1000)
            assert await chaincode.messages(1) == [b"x" * 1000]
            await chaincode.send_data(frame(b"", size=1001))
            assert await chaincode.status() == (
                RESOURCE_EXHAUSTED,
                "grpc: received message larger than max (1001 vs. 1000)",
            )
        assert len(served.received) == 1

    async def test_what_follows_a_refused_message_is_not_kept(
        self, served: Server, tmp_path: Path
    ) -> None:
        """The client goes on sending: its credit is given back and its bytes are dropped."""
        async with (
            listening(served, tmp_path, limit=1000) as endpoint,
            client(endpoint.address) as chaincode,
        ):
            for _ in range(8):  # together more than the connection has credit for
                await chaincode.call()
                await chaincode.send_data(frame(b"", size=2**31))
                with suppress(StreamClosedError):  # it has heard of the refusal already
                    await chaincode.send_data(bytes(3 * 2**20))
                assert (await chaincode.status())[0] == RESOURCE_EXHAUSTED
                chaincode.ended = False
            chaincode.body.clear()
            await chaincode.call()
            await chaincode.send(b"there is credit left")
            assert await chaincode.messages(1) == [b"there is credit left"]

    async def test_compressed(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await chaincode.call()
            await chaincode.send_data(frame(b"x", compressed=True))
            assert await chaincode.status() == (
                UNIMPLEMENTED,
                "compressed messages are not supported",
            )

    async def test_the_end_in_the_middle_of_one(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await chaincode.call()
            await chaincode.send_data(frame(b"whole"))
            await chaincode.send_data(frame(b"half", size=8), end=True)
            await chaincode.status()
        assert served.received == [b"whole"]
        assert served.reasons == ["it ended in the middle of a message"]

    async def test_another_method(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await chaincode.call("/protos.Endorser/ProcessProposal")
            assert (await chaincode.status())[0] == UNIMPLEMENTED
        assert served.streams == []


class TestBrokenConnections:
    async def ready(self, chaincode: object) -> None:
        await chaincode.call()  # type: ignore[attr-defined]
        await chaincode.send(b"x")  # type: ignore[attr-defined]
        await chaincode.messages(1)  # type: ignore[attr-defined]

    async def test_a_reset_stream(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await self.ready(chaincode)
            chaincode.h2.reset_stream(chaincode.stream_id, ErrorCodes.CANCEL)
            await chaincode.flush()
            await served.wait_ended()
            with pytest.raises(StreamClosed):
                served.streams[0].send(b"nobody is there")
        [reason] = served.reasons
        assert "reset" in reason

    async def test_a_lost_connection(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint:
            async with client(endpoint.address) as chaincode:
                await self.ready(chaincode)
            await served.wait_ended()
            with pytest.raises(StreamClosed):
                served.streams[0].send(b"nobody is there")
        [reason] = served.reasons
        assert "Connection lost" in reason

    @pytest.mark.parametrize(
        "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00"]
    )
    async def test_garbage_instead_of_http2(
        self, served: Server, tmp_path: Path, garbage: bytes
    ) -> None:
        async with listening(served, tmp_path) as endpoint:
            stream = await dial(endpoint.address)
            async with stream:
                await stream.send_all(garbage)
                if len(garbage) > 24 or garbage.startswith(b"GET"):
                    with trio.fail_after(10):
                        while await stream.receive_some():
                            continue
        assert served.streams == []

    async def test_garbage_in_the_middle(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await self.ready(chaincode)
            await chaincode.send_frame(0, 0, b"DATA on stream 0 is a protocol error")
            await chaincode.until_closed()
            await served.wait_ended()
        assert "Protocol error" in served.reasons[0]

    async def test_unknown_frames_are_ignored(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await self.ready(chaincode)
            for kind in (0x0A, 0x0C, 0x10, 0xFA):
                await chaincode.send_frame(kind, 0, b"\x00\x00whatever")
                await chaincode.send_frame(kind, chaincode.stream_id, b"\x00\x00whatever")
            await chaincode.send(b"still here")
            assert await chaincode.messages(1) == [b"still here"]

    async def test_pings_are_answered(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await self.ready(chaincode)
            chaincode.h2.ping(b"12345678")
            await chaincode.flush()
            names = lambda: [type(event).__name__ for event in chaincode.events]  # noqa: E731
            await chaincode.until(lambda: "PingAckReceived" in names())

    async def test_a_silent_chaincode_is_pinged_for_ever(
        self, served: Server, tmp_path: Path
    ) -> None:
        async with (
            listening(served, tmp_path, ping_s=0.01) as endpoint,
            client(endpoint.address) as chaincode,
        ):
            await self.ready(chaincode)
            names = lambda: [type(event).__name__ for event in chaincode.events]  # noqa: E731
            await chaincode.until(lambda: names().count("PingReceived") == 5)

    async def test_a_goaway_without_error_ends_nothing(
        self, served: Server, tmp_path: Path
    ) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await self.ready(chaincode)
            for message in (b"still here", b"and still"):
                chaincode.h2.send_data(chaincode.stream_id, frame(message))
                await chaincode.transport.send_all(goaway(0) + chaincode.h2.data_to_send())
                assert await chaincode.messages(1) == [message]

    async def test_a_goaway_with_an_error_ends_all(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await self.ready(chaincode)
            await chaincode.transport.send_all(goaway(11))
            await served.wait_ended()
            assert "GOAWAY" in served.reasons[0]

    async def test_a_send_that_fails_ends_the_stream(self, served: Server, tmp_path: Path) -> None:
        async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
            await self.ready(chaincode)
            stream = served.streams[0]
            assert isinstance(stream, GrpcStream)
            stream._stream.reset_nowait()
            with pytest.raises(StreamClosed, match="error sending"):
                stream.send(b"x")
            await served.wait_ended()
        assert "error sending" in served.reasons[0]

    async def test_one_that_is_gone_before_it_was_held(
        self, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(sock: object) -> None:
            raise OSError(107, "Transport endpoint is not connected")

        async with listening(served, tmp_path) as endpoint:
            with monkeypatch.context() as patched:
                patched.setattr("peer.rpc.listener._origin", gone)
                async with await dial(endpoint.address) as stream:
                    with trio.fail_after(5):
                        assert await stream.receive_some() == b""
            async with client(endpoint.address) as chaincode:
                await self.ready(chaincode)
