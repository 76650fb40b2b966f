"""The official gRPC library at the chaincode's end: sizes, status texts, TLS."""

from __future__ import annotations

import hashlib
import queue
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from peer.chaincode.certificates import CertificateAuthority
from peer.chaincode.stream import MAX_MESSAGE_BYTES, MessageStream, StreamRefused

from .conftest import Server, listening
from .raw import REGISTER

grpc = pytest.importorskip("grpc")

MIB = 2**20
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


@pytest.fixture(autouse=True)
def nothing_left_open() -> None:
    """The library keeps descriptors of its own for as long as the process lives."""


class Chaincode:
    """A blocking client; runs in a thread."""

    def __init__(self, channel: object) -> None:
        self._outgoing: queue.Queue[bytes | None] = queue.Queue()
        call = channel.stream_stream(  # type: ignore[attr-defined]
            REGISTER, request_serializer=bytes, response_deserializer=bytes
        )
        self._answers = call(self._requests(), timeout=60)

    def _requests(self) -> Iterator[bytes]:
        while (message := self._outgoing.get()) is not None:
            yield message

    def send(self, message: bytes) -> None:
        self._outgoing.put(message)

    def receive(self) -> bytes:
        answer: bytes = next(self._answers)
        return answer

    def close(self) -> None:
        self._outgoing.put(None)


async def run(
    address: str, script: Callable[[Chaincode], None], credentials: object = None
) -> None:
    """Run a script against the peer in a thread."""

    def work() -> None:
        if credentials is None:
            channel = grpc.insecure_channel(address, OPTIONS)
        else:
            channel = grpc.secure_channel(address, credentials, OPTIONS)
        with channel:
            chaincode = Chaincode(channel)
            try:
                script(chaincode)
            finally:
                chaincode.close()

    await trio.to_thread.run_sync(work)


@pytest.mark.parametrize("unix", [False, True])
async def test_messages_go_both_ways(served: Server, tmp_path: Path, unix: bool) -> None:
    def script(chaincode: Chaincode) -> None:
        for size in (0, 1, 16_384, 5 * MIB):
            chaincode.send(b"x" * size)
            assert len(chaincode.receive()) == size

    async with listening(served, tmp_path, unix=unix, limit=MAX_MESSAGE_BYTES) as endpoint:
        await run(endpoint.address, script)


async def test_ninety_mebibytes_both_ways(served: Server, tmp_path: Path) -> None:
    pattern = bytes(range(256)) * 4 * 1024 * 90

    def script(chaincode: Chaincode) -> None:
        chaincode.send(pattern)
        answer = chaincode.receive()
        assert len(answer) == 90 * MIB
        assert hashlib.sha256(answer).digest() == hashlib.sha256(pattern).digest()

    async with listening(served, tmp_path, limit=MAX_MESSAGE_BYTES) as endpoint:
        await run(endpoint.address, script)
    served.received.clear()


async def test_one_byte_too_many(served: Server, tmp_path: Path) -> None:
    def script(chaincode: Chaincode) -> None:
        chaincode.send(b"x" * (MAX_MESSAGE_BYTES + 1))
        with pytest.raises(grpc.RpcError) as failed:
            chaincode.receive()
        assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max (104857601 vs. 104857600)" in failed.value.details()

    async with listening(served, tmp_path, limit=MAX_MESSAGE_BYTES) as endpoint:
        await run(endpoint.address, script)
    assert served.received == []


async def test_a_refusal_is_readable(served: Server, tmp_path: Path) -> None:
    text = "100 % refused: \u201cno\u201d\n[tx]"

    def refuse(stream: MessageStream, data: bytes) -> None:
        raise StreamRefused("PERMISSION_DENIED", text)

    def script(chaincode: Chaincode) -> None:
        chaincode.send(b"x")
        with pytest.raises(grpc.RpcError) as failed:
            chaincode.receive()
        assert failed.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert failed.value.details() == text

    served.answer = refuse
    async with listening(served, tmp_path) as endpoint:
        await run(endpoint.address, script)


async def test_mutual_tls(
    served: Server, tmp_path: Path, authority: CertificateAuthority, server_tls: ssl.SSLContext
) -> None:
    pair = authority.issue_client()
    credentials = grpc.ssl_channel_credentials(authority.certificate, pair.key, pair.certificate)

    def script(chaincode: Chaincode) -> None:
        chaincode.send(b"x" * MIB)
        assert len(chaincode.receive()) == MIB

    async with listening(served, tmp_path, tls=server_tls, limit=MAX_MESSAGE_BYTES) as endpoint:
        await run(endpoint.address, script, credentials)
    certificate = served.streams[0].far_end.certificate
    assert certificate is not None
    assert hashlib.sha256(certificate).digest() == pair.sha256


async def test_a_deadline_of_the_client_ends_the_stream(served: Server, tmp_path: Path) -> None:
    def work() -> None:
        with grpc.insecure_channel(endpoint.address, OPTIONS) as channel:
            call = channel.stream_stream(
                REGISTER, request_serializer=bytes, response_deserializer=bytes
            )
            forever: queue.Queue[bytes] = queue.Queue()
            answers = call(iter(forever.get, None), timeout=0.3)
            with pytest.raises(grpc.RpcError) as failed:
                next(answers)
            assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            forever.put(None)  # type: ignore[arg-type]

    async with listening(served, tmp_path) as endpoint:
        await trio.to_thread.run_sync(work)
        await served.wait_ended()
