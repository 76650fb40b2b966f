"""Server mode on real sockets: several peers, TLS, stops, broken streams."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

import shim
from fabric_protos.stream import ChaincodeMessageType as T
from tests.unit.shim.certificates import Authority, mislabelled
from tests.unit.shim.grpc_peer import CONNECT, dialled
from tests.unit.shim.scripted_peer import LIMIT_S, Calls, ScriptedPeer
from tests.unit.shim.test_handler import response_of
from tests.unit.shim.test_sockets import context_of, get, get_and_put


class Serving:
    """A chaincode server on a free port, for the length of a block."""

    def __init__(self, chaincode: shim.Chaincode, **options: Any) -> None:
        self.sock = socket.create_server(("localhost", 0))
        self.port = self.sock.getsockname()[1]
        self.stop = asyncio.Event()
        self.server = shim.ChaincodeServer("mycc:1.0", ":9999", chaincode, **options)

    async def __aenter__(self) -> Serving:
        self.task = asyncio.create_task(self.server.serve(self.stop, sock=self.sock))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, LIMIT_S)


def test_server_with_two_peers_at_once_and_a_reconnect() -> None:
    async def both() -> None:
        async with Serving(Calls(get)) as serving:
            async with dialled(serving.port) as first, dialled(serving.port) as second:
                for peer in (first, second):
                    await peer.shake_hands()
                    assert peer.raw[0].hex() == "08011a0a12086d7963633a312e30"
                    peer.begin(b"f")
                for peer in (second, first):
                    peer.answer(await peer.receive(), b"v")
                    assert response_of(await peer.receive()).status == 200
            async with dialled(serving.port) as again:
                await get_and_put(again)

    asyncio.run(both())


async def meet_once_it_listens(*where: Any, **path: Any) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await meet(get_and_put, *where, **path)
            except OSError:
                await asyncio.sleep(0)


async def meet(script: Any, *where: Any, **options: Any) -> None:
    async with dialled(*where, **options) as peer:
        await script(peer)


def test_server_on_a_unix_socket(tmp_path: Path) -> None:
    async def both() -> None:
        path = str(tmp_path / "cc.sock")
        stop = asyncio.Event()
        server = shim.ChaincodeServer("mycc:1.0", f"unix://{path}", Calls(get))
        task = asyncio.create_task(server.serve(stop))
        await meet_once_it_listens(path=path)
        stop.set()
        await task

    asyncio.run(both())


def test_server_on_its_own_address() -> None:
    async def both() -> None:
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        server = shim.ChaincodeServer("mycc:1.0", f"localhost:{port}", Calls(get))
        task = asyncio.create_task(server.serve())
        await meet_once_it_listens(port)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(both())


@pytest.mark.parametrize("client_ca", [True, False])
def test_server_with_tls(tmp_path: Path, authority: Authority, client_ca: bool) -> None:
    peer_side = context_of(ssl.PROTOCOL_TLS_CLIENT, tmp_path, authority.issue(), authority)
    key, cert = authority.issue(host="localhost")
    tls = shim.TLS(mislabelled(key), cert, authority.pem if client_ca else b"")

    async def both() -> None:
        async with Serving(Calls(get), tls=tls) as serving:
            await meet(get_and_put, serving.port, tls=peer_side)

    asyncio.run(both())


def test_server_demands_a_certificate(authority: Authority) -> None:
    tls = shim.TLS(*authority.issue(host="localhost"), authority.pem)
    anonymous = ssl.create_default_context(cadata=authority.pem.decode())
    anonymous.set_alpn_protocols(["h2"])

    async def both() -> None:
        async with Serving(Calls(get), tls=tls) as serving:
            with pytest.raises((StreamTerminatedError, OSError)):
                await meet(get_and_put, serving.port, tls=anonymous)

    asyncio.run(both())


def test_server_stop_waits_for_running_transactions_and_refuses_new_streams() -> None:
    async def both() -> None:
        async with Serving(Calls(get)) as serving, dialled(serving.port) as peer:
            await peer.shake_hands()
            peer.begin(b"f")
            request = await peer.receive()
            serving.stop.set()
            with pytest.raises(GRPCError) as caught:
                async with dialled(serving.port) as late:
                    await late.ended()
            assert caught.value.status is Status.UNAVAILABLE
            peer.answer(request, b"v")
            assert response_of(await peer.receive()).status == 200
            await peer.ended()

    asyncio.run(both())


async def out_of_order(peer: ScriptedPeer) -> None:
    await peer.receive()
    peer.send(T.READY)
    assert (await peer.receive()).type == T.ERROR
    await peer.ended()


async def vanish(peer: ScriptedPeer) -> None:
    await peer.shake_hands()
    peer.begin(b"f")
    await peer.receive()
    peer.stream.stream._stream._transport.abort()  # type: ignore[attr-defined]
    await peer.ended()


@pytest.mark.parametrize(
    ("script", "error", "logged"),
    [
        (
            out_of_order,
            GRPCError,
            "stream lost: [] Chaincode handler cannot handle message (READY)",
        ),
        (vanish, StreamTerminatedError, "stream lost: Connection lost"),
    ],
)
def test_a_stream_that_breaks_leaves_the_server_alone(
    script: Any, error: type[Exception], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def both() -> None:
        async with Serving(Calls(get)) as serving:
            with pytest.raises(error):
                await meet(script, serving.port)
            await meet(get_and_put, serving.port)

    asyncio.run(both())
    assert logged in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", ":1", Calls(get)), "ccid must be specified"),
        (("cc", "", Calls(get)), "address must be specified"),
        (("cc", ":1", None), "chaincode must be specified"),
    ],
)
def test_server_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(shim.SetupError, match=message):
        shim.ChaincodeServer(*arguments)


def test_an_address_in_use() -> None:
    with socket.create_server(("localhost", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(shim.SetupError, match=f"cannot listen on {address}"):
            asyncio.run(shim.ChaincodeServer("cc", address, Calls(get)).serve())


def test_what_arrives_with_the_request_is_not_lost() -> None:
    """Headers, a message and the end in one segment: all of it is there before the handler."""
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", CONNECT),
        (":authority", "cc"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    connection.send_headers(1, headers)
    keepalive = bytes.fromhex("0812")
    connection.send_data(1, b"\0\0\0\0\2" + keepalive, end_stream=True)

    async def both() -> bytes:
        received = b""
        async with Serving(Calls(get)) as serving:
            reader, writer = await asyncio.open_connection("localhost", serving.port)
            writer.write(connection.data_to_send())
            ended = False
            while not ended:
                for event in connection.receive_data(await reader.read(65536)):
                    received += getattr(event, "data", b"")
                    ended = ended or isinstance(event, StreamEnded)
            writer.close()
            await writer.wait_closed()
        return received

    received = asyncio.run(asyncio.wait_for(both(), LIMIT_S))
    assert received.endswith(b"\0\0\0\0\2" + keepalive)
