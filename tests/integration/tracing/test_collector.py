"""Where a peer's spans go: a collector that takes them, one that does not, and none."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import trio

from peer import open_peer
from peer.errors import ConfigError
from tests.integration.peer.scene import CHANNEL
from tests.integration.tracing.conftest import EXTRA, TRACED, senders

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=EXTRA)

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from peer.tracing import export


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Hold an HTTP server that takes what it is sent."""
    requests: list[ExportTraceServiceRequest] = []

    class Collecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collecting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


async def test_a_collector_gets_everything_by_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collector() as (endpoint, requests):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "org1-peer0")
        async with open_peer(TRACED) as peer:
            result = await peer.query(CHANNEL, "qscc", ["GetChainInfo", CHANNEL])
    found = [each for request in requests for each in request.resource_spans]
    names = {
        attribute.value.string_value
        for each in found
        for attribute in each.resource.attributes
        if attribute.key == "service.name"
    }
    assert names == {"org1-peer0"}
    sent = [span for each in found for scope in each.scope_spans for span in scope.spans]
    ids = [
        attribute.value.string_value
        for span in sent
        if span.name == "proposal"
        for attribute in span.attributes
        if attribute.key == "triopeer.tx"
    ]
    assert result.tx_id in ids


async def test_a_collector_that_never_answers_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The limits of the SDK are out of reach, so the peer closes by its own."""
    monkeypatch.setattr(export, "FLUSH_S", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")  # ms
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        with trio.fail_after(60):
            async with open_peer(TRACED) as peer:
                for _ in range(2):
                    result = await peer.query(CHANNEL, "qscc", ["GetChainInfo", CHANNEL])
                    assert result.status == 200
                held, _ = await trio.to_thread.run_sync(silent.accept, abandon_on_cancel=True)
    assert "the last spans were not taken within 0.2 s" in caplog.text
    still = senders()
    assert still
    held.close()
    for each in still:
        await trio.to_thread.run_sync(each.join, 60)


async def test_a_collector_that_is_not_there_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export, "FLUSH_S", 60.0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with trio.fail_after(120):
        async with open_peer(TRACED) as peer:
            assert (await peer.query(CHANNEL, "qscc", ["GetChainInfo", CHANNEL])).status == 200
    assert [each for each in caplog.records if each.name.startswith("opentelemetry.exporter")]


# The configuration


def test_a_peer_that_is_not_traced_never_loads_opentelemetry() -> None:
    code = (
        "import sys, trio\n"
        "from peer import open_peer\n"
        "async def main():\n"
        "    async with open_peer() as peer:\n"
        f"        await peer.query({CHANNEL!r}, 'qscc', ['GetChainInfo', {CHANNEL!r}])\n"
        "trio.run(main)\n"
        "print([each for each in sys.modules if each.startswith('opentelemetry')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[]\n"


async def test_without_the_extra_a_peer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("peer.tracing.export", "peer.tracing.spans"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install triopeer\[otel\]"):
        async with open_peer(TRACED):
            pass


async def test_variables_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")  # less than one batch
    with pytest.raises(ConfigError, match=r"tracing\.provider is otlp, OTEL_\*: max_export_batch"):
        async with open_peer(TRACED):
            pass
