"""TLS between peer and chaincodes: who gets in, and what happens to everybody else."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from peer.chaincode.certificates import CertificateAuthority, KeyPair
from peer.remote import ClientTls
from peer.rpc import tls as tls_module
from peer.rpc.accepted import HANDSHAKE_S
from peer.rpc.tls import client_context, server_context

from .conftest import Server, client_tls, listening, settle
from .raw import RawPeer, client, dial


async def test_mutual_tls(
    served: Server, tmp_path: Path, authority: CertificateAuthority, server_tls: ssl.SSLContext
) -> None:
    pair = authority.issue_client()
    context = client_tls(authority.certificate, pair, tmp_path)
    async with (
        listening(served, tmp_path, tls=server_tls) as endpoint,
        client(endpoint.address, tls=context) as chaincode,
    ):
        await chaincode.call()
        await chaincode.send(b"secret", b"x" * 500_000)
        assert await chaincode.messages(2) == [b"secret", b"x" * 500_000]
        transport = chaincode.transport
        assert isinstance(transport, trio.SSLStream)
        assert transport.selected_alpn_protocol() == "h2"
        assert transport.version() in ("TLSv1.2", "TLSv1.3")
    der = x509.load_pem_x509_certificate(pair.certificate).public_bytes(Encoding.DER)
    assert served.streams[0].far_end.certificate == der


async def test_tls_1_2_with_the_ciphers_of_go(
    served: Server, tmp_path: Path, authority: CertificateAuthority, server_tls: ssl.SSLContext
) -> None:
    context = client_tls(authority.certificate, authority.issue_client(), tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    async with (
        listening(served, tmp_path, tls=server_tls) as endpoint,
        client(endpoint.address, tls=context) as chaincode,
    ):
        await chaincode.call()
        await chaincode.send(b"x")
        assert await chaincode.messages(1) == [b"x"]


async def refused(address: str, context: ssl.SSLContext) -> None:
    """Connect and see that no stream comes about."""
    with pytest.raises((trio.BrokenResourceError, AssertionError)):  # noqa: PT012
        async with client(address, tls=context) as chaincode:
            await chaincode.call()
            await chaincode.send(b"x")
            await chaincode.messages(1)


async def test_strangers_stay_outside(
    served: Server, tmp_path: Path, authority: CertificateAuthority, server_tls: ssl.SSLContext
) -> None:
    foreign = CertificateAuthority().issue_client()
    expired = authority.issue_client(timedelta(seconds=-1))
    as_server = authority.issue_server("127.0.0.1")
    async with listening(served, tmp_path, tls=server_tls) as endpoint:
        for pair in (None, foreign, expired, as_server):
            await refused(endpoint.address, client_tls(authority.certificate, pair, tmp_path))
        good = client_tls(authority.certificate, authority.issue_client(), tmp_path)
        async with client(endpoint.address, tls=good) as chaincode:
            await chaincode.call()
            await chaincode.send(b"x")
            assert await chaincode.messages(1) == [b"x"]
    assert len(served.streams) == 1


async def test_plain_text_on_the_tls_port(
    served: Server, tmp_path: Path, server_tls: ssl.SSLContext
) -> None:
    async with listening(served, tmp_path, tls=server_tls) as endpoint:
        with pytest.raises((trio.BrokenResourceError, AssertionError)):  # noqa: PT012
            async with client(endpoint.address) as chaincode:
                await chaincode.call()
                await chaincode.until(lambda: chaincode.ended)
    assert served.streams == []


async def test_old_tls_is_refused(
    served: Server, tmp_path: Path, authority: CertificateAuthority, server_tls: ssl.SSLContext
) -> None:
    context = client_tls(authority.certificate, authority.issue_client(), tmp_path)
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening(served, tmp_path, tls=server_tls) as endpoint:
        await refused(endpoint.address, context)


async def test_a_client_that_does_not_trust_us(
    served: Server, tmp_path: Path, authority: CertificateAuthority, server_tls: ssl.SSLContext
) -> None:
    other = CertificateAuthority()
    context = client_tls(other.certificate, authority.issue_client(), tmp_path)
    async with listening(served, tmp_path, tls=server_tls) as endpoint:
        await refused(endpoint.address, context)
        await settle()
    assert served.streams == []


async def test_a_silent_client_is_let_go(
    served: Server,
    tmp_path: Path,
    server_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert HANDSHAKE_S == 5.0
    monkeypatch.setattr("peer.rpc.accepted.HANDSHAKE_S", 0.1)
    async with (
        listening(served, tmp_path, tls=server_tls) as endpoint,
        await dial(endpoint.address) as silent,
    ):
        with trio.fail_after(5):
            assert await silent.receive_some() == b""


@pytest.mark.parametrize("has_tls", [True, False])
async def test_one_that_only_looks_is_no_trouble(
    served: Server,
    tmp_path: Path,
    server_tls: ssl.SSLContext,
    has_tls: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A chaincode's container tries the address before its library dials."""
    async with listening(served, tmp_path, tls=server_tls if has_tls else None) as endpoint:
        await (await dial(endpoint.address)).aclose()
        await settle()
    assert served.streams == []
    assert caplog.text == ""


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01"])
async def test_leaving_in_the_middle_of_a_handshake(
    served: Server, tmp_path: Path, server_tls: ssl.SSLContext, beginning: bytes
) -> None:
    async with listening(served, tmp_path, tls=server_tls) as endpoint:
        stream = await dial(endpoint.address)
        await stream.send_all(beginning)
        await settle()
    async with stream:
        with trio.fail_after(5):
            assert await stream.receive_some() == b""


@asynccontextmanager
async def client_that_stays(
    tmp_path: Path,
    context: ssl.SSLContext,
    served: Server,
    server_tls: ssl.SSLContext,
) -> AsyncIterator[RawPeer]:
    """Hold a connection whose listener has left, with much unread on it."""
    async with listening(served, tmp_path, tls=server_tls) as endpoint:
        holding = client(endpoint.address, tls=context)
        chaincode = await holding.__aenter__()
        await chaincode.call()
        await chaincode.send(b"x")
        await chaincode.messages(1)
        for _ in range(100):
            served.streams[0].send(bytes(2**18))
    try:
        yield chaincode
    finally:
        await holding.__aexit__(None, None, None)


async def test_leaving_an_open_connection_that_does_not_say_goodbye(
    served: Server,
    tmp_path: Path,
    authority: CertificateAuthority,
    server_tls: ssl.SSLContext,
) -> None:
    context = client_tls(authority.certificate, authority.issue_client(), tmp_path)
    async with client_that_stays(tmp_path, context, served, server_tls) as chaincode:
        with trio.fail_after(5):
            await chaincode.until_closed()
    assert served.reasons == ["cancelled"]


class TestContexts:
    """What the contexts are made of."""

    def test_the_server_demands_a_certificate(self, authority: CertificateAuthority) -> None:
        pair = authority.issue_server("127.0.0.1")
        context = server_context(pair.certificate, pair.key, authority.certificate)
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        [root] = context.get_ca_certs(binary_form=True)
        assert ssl.DER_cert_to_PEM_cert(root).strip() == authority.certificate.decode().strip()

    def test_the_client_checks_the_name(self, authority: CertificateAuthority) -> None:
        context = client_context(ClientTls(root=authority.certificate))
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED

    @pytest.mark.parametrize("field", ["root", "certificate", "key"])
    def test_bad_pem_is_an_ssl_error(self, authority: CertificateAuthority, field: str) -> None:
        pair = authority.issue_client()
        good = {"root": authority.certificate, "certificate": pair.certificate, "key": pair.key}
        with pytest.raises(ssl.SSLError):
            client_context(ClientTls(**good | {field: b"not PEM"}))

    def test_the_key_never_touches_a_disk(
        self, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        loaded: list[str] = []
        pair: KeyPair = authority.issue_client()

        class Context:
            def load_cert_chain(self, path: str) -> None:
                loaded.append(path)

        tls_module._load_key_pair(Context(), pair.certificate, pair.key)  # type: ignore[arg-type]
        [path] = loaded
        assert path.startswith("/proc/self/fd/")
        assert not Path(path).exists()
