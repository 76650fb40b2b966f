"""Listeners and connectors on real sockets, with nothing left behind."""

from __future__ import annotations

import gc
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from peer.chaincode.certificates import CertificateAuthority, KeyPair
from peer.chaincode.stream import MessageStream, StreamClosed, StreamRefused
from peer.rpc.listener import FIRST_CALL_S, ChaincodeListeners, OpenListener
from peer.rpc.loop import open_loop
from peer.rpc.streams import GrpcStream
from peer.rpc.tls import server_context


def open_files() -> set[str]:
    """Return what this process holds open, by kind and inode."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # the listing's own
            continue
    return {target for target in found if target.startswith(("socket:", "anon_inode:", "/memfd"))}


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Every test closes its sockets."""
    before = open_files()
    yield
    gc.collect()
    assert open_files() - before == set()


class Server:
    """What the peer's side of every stream does and saw.

    Attributes:
        answer: called with the stream and each message; by default it echoes.
        reasons: how each stream ended: "closed", "cancelled", or why it broke.
    """

    def __init__(self) -> None:
        self.streams: list[MessageStream] = []
        self.received: list[bytes] = []
        self.reasons: list[str] = []
        self.answer: Callable[[MessageStream, bytes], None] = lambda stream, data: stream.send(data)
        self.hold = trio.Event()
        self.hold.set()
        self.ended = trio.Event()

    async def __call__(self, stream: MessageStream) -> None:
        self.streams.append(stream)
        await self.hold.wait()

        def on_message(data: bytes) -> None:
            self.received.append(data)
            self.answer(stream, data)

        reason = "cancelled"
        try:
            await stream.run(on_message)
            reason = "closed"
        except StreamClosed as exc:
            reason = str(exc)
        except StreamRefused as exc:
            reason = str(exc)
            raise
        finally:
            self.reasons.append(reason)
            self.ended.set()

    async def wait_ended(self) -> None:
        with trio.fail_after(10):
            await self.ended.wait()


@pytest.fixture(params=[True, False], ids=["past h2", "through h2"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """DATA of chaincode streams takes either way."""
    stream = partial(GrpcStream, is_direct=request.param)
    monkeypatch.setattr("peer.rpc.listener.GrpcStream", stream)
    monkeypatch.setattr("peer.rpc.connector.GrpcStream", stream)


@pytest.fixture
def served() -> Server:
    return Server()


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


@pytest.fixture(scope="session")
def server_tls(authority: CertificateAuthority) -> ssl.SSLContext:
    pair = authority.issue_server("127.0.0.1", "localhost")
    return server_context(pair.certificate, pair.key, authority.certificate)


def client_tls(
    root: bytes, pair: KeyPair | None, directory: Path, *, alpn: tuple[str, ...] = ("h2",)
) -> ssl.SSLContext:
    """Return what a chaincode's library would use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root.decode())
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if pair is not None:
        path = directory / f"{pair.sha256.hex()}.pem"
        path.write_bytes(pair.certificate + pair.key)
        context.load_cert_chain(path)
    return context


@asynccontextmanager
async def listening(
    served: Server,
    directory: Path,
    *,
    tls: ssl.SSLContext | None = None,
    limit: int = 2**20,
    unix: bool = False,
    host: str = "127.0.0.1",
    first_call_s: float = FIRST_CALL_S,
    ping_s: float = 7200.0,
) -> AsyncIterator[OpenListener]:
    """Hold a listener with a loop of its own."""
    async with open_loop():
        listeners = ChaincodeListeners(
            directory,
            tls=(lambda host: tls) if tls else None,
            limit=limit,
            first_call_s=first_call_s,
            ping_s=ping_s,
        )
        async with listeners.open(served, unix=unix, host=host) as endpoint:
            yield endpoint


async def settle() -> None:
    """Let both loops and the kernel come to rest."""
    for _ in range(3):
        await wait_all_tasks_blocked(0.01)
