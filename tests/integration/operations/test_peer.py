"""The endpoint of a whole peer: what is told after a transaction, TLS, and what is refused."""

from __future__ import annotations

import json
import logging
import ssl
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from peer import PeerConfig, open_peer
from peer.chaincode.certificates import CertificateAuthority
from peer.config.model import MetricsConfig, NodeConfig, OperationsConfig
from peer.errors import BroadcastRefused, ConfigError, LedgerStorageError
from peer.remote import Endpoint
from peer.rpc.client import dial

CODE = """
import shim

class Writer(shim.Chaincode):
    async def invoke(self, stub):
        await stub.put_state("key", await stub.get_state("key") or b"value")

shim.start(Writer())
"""
ANYWHERE = OperationsConfig(listen_address="127.0.0.1:0")
SENT_AWAY = (ssl.SSLError, ConnectionError, urllib.error.URLError)
"""How that looks to the client depends on the version of TLS and on timing."""
PROMETHEUS = MetricsConfig(provider="prometheus")


async def ask(
    address: str,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, str]:
    """Ask with the standard library's client."""
    request = urllib.request.Request(
        f"{'https' if tls else 'http'}://{address}{path}", body, method=method
    )

    def asked() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=30, context=tls) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    return await trio.to_thread.run_sync(asked)


async def test_what_is_told_after_a_transaction(tmp_path: Path) -> None:
    (tmp_path / "chaincode.py").write_text(CODE)
    async with open_peer(PeerConfig(operations=ANYWHERE, metrics=PROMETHEUS)) as peer:
        address = peer.operations_address
        installed = await peer.install(tmp_path, name="writer")
        assert (await peer.invoke("mychannel", "writer", ["put"])).committed
        status, text = await ask(address, "/metrics")
        assert status == 200
        samples = {
            (each.name.removesuffix("_total"), tuple(sorted(each.labels.items()))): each.value
            for family in text_string_to_metric_families(text)
            for each in family.samples
        }

        def told(name: str, **labels: str) -> float | None:
            return samples.get((name, tuple(sorted(labels.items()))))

        height = peer.ledger("mychannel").height
        channel = {"channel": "mychannel"}
        assert told("ledger_blockchain_height", **channel) == height
        assert told("ledger_block_processing_time_count", **channel) == height - 1
        committed = {"transaction_type": "ENDORSER_TRANSACTION", "validation_code": "VALID"}
        assert told("ledger_transaction_count", chaincode="writer:1.0", **committed, **channel) == 1
        asked = {**channel, "chaincode": installed.ccid}
        assert told("chaincode_shim_requests_received", type="GET_STATE", **asked) == 1
        answered = told(
            "chaincode_shim_requests_completed", type="PUT_STATE", success="true", **asked
        )
        assert answered == 1
        endorsed = {**channel, "chaincode": "writer", "success": "true"}
        assert told("endorser_proposal_duration_count", **endorsed) == 1
        assert (
            told("chaincode_launch_duration_count", success="true", chaincode=installed.ccid) == 1
        )

        status, text = await ask(address, "/healthz")
        assert (status, json.loads(text)["status"]) == (200, "OK")
        status, text = await ask(address, "/version")
        assert (status, text) == (200, f'{{"Version":"{version(samples)}"}}')


def version(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> str:
    (labels,) = [labels for (name, labels) in samples if name == "fabric_version"]
    return dict(labels)["version"]


async def test_calls_of_clients_are_counted() -> None:
    anywhere = NodeConfig(listen_address="127.0.0.1:0")
    async with open_peer(PeerConfig(peer=anywhere)) as peer:
        async with dial(Endpoint(peer.address)) as connection:
            await connection.unary("/grpc.health.v1.Health/Check", b"")
        called = {"service": "grpc_health_v1_Health", "method": "Check", "code": "OK"}
        assert peer.metrics.value("grpc_server_unary_requests_completed", **called) == 1
        assert peer.metrics.value("grpc_comm_conn_opened") == 1


async def test_a_channel_that_cannot_be_ordered_is_ill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def append(self: object, block: object) -> None:
        raise LedgerStorageError("/ledgers/mychannel", "broken")

    (tmp_path / "chaincode.py").write_text(CODE)
    async with open_peer(PeerConfig(operations=ANYWHERE)) as peer:
        await peer.install(tmp_path, name="writer")
        monkeypatch.setattr("peer.ordering.embedded.CommittingStore.append", append)
        with pytest.raises(BroadcastRefused):
            await peer.invoke("mychannel", "writer", ["put"])
        status, text = await ask(peer.operations_address, "/healthz")
        (failed,) = json.loads(text)["failed_checks"]
        assert (status, failed["component"]) == (503, "ordering")
        reason = "channel mychannel: not ordered any more: ledger /ledgers/mychannel: broken"
        assert reason in failed["reason"]


async def test_nothing_listens_unless_it_is_asked_for() -> None:
    async with open_peer(PeerConfig(metrics=PROMETHEUS)) as peer:
        assert peer.operations_address == ""
    async with open_peer(PeerConfig(operations=ANYWHERE)) as peer:
        assert (await ask(peer.operations_address, "/metrics"))[0] == 404
    with pytest.raises(OSError, match="failed"):
        await trio.open_tcp_stream("127.0.0.1", int(peer.operations_address.split(":")[1]))


async def test_statsd_is_told_to_be_without_effect(caplog: pytest.LogCaptureFixture) -> None:
    statsd = MetricsConfig(provider="statsd")
    async with open_peer(PeerConfig(operations=ANYWHERE, metrics=statsd)) as peer:
        assert (await ask(peer.operations_address, "/metrics"))[0] == 404
    assert "metrics.provider statsd is not supported" in caplog.text


async def test_an_address_that_is_taken() -> None:
    async with open_peer(PeerConfig(operations=ANYWHERE)) as peer:
        taken = replace(ANYWHERE, listen_address=peer.operations_address)
        with pytest.raises(ConfigError, match=r"operations.listenAddress 127.*in use"):
            async with open_peer(PeerConfig(operations=taken)):
                pytest.fail("opened")


# TLS


@pytest.fixture
def authority() -> CertificateAuthority:
    return CertificateAuthority()


def guarded(directory: Path, authority: CertificateAuthority, **more: object) -> PeerConfig:
    pair = authority.issue_server("127.0.0.1")
    for name, content in (
        ("cert.pem", pair.certificate),
        ("key.pem", pair.key),
        ("ca.pem", authority.certificate),
    ):
        (directory / name).write_bytes(content)
    operations = OperationsConfig(
        listen_address="127.0.0.1:0",
        tls_enabled=True,
        tls_certificate=str(directory / "cert.pem"),
        tls_key=str(directory / "key.pem"),
        tls_client_root_cas=(str(directory / "ca.pem"),),
    )
    return PeerConfig(operations=replace(operations, **more), metrics=PROMETHEUS)  # type: ignore[arg-type]  # of any type


def client(
    directory: Path, authority: CertificateAuthority, holder: CertificateAuthority | None = None
) -> ssl.SSLContext:
    """Return what a client trusts, and shows if it has a certificate of `holder`."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if holder is not None:
        pair = holder.issue_client()
        file = directory / "client.pem"
        file.write_bytes(pair.certificate + b"\n" + pair.key)
        context.load_cert_chain(file)
    return context


async def test_with_tls_metrics_and_log_levels_are_for_those_with_a_certificate(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    async with open_peer(guarded(tmp_path, authority)) as peer:
        address = peer.operations_address
        anybody, member = (client(tmp_path, authority, holder) for holder in (None, authority))
        for path, status in (
            ("/healthz", 200),
            ("/version", 200),
            ("/metrics", 401),
            ("/logspec", 401),
            ("/other", 404),
        ):
            assert (await ask(address, path, tls=anybody))[0] == status, path
        refused = await ask(address, "/logspec", method="PUT", body=b"{}", tls=anybody)
        assert refused == (401, "")
        assert (await ask(address, "/metrics", tls=member))[0] == 200
        assert await ask(address, "/logspec", tls=member) == (200, '{"spec":"info"}')
        stranger = client(tmp_path, authority, CertificateAuthority())
        with pytest.raises(SENT_AWAY):
            await ask(address, "/healthz", tls=stranger)
        with pytest.raises(SENT_AWAY):
            await ask(address, "/healthz")  # without TLS


async def test_with_client_authentication_everything_is(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    config = guarded(tmp_path, authority, tls_client_auth_required=True)
    async with open_peer(config) as peer:
        address = peer.operations_address
        with pytest.raises(SENT_AWAY):
            await ask(address, "/healthz", tls=client(tmp_path, authority))
        member = client(tmp_path, authority, authority)
        assert (await ask(address, "/healthz", tls=member))[0] == 200


async def test_silence_in_the_handshake_holds_nobody_up(
    tmp_path: Path, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.operations.http.REQUEST_S", 0.2)
    async with open_peer(guarded(tmp_path, authority)) as peer:
        host, _, port = peer.operations_address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as silent:
            with trio.fail_after(30):
                assert await silent.receive_some() == b""


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"tls_certificate": "/none"}, r"operations\.tls\.cert\.file and key\.file: No such file"),
        ({"tls_key": ""}, r"operations\.tls\.cert\.file and key\.file: "),
        (
            {"tls_client_root_cas": ("/none.pem",)},
            r"operations\.tls\.clientRootCAs\.files: /none\.pem: No such file",
        ),
        (
            {"tls_client_root_cas": (), "tls_client_auth_required": True},
            "nobody could be let in",
        ),
    ],
)
async def test_tls_that_cannot_be(
    tmp_path: Path,
    authority: CertificateAuthority,
    more: dict[str, object],
    problem: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ConfigError, match=problem):
        async with open_peer(guarded(tmp_path, authority, **more)):
            pytest.fail("opened")
    assert "operations endpoint at" not in caplog.text
