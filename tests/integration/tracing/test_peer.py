"""The traces of a whole peer: which spans there are, within which, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

from fabric_protos.codec import decode
from fabric_protos.protos import ProposalResponse
from peer import Peer, open_peer
from peer.errors import (
    CallRefused,
    ChaincodeFailed,
    InstanceExited,
    SimulationFailed,
)
from peer.errors import Code as GrpcCode
from peer.services.api import Caller, Unary
from tests.integration.peer.scene import CHANNEL, Code
from tests.integration.peer.test_old_lifecycle import OLD, V1_4_2, book
from tests.integration.server.conftest import google_client
from tests.integration.server.test_services import PROCESS_PROPOSAL, scene
from tests.integration.tracing.conftest import EXTRA, TRACED

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=EXTRA)

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)
from opentelemetry.trace import Link, SpanKind, StatusCode

from peer.tracing import export, spans

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
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"

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


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path, "old")


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


async def test_a_chaincode_that_gives_no_response(code: Code, told: Told) -> None:
    source = code.python(
        """
        async with dial() as call:
            await call.register()
            while message := await call.receive():
                ids = {"txid": message.txid, "channel_id": message.channel_id}
                await call.send(type=T.ERROR, payload=b"a bug of mine", **ids)
        """
    )
    async with open_peer(TRACED) as peer:
        await peer.install(source)
        with pytest.raises(ChaincodeFailed, match="a bug of mine"):
            await peer.query(CHANNEL, source.name, ["go"])

    execute = told.one("execute", chaincode=source.name)
    assert attributes(execute)["error.type"] == "ERROR"
    assert execute.status.description == "a bug of mine"
    proposal = told.one("proposal", chaincode=source.name)
    assert attributes(proposal)["error.type"] == SimulationFailed.__name__


async def test_an_init_of_the_old_lifecycle(code: Code, told: Told) -> None:
    """It is a part of the proposal that defines the chaincode."""
    async with open_peer(TRACED) as peer:
        await peer.join_channel(OLD, capability=V1_4_2)
        await peer.install(book(code, "one"), name=code.label, channels=[OLD])
        await peer.instantiate(OLD, code.label, "1.0", ["put", "key", "of Init"])

    init = told.one("execute", chaincode=code.label)
    assert attributes(init)["triopeer.requests.PUT_STATE"] == 1
    proposal = told.one("proposal", tx=attributes(init)["triopeer.tx"])
    assert init.parent == proposal.context
    assert told.within(proposal) == ["execute", "execute"]
    assert told.within(init) == ["launch"]


async def test_what_is_not_sampled_is_not_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with open_peer(TRACED) as peer:
        assert (await peer.query(CHANNEL, "qscc", ["GetChainInfo", CHANNEL])).status == 200
    assert told.all == ()


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


async def test_ids_that_are_none_are_cut(tmp_path: Path, told: Told) -> None:
    """Anybody may send them, and spans are kept for a while."""
    async with (
        scene(tmp_path, **{"tracing.provider": "otlp"}) as on,
        google_client(on.peer.address) as client,
    ):
        await client.unary(PROCESS_PROPOSAL, on.proposal("n" * 5000, channel="c" * 5000))
    (proposal,) = (each for each in told.of("proposal") if each.parent is not None)
    assert attributes(proposal)["triopeer.channel"] == "c" * 256
    assert attributes(proposal)["triopeer.chaincode"] == "n" * 256


async def test_what_a_call_is_answered_with_is_told_once() -> None:
    """A refusal of any code, an error nobody expected, and a client that went away."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def call(request: Exception | None, _: Caller) -> None:
        if request is not None:
            raise request
        await trio.lowlevel.checkpoint()

    method = Unary(path="/a.B/C", decode=bytes, call=call, encode=bytes)
    (served,) = spans.traced(provider.get_tracer("test")).served([method])
    assert isinstance(served, Unary)
    for error in (CallRefused(GrpcCode.ABORTED, "x" * 5000), ZeroDivisionError("a bug")):
        with pytest.raises(type(error)):
            await served.call(error, Caller("somebody:1"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await served.call(None, Caller("somebody:1"))
    refused, failed, cancelled = exporter.get_finished_spans()
    assert attributes(refused)["rpc.response.status_code"] == "ABORTED"
    assert refused.status.description is not None
    assert len(refused.status.description) == spans.MAX_TEXT
    assert attributes(failed)["rpc.response.status_code"] == "INTERNAL"
    assert attributes(failed)["error.type"] == "ZeroDivisionError"
    assert attributes(cancelled)["rpc.response.status_code"] == "CANCELLED"
    assert cancelled.status.status_code is StatusCode.ERROR


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
