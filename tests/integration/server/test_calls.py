"""Calls as Google's library makes them: what comes back, and what is refused in what words."""

from __future__ import annotations

import hashlib
import ssl
from functools import partial

import grpc
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fabric_protos.codec import decode
from fabric_protos.gateway import ErrorDetail
from fabric_protos.google.rpc import Status
from peer.chaincode.certificates import CertificateAuthority
from peer.rpc.tls import server_context
from peer.services.api import Unary
from tests.integration.rpc import raw
from tests.integration.server.conftest import (
    MEGABYTE,
    SERVICE,
    Service,
    google_client,
    in_thread,
    path,
    serving,
)

pytestmark = pytest.mark.usefixtures("both_ways")

CODE = grpc.StatusCode


async def test_one_request_has_one_response(service: Service) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        assert await client.unary("echo", b"hello") == b"hello"
        assert await client.unary("echo") == b""
    assert [caller.address.rpartition(":")[0] for caller in service.callers] == ["127.0.0.1"] * 2
    assert service.callers[0].certificate == b""


async def test_large_messages_pass_both_ways(service: Service) -> None:
    message = b"0123456789abcdef" * MEGABYTE
    async with serving(service.methods()) as address, google_client(address) as client:
        assert await client.unary("echo", message) == message
        assert await client.stream("chat", message, b"small") == [message, b"small"]


async def test_a_stream_is_answered_message_by_message(service: Service) -> None:
    async with serving(service.methods()) as address, raw.client(address) as client:
        await client.call(f"/{SERVICE}/chat")
        for word in (b"1", b"2", b"3"):
            await client.send(word)
            assert await client.messages(1) == [word]
        client.h2.end_stream(client.stream_id)
        await client.flush()
        assert await client.status() == (0, "")


async def test_many_calls_share_a_connection(service: Service) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        method = client.channel.unary_unary(path(service.echo))
        words = [str(number).encode() for number in range(300)]
        pending = [method.future(word) for word in words]
        assert await in_thread(lambda: [each.result() for each in pending]) == words


async def test_a_refusal_has_code_text_and_details(service: Service) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        failure = await client.failure("refuse", "nö\nno".encode())
    assert (failure.code, failure.text) == (CODE.ABORTED, "nö\nno")
    status = decode(Status, failure.trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (10, "nö\nno")
    kinds = {each.type_url for each in status.details}
    assert kinds == {"type.googleapis.com/gateway.ErrorDetail"}
    details = [decode(ErrorDetail, each.value) for each in status.details]
    assert [(each.address, each.msp_id, each.message) for each in details] == [
        ("peer0:7051", "Org1MSP", "because"),
        ("", "", "and so"),
    ]


async def test_a_sentence_too_long_for_trailers_is_cut(service: Service) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        failure = await client.failure("refuse", b"x" * 100_000)
    assert failure.code is CODE.ABORTED
    assert failure.text == "x" * 2048


async def test_a_bug_is_told_to_the_log_and_not_to_the_client(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        failure = await client.failure("fail")
        assert failure.code is CODE.INTERNAL
        assert "secret" not in failure.text
        assert await client.unary("echo", b"still here") == b"still here"
    assert "a secret" in caplog.text


async def test_unknown_methods_and_requests_that_are_none(service: Service) -> None:
    def strict(data: bytes) -> Status:
        return decode(Status, data)

    async def never(_: object, __: object) -> bytes:
        raise AssertionError("an unreadable request was passed on")

    read = Unary(path=f"/{SERVICE}/read", decode=strict, call=never, encode=bytes)
    async with serving([*service.methods(), read]) as address, google_client(address) as client:
        failure = await client.failure("nothing")
        assert failure.code is CODE.UNIMPLEMENTED
        assert failure.text == f"unknown method nothing for service {SERVICE}"
        failure = await client.failure("read", b"\xff\xff")
        assert failure.code is CODE.INVALID_ARGUMENT
        assert "Status" in failure.text


@pytest.mark.parametrize("requests", [0, 2])
async def test_a_unary_call_has_exactly_one_request(service: Service, requests: int) -> None:
    async with serving(service.methods()) as address, raw.client(address) as client:
        await client.call(path(service.echo))
        await client.send(*[b"x"] * requests)
        client.h2.end_stream(client.stream_id)
        await client.flush()
        assert (await client.status())[0] == CODE.UNIMPLEMENTED.value[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({":method": "GET"}, "405"),
        ({"content-type": "application/json"}, "415"),
        ({"content-type": "application/grpc+json"}, "415"),
    ],
)
async def test_what_is_not_grpc_is_told_so(
    service: Service, headers: dict[str, str], status: str
) -> None:
    async with serving(service.methods()) as address, raw.client(address) as client:
        await client.call(path(service.echo), **headers)
        await client.until(lambda: client.ended)
        assert client.headers[":status"] == status


@pytest.mark.parametrize("text", ["soon", "1", "S", "123456789S", "-1S", "\u0663S"])
async def test_a_malformed_timeout_is_refused(service: Service, text: str) -> None:
    async with serving(service.methods()) as address, raw.client(address) as client:
        await client.call(path(service.echo), **{"grpc-timeout": text})
        assert (await client.status())[0] == CODE.INVALID_ARGUMENT.value[0]


async def test_compressed_requests_are_refused(service: Service) -> None:
    async with serving(service.methods()) as address, raw.client(address) as client:
        await client.call(path(service.echo))
        await client.send_data(raw.frame(b"x", compressed=True), end=True)
        assert (await client.status())[0] == CODE.UNIMPLEMENTED.value[0]


async def test_sizes_have_limits(service: Service) -> None:
    async with (
        serving(service.methods(), max_recv=1000, max_send=2000) as address,
        google_client(address) as client,
    ):
        assert await client.unary("echo", bytes(1000)) == bytes(1000)
        failure = await client.failure("echo", bytes(1001))
        assert failure.code is CODE.RESOURCE_EXHAUSTED
        assert failure.text == "grpc: received message larger than max (1001 vs. 1000)"
        assert await client.unary("fill", b"2000") == bytes(2000)
        failure = await client.failure("fill", b"2001")
        assert failure.code is CODE.RESOURCE_EXHAUSTED
        assert failure.text == "trying to send message larger than max (2001 vs. 2000)"


async def test_all_requests_together_have_a_limit(service: Service) -> None:
    async with (
        serving(service.methods(), max_recv=MEGABYTE, held=MEGABYTE) as address,
        raw.client(address) as one,
        raw.client(address) as other,
    ):
        await one.call(path(service.echo))
        await one.send_data(raw.frame(bytes(600_000))[:-1])  # the last byte does not come
        await one.send_frame(6, 0, bytes(8))
        await one.until(lambda: any(type(e).__name__ == "PingAckReceived" for e in one.events))
        await other.call(path(service.echo))
        await other.send_data(raw.frame(bytes(600_000)), end=True)
        assert (await other.status())[0] == CODE.RESOURCE_EXHAUSTED.value[0]
        await one.send_data(b"\0", end=True)
        assert len((await one.messages(1))[0]) == 600_000
        other.headers, other.trailers, other.ended, other.reset = {}, {}, False, None
        await other.call(path(service.echo))
        await other.send_data(raw.frame(bytes(600_000)), end=True)
        assert (await other.status())[0] == 0


async def test_calls_at_once_have_a_limit_of_their_service(service: Service) -> None:
    async with (
        serving(service.methods(), concurrency={f"/{SERVICE}": 2, "/other": 1}) as address,
        google_client(address) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            service.began = trio.Event()
            nursery.start_soon(client.unary, "wait")
            await service.began.wait()
        for name in ("echo", "chat"):
            method = client.stream if name == "chat" else client.unary
            with pytest.raises(grpc.RpcError) as info:
                await method(name, b"x")
            assert info.value.code() is CODE.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
            assert info.value.details() == (  # type: ignore[attr-defined]
                f"too many requests for /{SERVICE}, exceeding concurrency limit (2)"
            )
        service.go.set()
        await service.ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert await client.unary("echo", b"x") == b"x"


async def test_who_is_still_sending_takes_no_place(service: Service) -> None:
    async with (
        serving(service.methods(), concurrency={f"/{SERVICE}": 1}) as address,
        raw.client(address) as slow,
        google_client(address) as client,
    ):
        await slow.call(path(service.echo))
        await slow.send_data(raw.frame(b"abc")[:3])
        assert await client.unary("echo", b"x") == b"x"
        await slow.send_data(raw.frame(b"abc")[3:], end=True)
        assert await slow.messages(1) == [b"abc"]


async def test_the_callers_deadline_ends_the_call(service: Service) -> None:
    async with serving(service.methods()) as address, raw.client(address) as client:
        await client.call(path(service.wait), **{"grpc-timeout": "50m"})
        await client.send_data(raw.frame(b"x"), end=True)
        assert await client.status() == (4, "context deadline exceeded")
        assert service.ended.is_set()
        assert service.waiting == 0


async def test_a_deadline_holds_while_the_request_is_sent(service: Service) -> None:
    async with serving(service.methods()) as address, raw.client(address) as client:
        await client.call(path(service.wait), **{"grpc-timeout": "50m"})
        assert await client.status() == (4, "context deadline exceeded")
        assert not service.began.is_set()


@pytest.mark.parametrize("name", ["wait", "listen"])
async def test_a_caller_who_cancels_ends_the_call(service: Service, name: str) -> None:
    async with serving(service.methods()) as address, google_client(address) as client:
        method = client.channel.stream_stream(f"/{SERVICE}/{name}")
        call = method(iter([b"x"]))
        if name == "wait":
            await service.began.wait()
        else:
            assert await in_thread(partial(next, call)) == b"x"
        call.cancel()
        with trio.fail_after(10):
            await service.ended.wait()
        assert await client.unary("echo", b"x") == b"x"


async def test_a_connection_that_breaks_ends_its_calls(service: Service) -> None:
    async with serving(service.methods()) as address:
        async with raw.client(address) as client:
            await client.call(path(service.wait))
            await client.send_data(raw.frame(b"x"), end=True)
            await service.began.wait()
        with trio.fail_after(10):
            await service.ended.wait()


async def test_who_does_not_read_is_waited_for(service: Service) -> None:
    async with serving(service.methods()) as address:
        async with raw.client(address, generous=False) as client:
            await client.call(path(service.flood))
            await client.send(b"x")
            await service.began.wait()
            await client.until(lambda: len(client.body) == 65535)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert service.waiting == 0  # not even the first message has gone out
            client.h2.increment_flow_control_window(2 * MEGABYTE)
            client.h2.increment_flow_control_window(2 * MEGABYTE, client.stream_id)
            await client.flush()
            await client.until(lambda: len(client.body) == 65535 + 2 * MEGABYTE)
            assert service.waiting == 2
        with trio.fail_after(10):
            await service.ended.wait()


NOT_READ = (4, "the response is not being read")


async def test_a_response_that_nobody_reads_is_given_up(service: Service) -> None:
    async with (
        serving(service.methods(), stall_s=0.1) as address,
        raw.client(address, generous=False) as client,
    ):
        await client.call(path(service.fill))
        await client.send_data(raw.frame(b"100000"), end=True)
        assert await client.status() == NOT_READ


async def test_a_stream_that_nobody_reads_gives_its_place_back(service: Service) -> None:
    alone = {f"/{SERVICE}": 1}
    async with (
        serving(service.methods(), concurrency=alone, stall_s=0, stream_stall_s=0.1) as address,
        raw.client(address, generous=False) as client,
        google_client(address) as other,
    ):
        await client.call(path(service.flood))
        await client.send(b"x")
        await service.began.wait()
        assert (await other.failure("echo")).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await client.status() == NOT_READ
        assert service.ended.is_set()
        assert await other.unary("echo", b"x") == b"x"


async def test_only_what_is_read_counts_as_reading(service: Service) -> None:
    async with (
        serving(service.methods(), stream_stall_s=0.3) as address,
        raw.client(address, generous=False) as client,
    ):
        await client.call(path(service.flood))
        await client.send(b"x")
        with trio.fail_after(20):
            while not client.ended:  # the connection's credit wakes every stream of it
                client.h2.increment_flow_control_window(1)
                await client.flush()
                with trio.move_on_after(0.05):
                    await client.until(lambda: client.ended)
        assert await client.status() == NOT_READ


async def test_streams_that_are_not_read_hold_up_no_other(service: Service) -> None:
    async with serving(service.methods()) as address, raw.client(address) as client:
        for _ in range(6):
            await client.call(path(service.listen))
            await client.send(b"x")
            assert await client.messages(1) == [b"x"]
            await client.send_data(bytes(MEGABYTE - 6))  # all that a stream may have waiting
            assert client.h2.local_flow_control_window(client.stream_id) < 10
        await client.call(path(service.echo))
        await client.send_data(raw.frame(bytes(MEGABYTE)), end=True)
        assert await client.messages(1) == [bytes(MEGABYTE)]


async def test_tls(service: Service, authority: CertificateAuthority) -> None:
    pair = authority.issue_server("127.0.0.1")
    tls = server_context(pair.certificate, pair.key)
    credentials = grpc.ssl_channel_credentials(authority.certificate)
    async with serving(service.methods(), tls=tls) as address:
        async with google_client(address, credentials) as client:
            big = bytes(3 * MEGABYTE)
            assert await client.unary("echo", big) == big
        async with google_client(address) as client:
            failure = await client.failure("echo", timeout=5)
            assert failure.code in (CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED)
    assert [caller.certificate for caller in service.callers] == [b""]


async def test_mutual_tls_tells_who_calls(
    service: Service, authority: CertificateAuthority
) -> None:
    pair, client_pair = authority.issue_server("127.0.0.1"), authority.issue_client()
    tls = server_context(pair.certificate, pair.key, authority.certificate)
    credentials = grpc.ssl_channel_credentials(
        authority.certificate, client_pair.key, client_pair.certificate
    )
    async with serving(service.methods(), tls=tls) as address:
        async with google_client(address, credentials) as client:
            assert await client.unary("echo", b"x") == b"x"
        nobody = grpc.ssl_channel_credentials(authority.certificate)
        async with google_client(address, nobody) as client:
            assert (await client.failure("echo", timeout=5)).code in (
                CODE.UNAVAILABLE,
                CODE.DEADLINE_EXCEEDED,
            )
    der = x509.load_pem_x509_certificate(client_pair.certificate).public_bytes(Encoding.DER)
    (caller,) = service.callers
    assert hashlib.sha256(caller.certificate).digest() == hashlib.sha256(der).digest()


def test_a_context_is_made_of_pem_only(authority: CertificateAuthority) -> None:
    pair = authority.issue_server("127.0.0.1")
    with pytest.raises(ssl.SSLError):
        server_context(pair.certificate, b"no key")
