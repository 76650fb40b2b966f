"""The traces of a whole peer, as a collector gets them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

from fabric_protos.codec import decode
from fabric_protos.protos import ProposalResponse
from peer import Peer, PeerConfig, open_peer
from peer.config.model import TracingConfig
from peer.errors import CallRefused, Code, ConfigError, InstanceExited, SimulationFailed
from peer.services.api import Caller, Unary
from tests.integration.peer.scene import CHANNEL
from tests.integration.server.conftest import google_client
from tests.integration.server.test_services import PROCESS_PROPOSAL, scene

needed = "needs triopeer[otel]"
pytest.importorskip("opentelemetry.sdk.trace", reason=needed)
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=needed)

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: E402
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402
    InMemorySpanExporter,
)
from opentelemetry.trace import Link, SpanKind, StatusCode  # noqa: E402

from peer.tracing import export, spans  # noqa: E402

CODE = """
import shim

class Writer(shim.Chaincode):
    async def invoke(self, stub):
        name, *rest = [arg.decode() for arg in stub.args]
        if name == "refuse":
            return shim.error("not today")
        if name == "ask":
            return await stub.invoke_chaincode(rest[0], ["put"])
        await stub.put_state("key", await stub.get_state("key") or b"value")
        await stub.put_state("other", b"value")

shim.start(Writer())
"""
TRACED = PeerConfig(tracing=TracingConfig(provider="otlp"))
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
WORKER = "OtelBatchSpanRecordProcessor"

Span = ReadableSpan


class Told:
    """What a peer has told, by the time it has closed."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def all(self) -> Sequence[Span]:
        return self._exporter.get_finished_spans()

    def of(self, name: str, **attributes: object) -> list[Span]:
        """Return the spans of that name with these attributes, the first that began first."""
        wanted = {f"triopeer.{key}": value for key, value in attributes.items()}
        found = [
            each
            for each in self.all
            if each.name == name and wanted.items() <= dict(each.attributes or {}).items()
        ]
        return sorted(found, key=lambda each: each.start_time or 0)

    def one(self, name: str, **attributes: object) -> Span:
        (found,) = self.of(name, **attributes)
        return found

    def within(self, parent: Span) -> list[str]:
        """Return the names of a span's children in their order."""
        found = [each for each in self.all if each.parent == parent.context]
        return [each.name for each in sorted(found, key=lambda each: each.start_time or 0)]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(export, "OTLPSpanExporter", lambda: exporter)
    return Told(exporter)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not [each for each in threading.enumerate() if each.name == WORKER]


def attributes(span: Span) -> dict[str, Any]:
    return dict(span.attributes or {})


async def install(peer: Peer, directory: Path, name: str = "writer", code: str = CODE) -> str:
    source = directory / name
    source.mkdir()
    (source / "chaincode.py").write_text(code)
    return (await peer.install(source, name=name)).ccid


async def test_a_transaction_from_its_proposal_to_its_block(tmp_path: Path, told: Told) -> None:
    async with open_peer(TRACED) as peer:
        ccid = await install(peer, tmp_path)
        result = await peer.invoke(CHANNEL, "writer", ["put"])
        assert result.committed
        block = peer.ledger(CHANNEL).height - 1

    proposal = told.one("proposal", tx=result.tx_id)
    assert proposal.parent is None
    assert attributes(proposal) == {
        "triopeer.channel": CHANNEL,
        "triopeer.tx": result.tx_id,
        "triopeer.chaincode": "writer",
        "triopeer.status": 200,
    }
    assert told.within(proposal) == ["execute"]
    execute = told.one("execute", tx=result.tx_id)
    assert attributes(execute) == {
        "triopeer.channel": CHANNEL,
        "triopeer.tx": result.tx_id,
        "triopeer.chaincode": "writer",
        "triopeer.ccid": ccid,
        "triopeer.requests.GET_STATE": 1,
        "triopeer.requests.PUT_STATE": 2,
    }
    assert told.within(execute) == ["launch"]
    launch = told.one("launch")
    assert attributes(launch) == {"triopeer.ccid": ccid}
    assert told.within(launch) == ["package", "build", "create", "start", "connect", "register"]
    commit = told.one("commit", block=block)
    assert commit.parent is None
    assert [link.context for link in commit.links] == [proposal.context]
    assert attributes(commit) == {
        "triopeer.channel": CHANNEL,
        "triopeer.block": block,
        "triopeer.transactions": 1,
        "triopeer.valid": 1,
    }
    for each in (proposal, execute, launch, commit):
        assert each.status.status_code is StatusCode.UNSET
        assert each.start_time is not None
        assert each.end_time is not None
        assert each.start_time < each.end_time
    assert proposal.resource.attributes["service.name"] == "triopeer"
    assert proposal.resource.attributes["service.instance.id"] == TRACED.peer.id


async def test_a_chaincode_that_calls_another(tmp_path: Path, told: Told) -> None:
    async with open_peer(TRACED) as peer:
        await install(peer, tmp_path, "caller")
        await install(peer, tmp_path)
        result = await peer.query(CHANNEL, "caller", ["ask", "writer"])
        assert result.status == 200

    outer = told.one("execute", tx=result.tx_id, chaincode="caller")
    inner = told.one("execute", tx=result.tx_id, chaincode="writer")
    assert inner.parent == outer.context
    assert told.within(outer) == ["launch", "execute"]
    assert told.within(inner) == ["launch"]
    asked = {key: n for key, n in attributes(outer).items() if key.startswith(spans.REQUESTS)}
    assert asked == {"triopeer.requests.INVOKE_CHAINCODE": 1}
    assert attributes(inner)["triopeer.requests.PUT_STATE"] == 2


async def test_a_response_that_is_an_error(tmp_path: Path, told: Told) -> None:
    async with open_peer(TRACED) as peer:
        await install(peer, tmp_path)
        result = await peer.query(CHANNEL, "writer", ["refuse"])
        assert result.status == 500

    proposal = told.one("proposal", tx=result.tx_id)
    assert proposal.status.status_code is StatusCode.ERROR
    assert proposal.status.description == "not today"
    assert attributes(proposal)["triopeer.status"] == 500


async def test_a_launch_that_fails(tmp_path: Path, told: Told) -> None:
    async with open_peer(TRACED) as peer:
        ccid = await install(peer, tmp_path, code="raise SystemExit(3)")
        with pytest.raises(InstanceExited):
            await peer.query(CHANNEL, "writer", ["put"])

    launch = told.one("launch")
    assert launch.status.status_code is StatusCode.ERROR
    assert launch.status.description is not None
    assert "ended before it was READY" in launch.status.description
    assert attributes(launch) == {"triopeer.ccid": ccid, "error.type": "InstanceExited"}
    (failed,) = (
        each for each in told.all if each.parent == launch.context and not each.status.is_ok
    )
    assert failed.name == "connect"
    execute = told.one("execute", chaincode="writer")
    assert launch.parent == execute.context
    assert attributes(execute)["error.type"] == "InstanceExited"
    proposal = told.one("proposal", chaincode="writer")
    assert attributes(proposal)["error.type"] == SimulationFailed.__name__
    assert proposal.status.status_code is StatusCode.ERROR


async def test_who_gives_up_keeps_the_launch_they_asked_for(tmp_path: Path, told: Told) -> None:
    """The launch goes on, and its spans belong to the trace that began it."""
    hold = tmp_path / "hold"
    slow = (
        f"import pathlib, time\nwhile not pathlib.Path({str(hold)!r}).exists(): time.sleep(.01)\n"
    )
    connecting, ready = trio.Event(), trio.Event()

    def on_stage(ccid: str, stage: str, elapsed_s: float) -> None:
        if stage in ("connect", "ready"):
            {"connect": connecting, "ready": ready}[stage].set()

    async with open_peer(TRACED, on_stage=on_stage) as peer:
        await install(peer, tmp_path, code=slow + CODE)
        async with trio.open_nursery() as callers:
            callers.start_soon(peer.query, CHANNEL, "writer", ["put"])
            await connecting.wait()
            callers.cancel_scope.cancel()
        hold.touch()
        with trio.fail_after(60):
            await ready.wait()

    execute = told.one("execute", chaincode="writer")
    assert attributes(execute)["error.type"] == "Cancelled"
    assert told.one("launch").parent == execute.context


async def test_a_client_with_a_trace_of_its_own(tmp_path: Path, told: Told) -> None:
    async with (
        scene(tmp_path, **{"tracing.provider": "otlp"}) as on,
        google_client(on.peer.address) as client,
    ):

        async def call(name: str, *metadata: tuple[str, str]) -> ProposalResponse:
            request = on.proposal(name, "GetChainInfo", CHANNEL)
            answer = await client.unary(PROCESS_PROPOSAL, request, metadata=metadata)
            return decode(ProposalResponse, answer)

        await call("qscc", ("traceparent", TRACEPARENT))
        await call("nobody")
        await call("qscc", ("traceparent", "nonsense" * 1000))
        signed = on.signed("qscc", "GetChainInfo", CHANNEL)
        signed.signature = signed.signature[:-1] + b"\0"
        refused = await client.failure(PROCESS_PROPOSAL, signed.encode())
        assert refused.code is grpc.StatusCode.UNKNOWN
        unreadable = await client.failure(PROCESS_PROPOSAL, b"")
        assert unreadable.code is grpc.StatusCode.UNKNOWN

    name = PROCESS_PROPOSAL.removeprefix("/")
    first, *others = calls = told.of(name)
    assert first.parent is not None
    assert first.context is not None
    assert f"{first.parent.span_id:016x}" == SPAN_ID
    assert f"{first.context.trace_id:032x}" == TRACE_ID
    assert [each.parent for each in others] == [None] * 4
    assert {each.kind for each in calls} == {SpanKind.SERVER}
    assert [attributes(each)["rpc.response.status_code"] for each in calls] == [
        "OK",
        "OK",
        "OK",
        "UNKNOWN",
        "UNKNOWN",
    ]
    assert [each.status.is_ok for each in calls] == [True, True, True, False, False]
    assert [told.within(each) for each in calls] == [["proposal"]] * 5
    proposals = [each for each in told.of("proposal") if each.parent in [c.context for c in calls]]
    _, unknown, _, forged, empty = proposals
    assert attributes(unknown)["triopeer.chaincode"] == "nobody"
    assert attributes(unknown)["error.type"] == SimulationFailed.__name__
    assert attributes(forged)["error.type"] == "ProposalRefused"
    assert attributes(forged)["triopeer.chaincode"] == "qscc"
    assert told.within(forged) == []
    assert "triopeer.tx" not in attributes(empty)
    assert told.of("execute", chaincode="qscc")


async def test_what_a_call_is_answered_with_is_told_once() -> None:
    """A refusal of any code, and an error nobody expected."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def call(request: Exception, _: Caller) -> None:
        raise request

    method = Unary(path="/a.B/C", decode=bytes, call=call, encode=bytes)
    (served,) = spans.traced(provider.get_tracer("test")).served([method])
    assert isinstance(served, Unary)
    for error in (CallRefused(Code.ABORTED, "x" * 5000), ZeroDivisionError("a bug")):
        with pytest.raises(type(error)):
            await served.call(error, Caller("somebody:1"))
    refused, failed = exporter.get_finished_spans()
    assert attributes(refused)["rpc.response.status_code"] == "ABORTED"
    assert refused.status.description is not None
    assert len(refused.status.description) == spans.MAX_TEXT
    assert attributes(failed)["rpc.response.status_code"] == "INTERNAL"
    assert attributes(failed)["error.type"] == "ZeroDivisionError"


async def test_proposals_of_which_no_block_ever_tells_are_forgotten(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "MAX_PROPOSALS", 1)
    async with open_peer(TRACED) as peer:
        await install(peer, tmp_path)
        await peer.query(CHANNEL, "writer", ["put"])
        result = await peer.invoke(CHANNEL, "writer", ["put"])
        assert result.committed
        block = peer.ledger(CHANNEL).height - 1
    proposal = told.one("proposal", tx=result.tx_id)
    links: Sequence[Link] = told.one("commit", block=block).links
    assert [link.context for link in links] == [proposal.context]


# The collector


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
    workers = [each for each in threading.enumerate() if each.name == WORKER]
    assert workers
    held.close()
    for each in workers:
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
        async with open_peer(replace(TRACED)):
            pass
