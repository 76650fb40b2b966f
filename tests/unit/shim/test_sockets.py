"""Client mode on real sockets: TCP, Unix, TLS, sizes, refusals, ends."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

import shim
from fabric_protos.stream import ChaincodeMessageType as T
from shim import client as client_module
from shim import transport
from shim.client import connect, run_client
from tests.unit.shim.certificates import Authority, mislabelled
from tests.unit.shim.grpc_peer import ListeningPeer
from tests.unit.shim.scripted_peer import LIMIT_S, Calls, ScriptedPeer
from tests.unit.shim.test_handler import response_of

BIG = os.urandom(9 << 20)


def get(stub: Any) -> Any:
    return stub.get_state("k")


async def get_and_put(peer: ScriptedPeer) -> None:
    await peer.shake_hands()
    peer.begin(b"f")
    peer.answer(await peer.receive(), b"value")
    assert response_of(await peer.receive()).status == 200


def serve_client(
    script: Any, chaincode: shim.Chaincode, material: shim.TLS | None = None, **listening: Any
) -> None:
    """Let a chaincode in client mode meet a scripted peer that listens."""

    async def both() -> None:
        peer = ListeningPeer(script)
        async with peer.listening(**listening) as address:
            await run_client(chaincode, "mycc:1.0", address, material)
            await peer.done.wait()

    asyncio.run(asyncio.wait_for(both(), LIMIT_S))


def test_client_over_tcp() -> None:
    chaincode = Calls(get)
    serve_client(get_and_put, chaincode)
    assert chaincode.result == b"value"


def test_client_over_a_unix_socket(tmp_path: Path) -> None:
    chaincode = Calls(get)
    serve_client(get_and_put, chaincode, path=str(tmp_path / "peer.sock"))
    assert chaincode.result == b"value"


# TLS


def context_of(
    purpose: Any, folder: Path, pair: tuple[bytes, bytes], authority: Authority
) -> ssl.SSLContext:
    (folder / "pair.pem").write_bytes(pair[0] + pair[1])
    context = ssl.SSLContext(purpose)
    context.load_cert_chain(folder / "pair.pem")
    context.load_verify_locations(cadata=authority.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    return context


@pytest.mark.parametrize("label", [lambda key: key, mislabelled], ids=["pkcs8", "mislabelled"])
@pytest.mark.parametrize("on_path", [False, True], ids=["tcp", "unix"])
def test_client_with_mutual_tls(
    tmp_path: Path, authority: Authority, label: Any, on_path: bool
) -> None:
    """On a Unix socket there is no host to compare with; the chain is verified all the same."""
    host = "peer.example.com" if on_path else "localhost"
    peer_side = context_of(ssl.PROTOCOL_TLS_SERVER, tmp_path, authority.issue(host=host), authority)
    key, cert = authority.issue()
    chaincode = Calls(get)
    where = {"path": str(tmp_path / "peer.sock")} if on_path else {}
    tls = shim.TLS(label(key), cert, authority.pem)
    serve_client(get_and_put, chaincode, tls, tls=peer_side, **where)
    assert chaincode.result == b"value"


@pytest.mark.parametrize(
    ("wrong", "on_path"), [("host", False), ("authority", False), ("authority", True)]
)
def test_a_peer_that_cannot_be_verified_is_refused(
    tmp_path: Path, authority: Authority, wrong: str, on_path: bool
) -> None:
    pair = authority.issue(host="elsewhere.example.com" if wrong == "host" else "localhost")
    peer_side = context_of(ssl.PROTOCOL_TLS_SERVER, tmp_path, pair, authority)
    trusted = authority if wrong == "host" else Authority()
    tls = shim.TLS(*authority.issue(), trusted.pem)
    where = {"path": str(tmp_path / "peer.sock")} if on_path else {}
    with pytest.raises(shim.StreamClosed, match="CERTIFICATE_VERIFY_FAILED"):
        serve_client(get_and_put, Calls(get), tls, tls=peer_side, **where)


@pytest.mark.parametrize(
    ("key", "cert", "ca", "message"),
    [
        (b"junk", None, None, "key and certificate cannot be used"),
        (None, b"junk", None, "key and certificate cannot be used"),
        (None, None, b"junk", "the root certificates cannot be used"),
        (None, None, "ü".encode(), "the root certificates cannot be used"),
    ],
)
def test_bad_material(authority: Authority, key: Any, cert: Any, ca: Any, message: str) -> None:
    good_key, good_cert = authority.issue()
    tls = shim.TLS(key or good_key, cert or good_cert, ca or authority.pem)
    with pytest.raises(shim.SetupError, match=message):
        asyncio.run(run_client(Calls(get), "cc", "localhost:1", tls))


# Sizes


def test_a_large_value_both_ways() -> None:
    async def script(peer: ScriptedPeer) -> None:
        await peer.shake_hands()
        peer.begin(b"f")
        peer.answer(await peer.receive(), BIG)
        put = await peer.receive()
        assert put.type == T.PUT_STATE
        assert BIG in put.payload
        peer.answer(put)
        assert response_of(await peer.receive()).payload == b"done"

    async def copy(stub: shim.ChaincodeStub) -> None:
        await stub.put_state("copy", await stub.get_state("k") or b"")

    class Copy(shim.Chaincode):
        async def invoke(self, stub: shim.ChaincodeStub) -> bytes:
            await copy(stub)
            return b"done"

    serve_client(script, Copy())


def test_many_transactions_at_once() -> None:
    async def script(peer: ScriptedPeer) -> None:
        await peer.shake_hands()
        for number in range(300):
            peer.begin(b"f", txid=str(number))
        done = 0
        while done < 300:
            message = await peer.receive()
            if message.type == T.COMPLETED:
                done += 1
            else:
                peer.answer(message, b"x" * 1000)

    serve_client(script, Calls(get))


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (b"\1\0\0\0\1", "compressed"),
        (b"\0\x7f\0\0\0", r"larger than max \(2130706432 vs. 104857600\)"),
    ],
)
def test_messages_that_are_not_taken(
    prefix: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: ScriptedPeer) -> None:
        await peer.shake_hands()
        peer.begin(b"f")
        await peer.receive()
        raw = peer.stream.stream._stream  # type: ignore[attr-defined]
        await raw.send_data(prefix + b"x")
        await peer.ended()

    with pytest.raises(shim.StreamClosed, match=message):
        serve_client(script, Calls(get))


# Refusals and ends


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(shim.StreamClosed, match=f"no connection to {address}"):
            asyncio.run(run_client(Calls(get), "cc", address))


def test_a_peer_that_does_not_answer_the_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_LIMIT_S", 0.05)
    authority = Authority()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tls = shim.TLS(*authority.issue(), authority.pem)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(shim.StreamClosed, match=r"no connection to .* within 0\.05 s"):
            asyncio.run(run_client(Calls(get), "cc", address, tls))


@pytest.mark.parametrize("after_register", [True, False])
def test_a_refused_registration_shows_the_peers_words(after_register: bool) -> None:
    async def script(peer: ScriptedPeer) -> None:
        if after_register:
            await peer.receive()
        raise GRPCError(Status.ALREADY_EXISTS, "duplicate chaincodeID: mycc:1.0 ü")

    with pytest.raises(shim.StreamClosed) as caught:
        serve_client(script, Calls(get))
    assert str(caught.value) == (
        "the peer ended the stream: duplicate chaincodeID: mycc:1.0 ü (gRPC status 6)"
    )


def test_a_server_without_the_method() -> None:
    class Elsewhere(ListeningPeer):
        def __mapping__(self) -> Any:
            return {"/other/Method": super().__mapping__().popitem()[1]}

    async def both() -> None:
        async with Elsewhere(get_and_put).listening() as address:
            await run_client(Calls(get), "cc", address)

    with pytest.raises(shim.StreamClosed, match="Method not found"):
        asyncio.run(both())


def test_a_connection_that_is_cut_fails_the_waiting_call() -> None:
    raised: list[str] = []

    async def ask(stub: shim.ChaincodeStub) -> None:
        with pytest.raises(shim.StreamClosed) as caught:
            await stub.get_state("k")
        raised.append(str(caught.value))

    async def script(peer: ScriptedPeer) -> None:
        await peer.shake_hands()
        peer.begin(b"f")
        await peer.receive()
        peer.stream.stream._stream._transport.abort()  # type: ignore[attr-defined]

    with pytest.raises(shim.StreamClosed, match="Connection lost"):
        serve_client(script, Calls(ask))
    assert raised == ["Connection lost"]


def test_a_connection_that_is_cut_while_a_large_message_waits() -> None:
    """The writer waits for credit that never comes; the end must not wait with it."""
    full = asyncio.Event()

    class NeverReads(ListeningPeer):
        async def _register(self, stream: Any) -> None:
            raw = stream._stream
            add = raw.buffer.add

            def watched(data: bytes, ack_size: int) -> None:
                add(data, ack_size)
                if raw.data_received + len(data) >= 4 << 20:
                    full.set()

            raw.buffer.add = watched
            await full.wait()
            raw._transport.abort()
            self.done.set()

    async def both() -> None:
        peer = NeverReads(get_and_put)
        async with peer.listening() as address, connect(address) as stream:
            stream.send(BIG)
            with pytest.raises(shim.StreamClosed, match="Connection lost"):
                await stream.run(lambda data: None)
            await peer.done.wait()

    asyncio.run(both())


def test_unknown_frames_are_ignored() -> None:
    async def script(peer: ScriptedPeer) -> None:
        await peer.shake_hands()
        raw = peer.stream.stream._stream  # type: ignore[attr-defined]
        raw._transport.write(b"\0\0\1\xfa\0\0\0\0\0x")  # type 0xfa, one byte
        peer.begin(b"f")
        peer.answer(await peer.receive(), b"value")
        assert response_of(await peer.receive()).status == 200

    serve_client(script, Calls(get))


def test_leaving_flushes_and_ends_the_stream() -> None:
    received: list[bytes] = []

    async def script(peer: ScriptedPeer) -> None:
        await peer.receive()
        await peer.ended()
        received.extend(peer.raw)

    async def both() -> None:
        peer = ListeningPeer(script)
        async with peer.listening() as address:
            async with connect(address) as stream:
                stream.send(b"")
                stream.close()
                await stream.run(lambda data: None)
                with pytest.raises(shim.StreamClosed):
                    stream.send(b"")
            await peer.done.wait()

    asyncio.run(both())
    assert received == [b""]


def test_a_peer_that_does_not_say_goodbye_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "GOODBYE_LIMIT_S", 0.05)
    release = asyncio.Event()

    async def script(peer: ScriptedPeer) -> None:
        await release.wait()

    async def both() -> None:
        peer = ListeningPeer(script)
        async with peer.listening() as address:
            async with connect(address) as stream:
                stream.send(b"")
                stream.close()
                await stream.run(lambda data: None)
            release.set()
            await peer.done.wait()

    asyncio.run(both())


def test_a_writer_without_credit_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FLUSH_LIMIT_S", 0.05)
    monkeypatch.setattr(client_module, "GOODBYE_LIMIT_S", 0.05)
    release = asyncio.Event()

    class NeverReads(ListeningPeer):
        async def _register(self, stream: Any) -> None:
            await release.wait()
            self.done.set()

    async def both() -> None:
        peer = NeverReads(get_and_put)
        async with peer.listening() as address:
            async with connect(address) as stream:
                stream.send(BIG)
                stream.send(b"behind")
                stream.close()
                await stream.run(lambda data: None)
            release.set()
            await peer.done.wait()

    asyncio.run(both())


def test_a_peer_that_closes_at_once() -> None:
    """The connection is gone before the request is sent."""

    async def both() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "localhost", 0)
        address = f"localhost:{server.sockets[0].getsockname()[1]}"
        async with server:
            await run_client(Calls(get), "cc", address)

    with pytest.raises(shim.StreamClosed):
        asyncio.run(asyncio.wait_for(both(), LIMIT_S))
