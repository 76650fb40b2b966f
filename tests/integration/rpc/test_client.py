"""Dialling servers: Google's, and scripted ones that break in every way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from fabric_protos.codec import encode
from fabric_protos.gateway import ErrorDetail as ErrorDetailMessage
from fabric_protos.google.protobuf import Any
from fabric_protos.google.rpc import Status
from peer.chaincode.certificates import CertificateAuthority
from peer.errors import CallFailed, Code, ErrorDetail
from peer.remote import ClientTls, Endpoint
from peer.rpc.client import GrpcConnection, dial
from peer.rpc.loop import open_loop

from .raw import RawPeer, frame, goaway, server

NAMES = "echo refuse wait has_begun was_cancelled deadline fill chat flood"
ECHO, REFUSE, WAIT, BEGUN, CANCELLED, DEADLINE, FILL, CHAT, FLOOD = (
    f"/test.Test/{name}" for name in NAMES.split()
)
Start = Callable[..., AbstractContextManager[str]]


@contextmanager
def grpcio_server(*files: Path) -> Iterator[str]:
    """Hold a server by Google's library; yields its port."""
    program = Path(__file__).with_name("grpcio_server.py")
    with subprocess.Popen(
        [sys.executable, program, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    with grpcio_server() as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def directory(
    authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The files of a server with TLS."""
    path = tmp_path_factory.mktemp("tls")
    pair = authority.issue_server("127.0.0.1", "peer.example.com")
    files = {"cert": pair.certificate, "key": pair.key, "ca": authority.certificate}
    for name, content in files.items():
        (path / name).write_bytes(content)
    return {name: path / name for name in files}


@asynccontextmanager
async def connected(
    address: str, tls: ClientTls | None = None, *, timeout_s: float = 5.0, limit: int = 2**26
) -> AsyncIterator[GrpcConnection]:
    """Dial with a loop of its own; nothing takes for ever."""
    failure: CallFailed | None = None
    async with open_loop():
        try:
            with trio.fail_after(30):
                async with dial(
                    Endpoint(address, tls), connect_timeout_s=timeout_s, limit=limit
                ) as connection:
                    yield connection
        except CallFailed as exc:
            failure = exc
    if failure is not None:
        raise failure


@asynccontextmanager
async def scripted(play: object) -> AsyncIterator[str]:
    """Hold a server whose connections are played by ``await play(peer)``."""
    async with trio.open_nursery() as nursery:
        async with server(nursery, play) as address:  # type: ignore[arg-type]
            yield address
        nursery.cancel_scope.cancel()


# Against Google's library


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
async def test_unary_calls(plain: str, size: int) -> None:
    request = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with connected(plain) as connection:
        assert await connection.unary(ECHO, request) == request
        assert await connection.unary(ECHO, b"again", timeout_s=10) == b"again"


async def test_calls_at_once_share_the_connection(plain: str) -> None:
    answers: dict[int, bytes] = {}
    async with connected(plain) as connection, trio.open_nursery() as nursery:

        async def call(number: int) -> None:
            answers[number] = await connection.unary(ECHO, b"%d" % number)

        for number in range(100):
            nursery.start_soon(call, number)
    assert answers == {number: b"%d" % number for number in range(100)}


async def test_a_refusal_has_code_message_and_details(plain: str) -> None:
    detail = ErrorDetailMessage(address="peer0:7051", msp_id="Org1MSP", message="chaincode said no")
    any_detail = Any(type_url="type.googleapis.com/gateway.ErrorDetail", value=encode(detail))
    status = encode(Status(code=9, details=[any_detail]))
    async with connected(plain) as connection:
        with pytest.raises(CallFailed) as caught:
            await connection.unary(REFUSE, status)
        assert await connection.unary(ECHO, b"goes on") == b"goes on"
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.message == "the grün door\nis shut"
    assert caught.value.details == (ErrorDetail("peer0:7051", "Org1MSP", "chaincode said no"),)
    assert str(caught.value).startswith("rpc error: code = FailedPrecondition desc = the grün door")


@pytest.mark.parametrize(
    "details", [b"", b"\xff\xff", encode(Status(details=[Any(value=b"\x0a")]))]
)
async def test_details_of_other_kinds_do_no_harm(plain: str, details: bytes) -> None:
    async with connected(plain) as connection:
        with pytest.raises(CallFailed, match="is shut") as caught:
            await connection.unary(REFUSE, details)
    assert caught.value.details == ()


async def test_an_absent_method_is_unimplemented(plain: str) -> None:
    async with connected(plain) as connection:
        with pytest.raises(CallFailed) as caught:
            await connection.unary("/test.Test/Absent", b"")
    assert caught.value.code is Code.UNIMPLEMENTED


async def test_a_deadline_is_told_and_kept(plain: str) -> None:
    async with connected(plain) as connection:
        assert 0 < float(await connection.unary(DEADLINE, b"", timeout_s=20)) <= 20
        with pytest.raises(CallFailed) as caught:
            await connection.unary(WAIT, b"", timeout_s=0.5)
        assert await connection.unary(CANCELLED, b"") == b"yes"
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_a_cancelled_call_ends_at_the_server(plain: str) -> None:
    async with connected(plain) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.unary, WAIT, b"told")
            assert await connection.unary(BEGUN, b"told") == b"yes"
            nursery.cancel_scope.cancel()
        assert await connection.unary(CANCELLED, b"told") == b"yes"


async def test_a_stream_goes_both_ways(plain: str) -> None:
    async with connected(plain) as connection, connection.stream(CHAT) as call:
        for message in (b"one", b"", b"x" * 10_000_000):
            await call.send(message)
            assert await anext(aiter(call)) == message
        await call.end()
        assert [each async for each in call] == []


async def test_what_a_server_said_before_it_ended_is_read(plain: str) -> None:
    async with connected(plain) as connection:
        async with connection.stream(CHAT) as call:
            await call.send(b"one")
            await call.send(b"stop")
            assert [each async for each in call] == [b"one", b"stop"]
            with pytest.raises(CallFailed, match="has ended the call"):
                await call.send(b"too late")
            await call.end()
        async with connection.stream(CHAT) as call:
            await call.send(b"refuse")
            assert await anext(aiter(call)) == b"refuse"
            for _ in range(2):
                with pytest.raises(CallFailed, match="no more") as caught:
                    await anext(aiter(call))
            with pytest.raises(CallFailed, match="no more"):
                await call.send(b"too late")
    assert caught.value.code is Code.ABORTED


async def test_leaving_a_stream_cancels_it(plain: str) -> None:
    async with connected(plain) as connection:
        async with connection.stream(CHAT) as call:
            await call.send(b"one")
            assert await anext(aiter(call)) == b"one"
        assert await connection.unary(CANCELLED, b"") == b"yes"


async def test_a_slow_reader_gets_all_and_others_are_served(plain: str) -> None:
    """A hundred megabytes: more than every window together."""
    async with connected(plain) as connection, connection.stream(FLOOD) as call:
        await call.send(b"100000")
        assert await anext(aiter(call)) == bytes(100_004)
        async with connected(plain) as other:
            assert await other.unary(ECHO, b"me too") == b"me too"
        numbers = [int.from_bytes(each[:4], "big") async for each in call]
    assert numbers == list(range(1, 1000))


async def test_messages_over_the_limit_are_refused(plain: str) -> None:
    async with connected(plain, limit=1000) as connection:
        assert len(await connection.unary(FILL, b"1000")) == 1000
        for path, request in ((FILL, b"1001"), (ECHO, bytes(1001))):
            with pytest.raises(CallFailed, match="larger than max") as caught:
                await connection.unary(path, request)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert await connection.unary(ECHO, b"goes on") == b"goes on"


# TLS


@pytest.mark.parametrize("server_name", ["", "peer.example.com"])
async def test_tls(
    authority: CertificateAuthority, directory: dict[str, Path], server_name: str
) -> None:
    tls = ClientTls(authority.certificate, server_name=server_name)
    with grpcio_server(directory["cert"], directory["key"]) as port:
        async with connected(f"127.0.0.1:{port}", tls) as connection:
            assert await connection.unary(ECHO, bytes(10**6)) == bytes(10**6)
            async with connection.stream(CHAT) as call:
                await call.send(b"stop")
                assert [each async for each in call] == [b"stop"]


async def test_sending_on_a_connection_that_is_closing(
    authority: CertificateAuthority, directory: dict[str, Path]
) -> None:
    with grpcio_server(directory["cert"], directory["key"]) as port:
        async with (
            connected(f"127.0.0.1:{port}", ClientTls(authority.certificate)) as connection,
            connection.stream(CHAT) as call,
        ):
            connection._channel._protocol.connection._transport.abort()
            with pytest.raises(CallFailed) as caught:
                await call.send(b"too late")
            await call.end()
    assert caught.value.code is Code.UNAVAILABLE


async def test_servers_that_are_somebody_else(
    authority: CertificateAuthority, directory: dict[str, Path], plain: str
) -> None:
    right = ClientTls(authority.certificate)
    wrong_root = ClientTls(CertificateAuthority().certificate)
    wrong_name = ClientTls(authority.certificate, server_name="other.example.com")
    with grpcio_server(directory["cert"], directory["key"]) as port:
        for address, tls, text in (
            (f"127.0.0.1:{port}", wrong_root, "certificate verify failed"),
            (f"127.0.0.1:{port}", wrong_name, "other.example.com"),
            (plain, right, "127.0.0.1"),
        ):
            with pytest.raises(CallFailed, match=text) as caught:
                async with connected(address, tls):
                    pass
            assert caught.value.code is Code.UNAVAILABLE
        with pytest.raises(CallFailed) as caught:
            async with connected(f"127.0.0.1:{port}") as connection:
                await connection.unary(ECHO, b"")
        assert caught.value.code is Code.UNAVAILABLE


async def test_mutual_tls(authority: CertificateAuthority, directory: dict[str, Path]) -> None:
    pair = authority.issue_client()
    with grpcio_server(directory["cert"], directory["key"], directory["ca"]) as port:
        tls = ClientTls(authority.certificate, pair.certificate, pair.key)
        async with connected(f"127.0.0.1:{port}", tls) as connection:
            assert await connection.unary(ECHO, b"hello") == b"hello"
        with pytest.raises(CallFailed) as caught:
            async with connected(f"127.0.0.1:{port}", ClientTls(authority.certificate)) as other:
                await other.unary(ECHO, b"hello")
        assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("tls", [ClientTls(b"nonsense"), ClientTls(b"")])
async def test_tls_files_that_are_none(tls: ClientTls) -> None:
    with pytest.raises(CallFailed) as caught:
        async with connected("127.0.0.1:1", tls):
            pass
    assert caught.value.code is Code.INVALID_ARGUMENT


# Connections that do not come about


@pytest.mark.parametrize("address", ["", "localhost", "localhost:x", "localhost:70000"])
async def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(CallFailed) as caught:
        async with connected(address):
            pass
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_nobody_listens() -> None:
    with pytest.raises(CallFailed, match=r"127\.0\.0\.1:1: ") as caught:
        async with connected("127.0.0.1:1"):
            pass
    assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("host", ["orderer..example.com", "a" * 64, "orderer.\udcff"])
@pytest.mark.parametrize("is_tls", [False, True])
async def test_names_that_no_host_can_have(
    host: str, is_tls: bool, authority: CertificateAuthority
) -> None:
    tls = ClientTls(authority.certificate) if is_tls else None
    with pytest.raises(CallFailed) as caught:
        async with connected(f"{host}:7050", tls):
            pass
    assert caught.value.code is Code.UNAVAILABLE


async def test_a_listener_that_never_shakes_hands(authority: CertificateAuthority) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, silent, [listener])
        failure: CallFailed | None = None
        try:
            async with connected(
                f"127.0.0.1:{port}", ClientTls(authority.certificate), timeout_s=0.1
            ):
                pass
        except CallFailed as exc:
            failure = exc
        nursery.cancel_scope.cancel()
    assert failure is not None
    assert failure.code is Code.UNAVAILABLE
    assert "no connection within 0.1 s" in failure.message


async def test_cancelled_while_it_connects(authority: CertificateAuthority) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener:
        with trio.move_on_after(0.05) as scope:
            async with connected(f"127.0.0.1:{port}", ClientTls(authority.certificate)):
                pass
    assert scope.cancelled_caught


# Servers that break


async def failed(play: object, *, limit: int = 2**20) -> CallFailed:
    """Call a scripted server and return how that failed."""
    failure: CallFailed | None = None
    async with scripted(play) as address:
        try:
            async with connected(address, limit=limit) as connection:
                await connection.unary(ECHO, b"hello")
        except CallFailed as exc:
            failure = exc
    assert failure is not None
    return failure


async def test_ends_without_a_status_and_other_lies() -> None:
    async def no_status(peer: RawPeer) -> None:
        await peer.answer()
        await peer.send_data(frame(b"x"), end=True)
        await peer.until_closed()

    async def half_a_message(peer: RawPeer) -> None:
        await peer.answer()
        await peer.send_data(frame(b"x", size=100))
        await peer.finish(0)
        await peer.until_closed()

    async def two_messages(peer: RawPeer) -> None:
        await peer.answer()
        await peer.send(b"one", b"two")
        await peer.finish(0)
        await peer.until_closed()

    async def no_end(peer: RawPeer) -> None:
        await peer.answer()
        with suppress(ProtocolError, trio.BrokenResourceError):  # once the client has gone
            while not peer.closed:
                await peer.send(b"more")
        await peer.until_closed()

    async def no_message(peer: RawPeer) -> None:
        await peer.answer()
        await peer.finish(0)
        await peer.until_closed()

    async def too_long(peer: RawPeer) -> None:
        await peer.answer()
        await peer.send_data(frame(b"", size=2**31))
        await peer.until_closed()

    async def compressed(peer: RawPeer) -> None:
        await peer.answer()
        await peer.send_data(frame(b"x", compressed=True))
        await peer.until_closed()

    async def odd_status(peer: RawPeer) -> None:
        await peer.answer()
        await peer.finish(99)
        await peer.until_closed()

    for play, code, text in (
        (no_status, Code.INTERNAL, "without a status"),
        (half_a_message, Code.INTERNAL, "middle of a message"),
        (two_messages, Code.INTERNAL, "several responses"),
        (no_end, Code.INTERNAL, "several responses"),
        (no_message, Code.INTERNAL, "no responses"),
        (too_long, Code.RESOURCE_EXHAUSTED, "larger than max"),
        (compressed, Code.UNIMPLEMENTED, "compressed"),
        (odd_status, Code.UNKNOWN, "99"),
    ):
        failure = await failed(play)
        assert (failure.code, text in failure.message) == (code, True), failure


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([(":status", "503"), ("content-type", "text/html")], Code.UNAVAILABLE),
        ([(":status", "418"), ("content-type", "text/html")], Code.UNKNOWN),
        ([(":status", "200"), ("content-type", "text/html")], Code.UNKNOWN),
        ([(":status", "200"), ("content-type", "application/grpc")], Code.INTERNAL),
    ],
)
async def test_servers_that_do_not_speak_grpc(headers: list[tuple[str, str]], code: Code) -> None:
    async def play(peer: RawPeer) -> None:
        await peer.until(lambda: peer.stream_id != 0)
        peer.h2.send_headers(peer.stream_id, headers, end_stream=True)
        await peer.flush()
        await peer.until_closed()

    assert (await failed(play)).code is code


async def test_a_reset_stream_and_a_lost_connection() -> None:
    async def reset(peer: RawPeer) -> None:
        await peer.until(lambda: peer.stream_id != 0)
        peer.h2.reset_stream(peer.stream_id, ErrorCodes.REFUSED_STREAM)
        await peer.flush()
        await peer.until_closed()

    async def lost(peer: RawPeer) -> None:
        await peer.answer()

    for play in (reset, lost):
        assert (await failed(play)).code is Code.UNAVAILABLE


async def test_the_next_call_connects_again_after_a_loss_and_after_goaway() -> None:
    """The first connection is lost, the second takes no new calls but finishes the one it has."""
    plays: list[str] = []
    finish = trio.Event()

    async def play(peer: RawPeer) -> None:
        plays.append("connection")
        await peer.answer()
        if len(plays) == 1:
            return
        await peer.send(b"%d" % len(plays))
        if len(plays) == 2:
            await peer.transport.send_all(goaway(0))
            await finish.wait()
            await peer.send(b"last")
        await peer.finish(0)
        await peer.until_closed()

    async with scripted(play) as address, connected(address) as connection:
        with pytest.raises(CallFailed):
            await connection.unary(ECHO, b"")
        async with connection.stream(CHAT) as call:
            assert await anext(aiter(call)) == b"2"
            with trio.fail_after(10):
                while not connection._channel._protocol.processor.is_draining:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            assert await connection.unary(ECHO, b"") == b"3"
            finish.set()
            assert [each async for each in call] == [b"last"]


async def test_a_server_without_room_for_another_call() -> None:
    async def play(peer: RawPeer) -> None:
        await peer.send_frame(4, 0, (3).to_bytes(2, "big") + (1).to_bytes(4, "big"))
        await peer.answer()
        await peer.send(b"the settings have arrived")
        await peer.until_closed()

    async with (
        scripted(play) as address,
        connected(address, timeout_s=0.2) as connection,
        connection.stream(CHAT) as call,
    ):
        await anext(aiter(call))
        with pytest.raises(CallFailed, match="no more calls at once") as caught:
            await connection.unary(ECHO, b"")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_send_that_waits_for_room_ends_with_the_call() -> None:
    """The server gives no credit, and ends the call while a message waits for some."""

    async def play(peer: RawPeer) -> None:
        await peer.answer()
        await peer.until(lambda: len(peer.body) >= 65535)
        await peer.finish(10, "enough")
        await peer.until_closed()

    failure: CallFailed | None = None
    async with trio.open_nursery() as nursery:
        async with (
            server(nursery, play, generous=False) as address,
            connected(address) as connection,
            connection.stream(CHAT) as call,
        ):
            try:
                await call.send(bytes(100_000))
            except CallFailed as exc:
                failure = exc
        nursery.cancel_scope.cancel()
    assert failure is not None
    assert (failure.code, failure.message) == (Code.ABORTED, "enough")
