"""Dialling services: good ones, absent ones, broken ones, and ones that say GOAWAY."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from h2.errors import ErrorCodes

from peer.chaincode.certificates import CertificateAuthority
from peer.chaincode.connections import ChaincodeServerInfo, ConnectionFailed
from peer.chaincode.stream import MessageStream, StreamClosed, StreamRefused
from peer.remote import ClientTls
from peer.rpc.connector import ServiceConnector
from peer.rpc.loop import open_loop

from .conftest import Server, settle
from .raw import RawPeer, frame, goaway, server

pytestmark = pytest.mark.usefixtures("both_ways")


def info(
    address: str, *, tls: ClientTls | None = None, timeout_s: float = 5.0
) -> ChaincodeServerInfo:
    return ChaincodeServerInfo(ccid="c:1", address=address, dial_timeout_s=timeout_s, tls=tls)


async def connect(served: Server, info: ChaincodeServerInfo, *, limit: int = 2**20) -> None:
    """Dial once, with a loop of its own; returns when the stream is over."""
    failure: ConnectionFailed | None = None
    async with open_loop():
        try:
            with trio.fail_after(20):
                await ServiceConnector(limit=limit).connect(info, served)
        except ConnectionFailed as exc:
            failure = exc
    if failure is not None:
        raise failure


@asynccontextmanager
async def service(
    play: object, *, tls: ssl.SSLContext | None = None, generous: bool = True
) -> AsyncIterator[str]:
    """Hold a service whose connections are played by ``await play(peer)``."""
    async with trio.open_nursery() as nursery:
        async with server(nursery, play, tls=tls, generous=generous) as address:  # type: ignore[arg-type]
            yield address
        nursery.cancel_scope.cancel()


async def test_messages_go_both_ways(served: Server) -> None:
    seen: dict[str, str] = {}

    async def play(peer: RawPeer) -> None:
        await peer.answer()
        [request] = [event for event in peer.events if type(event).__name__ == "RequestReceived"]
        seen.update(dict(request.headers))  # type: ignore[attr-defined]
        await peer.send(b"REGISTER", b"x" * 300_000)
        assert await peer.messages(2) == [b"REGISTER", b"x" * 300_000]
        await peer.finish(0)
        await peer.until_closed()

    async with service(play) as address:
        await connect(served, info(address))
    assert served.received == [b"REGISTER", b"x" * 300_000]
    assert served.reasons == ["closed"]
    assert seen[":path"] == "/protos.Chaincode/Connect"
    assert seen["content-type"].startswith("application/grpc")
    assert served.streams[0].far_end.origin is None


async def test_the_service_may_speak_late(served: Server) -> None:
    async def play(peer: RawPeer) -> None:
        await peer.answer()
        await settle()
        await peer.send(b"at last")
        assert await peer.messages(1) == [b"at last"]
        await peer.finish(0)
        await peer.until_closed()

    async with service(play) as address:
        await connect(served, info(address, timeout_s=0.5))
    assert served.received == [b"at last"]


async def test_a_goaway_without_error_keeps_the_stream(served: Server) -> None:
    """A Java service says so five seconds after every connection."""

    async def play(peer: RawPeer) -> None:
        await peer.answer()
        for number in range(3):
            message = b"%d" % number
            peer.h2.send_data(peer.stream_id, frame(message))
            await peer.transport.send_all(goaway(0) + peer.h2.data_to_send())
            assert await peer.messages(1) == [message]
        await peer.finish(0)
        await peer.until_closed()

    async with service(play) as address:
        await connect(served, info(address))
    assert served.received == [b"0", b"1", b"2"]
    assert served.reasons == ["closed"]


async def test_a_goaway_with_an_error_ends_it(served: Server) -> None:
    async def play(peer: RawPeer) -> None:
        await peer.answer()
        await peer.transport.send_all(goaway(11))
        await peer.until_closed()

    async with service(play) as address:
        await connect(served, info(address))
    assert "GOAWAY" in served.reasons[0]


class TestNotReached:
    async def test_nobody_listens(self, served: Server) -> None:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        await listener.aclose()
        with pytest.raises(ConnectionFailed) as failed:
            await connect(served, info(f"127.0.0.1:{port}"))
        assert str(failed.value).startswith(f"127.0.0.1:{port}: ")
        assert "refused" in str(failed.value).lower() or "Connect call failed" in str(failed.value)
        assert served.streams == []

    @pytest.mark.parametrize("address", ["localhost", "localhost:http", "no.such.host.invalid:1"])
    async def test_an_address_that_is_none(self, served: Server, address: str) -> None:
        with pytest.raises(ConnectionFailed) as failed:
            await connect(served, info(address))
        assert str(failed.value).startswith(f"{address}: ")

    async def test_nobody_answers_the_handshake(
        self, served: Server, authority: CertificateAuthority
    ) -> None:
        async def silent(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await trio.sleep_forever()

        tls = ClientTls(root=authority.certificate)
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, silent, [listener])
            with pytest.raises(ConnectionFailed) as failed:
                await connect(served, info(f"127.0.0.1:{port}", tls=tls, timeout_s=0.2))
            nursery.cancel_scope.cancel()
        assert str(failed.value) == f"127.0.0.1:{port}: no answer within the dial timeout"

    @pytest.mark.parametrize("first", [b"", bytes(100)])  # DATA of stream 0 is against the rules
    async def test_it_is_closed_at_once(self, served: Server, first: bytes) -> None:
        """A proxy does so while its service is not up yet."""

        async def close(stream: trio.SocketStream) -> None:
            await stream.send_all(first)

        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, close, [listener])
            for _ in range(20):
                with suppress(ConnectionFailed):  # or the stream ends at once
                    await connect(served, info(f"127.0.0.1:{port}"))
            nursery.cancel_scope.cancel()
        assert served.received == []
        assert "closed" not in served.reasons

    async def test_cancelled_while_dialling(self, served: Server) -> None:
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            tls = ClientTls(root=CertificateAuthority().certificate)

            async def silent(stream: trio.SocketStream) -> None:
                await trio.sleep_forever()

            nursery.start_soon(trio.serve_listeners, silent, [listener])
            with trio.move_on_after(0.1) as scope:
                await connect(served, info(f"127.0.0.1:{port}", tls=tls))
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()


class TestTls:
    async def play(self, peer: RawPeer) -> None:
        await peer.answer()
        await peer.send(b"x")
        await peer.messages(1)
        await peer.finish(0)
        await peer.until_closed()

    def context(self, authority: CertificateAuthority, directory: Path) -> ssl.SSLContext:
        pair = authority.issue_server("127.0.0.1", "service.example")
        path = directory / "service.pem"
        path.write_bytes(pair.certificate + pair.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(path)
        return context

    async def test_by_address_and_by_name(
        self, served: Server, authority: CertificateAuthority, tmp_path: Path
    ) -> None:
        context = self.context(authority, tmp_path)
        async with service(self.play, tls=context) as address:
            for name in ("", "service.example"):
                tls = ClientTls(root=authority.certificate, server_name=name)
                await connect(served, info(address, tls=tls))
        assert served.received == [b"x", b"x"]

    async def test_with_a_client_certificate(
        self, served: Server, authority: CertificateAuthority, tmp_path: Path
    ) -> None:
        context = self.context(authority, tmp_path)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.certificate.decode())
        pair = authority.issue_client()
        async with service(self.play, tls=context) as address:
            tls = ClientTls(root=authority.certificate, certificate=pair.certificate, key=pair.key)
            await connect(served, info(address, tls=tls))
        assert served.received == [b"x"]

    @pytest.mark.parametrize("wrong", ["name", "root"])
    async def test_the_wrong_service(
        self, served: Server, authority: CertificateAuthority, tmp_path: Path, wrong: str
    ) -> None:
        root = CertificateAuthority() if wrong == "root" else authority
        name = "another.example" if wrong == "name" else ""
        tls = ClientTls(root=root.certificate, server_name=name)
        async with service(self.play, tls=self.context(authority, tmp_path)) as address:
            with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
                await connect(served, info(address, tls=tls))

    async def test_plain_text_where_tls_was_expected(
        self, served: Server, authority: CertificateAuthority
    ) -> None:
        tls = ClientTls(root=authority.certificate)
        async with service(self.play) as address:
            with pytest.raises(ConnectionFailed):
                await connect(served, info(address, tls=tls))
        assert served.streams == []

    async def test_pem_that_is_none(self, served: Server) -> None:
        with pytest.raises(ConnectionFailed, match=r"^127\.0\.0\.1:1: "):
            await connect(served, info("127.0.0.1:1", tls=ClientTls(root=b"nonsense")))


class TestBrokenServices:
    async def test_a_reset_stream(self, served: Server) -> None:
        async def play(peer: RawPeer) -> None:
            await peer.answer()
            peer.h2.reset_stream(peer.stream_id, ErrorCodes.INTERNAL_ERROR)
            await peer.flush()
            await peer.until_closed()

        async with service(play) as address:
            await connect(served, info(address))
        assert "reset" in served.reasons[0]

    async def test_a_connection_that_drops(self, served: Server) -> None:
        async def play(peer: RawPeer) -> None:
            await peer.answer()
            await peer.send(b"x")
            await peer.messages(1)

        async with service(play) as address:
            await connect(served, info(address))
        assert served.received == [b"x"]
        assert served.reasons != ["closed"]

    async def test_a_connection_that_drops_while_much_waits_to_be_written(
        self, served: Server
    ) -> None:
        async def play(peer: RawPeer) -> None:
            await peer.answer()
            await peer.send(b"x")
            await peer.until(lambda: len(peer.body) > 30_000)

        def answer(stream: MessageStream, data: bytes) -> None:
            for _ in range(20):
                stream.send(bytes(2**16))

        served.answer = answer
        async with service(play, generous=False) as address:
            await connect(served, info(address))
        assert served.reasons != ["closed"]

    async def test_another_kind_of_service(self, served: Server) -> None:
        async def play(peer: RawPeer) -> None:
            await peer.until(lambda: peer.stream_id != 0)
            headers = {
                ":status": "200",
                "content-type": "application/grpc",
                "grpc-status": "12",
                "grpc-message": "unknown service protos.Chaincode",
            }
            peer.h2.send_headers(peer.stream_id, [*headers.items()], end_stream=True)
            await peer.flush()
            await peer.until_closed()

        async with service(play) as address:
            with pytest.raises(ConnectionFailed) as failed:
                await connect(served, info(address))
        assert str(failed.value) == (f"{address}: UNIMPLEMENTED: unknown service protos.Chaincode")
        assert served.received == []

    async def test_a_message_that_is_too_large(self, served: Server) -> None:
        async def play(peer: RawPeer) -> None:
            await peer.answer()
            await peer.send_data(frame(b"", size=2001))
            await peer.until(lambda: peer.reset is not None)
            await peer.until_closed()

        async with service(play) as address:
            await connect(served, info(address), limit=2000)
        assert "larger than max (2001 vs. 2000)" in served.reasons[0]

    async def test_garbage(self, served: Server) -> None:
        async def play(peer: RawPeer) -> None:
            await peer.transport.send_all(bytes(100))  # DATA of stream 0
            await peer.until_closed()

        async with service(play) as address:
            with suppress(ConnectionFailed):  # or its stream ends: it depends on what comes first
                await connect(served, info(address))
        assert served.received == []


async def test_a_refusal_ends_the_call(served: Server) -> None:
    resets: list[int | None] = []

    async def play(peer: RawPeer) -> None:
        await peer.answer()
        await peer.send(b"REGISTER")
        await peer.until(lambda: peer.reset is not None)
        resets.append(peer.reset)
        await peer.until_closed()

    def refuse(stream: MessageStream, data: bytes) -> None:
        raise StreamRefused("PERMISSION_DENIED", "the wrong name")

    served.answer = refuse
    async with service(play) as address:
        await connect(served, info(address))
    assert resets == [ErrorCodes.NO_ERROR]
    assert served.reasons == ["the wrong name"]


async def test_cancelling_ends_the_connection(served: Server) -> None:
    closed = trio.Event()

    async def play(peer: RawPeer) -> None:
        await peer.answer()
        await peer.send(b"x")
        await peer.messages(1)
        scope.cancel()
        await peer.until_closed()
        closed.set()

    async with service(play) as address:
        with trio.CancelScope() as scope:
            await connect(served, info(address))
        assert scope.cancelled_caught
        with trio.fail_after(5):
            await closed.wait()
    assert served.reasons == ["cancelled"]
    with pytest.raises(StreamClosed):
        served.streams[0].send(b"too late")
