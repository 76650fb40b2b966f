"""Kinds of the peer's parts that make spans of what they do.

Room:      peer.tracing   (imports chaincode, endorser, services; loaded where tracing is on)
Loop:      Trio; which span is the current one is a context variable, so tasks inherit it
Lifetime:  peer
Fabric:    none

A call over gRPC holds a proposal, a proposal an execution, an execution the launch it had to wait
for and the executions its chaincode asked for. What a chaincode reads and writes is counted in its
execution, not spanned. A commit belongs to no transaction: it has a trace of its own, with links.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import trio
from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from fabric_protos.protos import ProposalResponse
from fabric_protos.stream import (
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    SignedProposal,
)
from peer.chaincode.handler import Handler
from peer.chaincode.support import ChaincodeSupport, EndorsementInfo, Execution
from peer.chaincode.transactions import TransactionParams
from peer.endorser import preprocess
from peer.endorser.endorser import ERROR_THRESHOLD, Endorser
from peer.errors import CallRefused, LaunchError, ProposalRefused, StageTime, TxKey
from peer.ledger.api import CommittedBlock
from peer.logs import MAX_ID
from peer.metrics import ChaincodeMeters
from peer.reading import read_apart
from peer.services.api import Caller, Method, Unary
from peer.tracing.kinds import Kinds

CHANNEL = "triopeer.channel"
TX = "triopeer.tx"
CHAINCODE = "triopeer.chaincode"
CCID = "triopeer.ccid"
STATUS = "triopeer.status"
REQUESTS = "triopeer.requests."
RPC_CODE = "rpc.response.status_code"

MAX_TEXT = 2048
"""Characters of an error; chaincodes write into some."""
MAX_PROPOSALS = 10_000
"""How many proposals are remembered for a block to link to; most queries never are in one."""
NS_PER_S = 1_000_000_000


def traced(tracer: Tracer) -> Kinds:
    """Return kinds whose spans this tracer makes."""
    spans = _Spans(tracer)
    return Kinds(
        endorser=_endorser(spans),
        chaincode=_chaincode(spans),
        chaincode_meters=_chaincode_meters(spans),
        served=lambda methods: [_served(spans, each) for each in methods],
        committed=spans.committed,
    )


class _Spans:
    """The spans of one peer, and what they need to know of each other."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._proposals: dict[TxKey, SpanContext] = {}
        self._askers: dict[str, Context] = {}

    @contextmanager
    def span(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: Context | None = None,
        attributes: dict[str, AttributeValue],
    ) -> Iterator[Span]:
        """Make a span of what happens in a block; it fails with it, or is cancelled."""
        with self._tracer.start_as_current_span(
            name,
            parent,
            kind,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as exc:
                _fail(span, type(exc).__name__, str(exc))
                raise

    def endorsed(self, span: Span, which: TxKey) -> None:
        """Remember a proposal until its block comes."""
        self._proposals[which] = span.get_span_context()
        if len(self._proposals) > MAX_PROPOSALS:
            del self._proposals[next(iter(self._proposals))]

    def committed(self, channel_id: str, committed: CommittedBlock) -> None:
        """Make a span of a commit that is over."""
        keys = (TxKey(channel_id, tx_id) for tx_id in committed.tx_ids)
        proposals = (self._proposals.pop(key, None) for key in keys)
        header = committed.block.header
        ends = time.time_ns()
        self._tracer.start_span(
            "commit",
            Context(),
            attributes={
                CHANNEL: channel_id,
                "triopeer.block": 0 if header is None else header.number,
                "triopeer.transactions": len(committed.tx_ids),
                "triopeer.valid": sum(code == 0 for code in committed.codes),
            },
            links=[Link(each) for each in proposals if each is not None],
            start_time=ends - int(sum(committed.times) * NS_PER_S),
        ).end(ends)

    @contextmanager
    def asking(self, ccid: str) -> Iterator[None]:
        """Let a launch of this chaincode belong to who asked for it first, though they give up."""
        here, gave_up = contexts.get_current(), False
        self._askers.setdefault(ccid, here)
        try:
            yield
        except trio.Cancelled:
            gave_up = True
            raise
        finally:
            if not gave_up and self._askers.get(ccid) is here:
                del self._askers[ccid]

    def launched(self, ccid: str, stages: Sequence[StageTime], error: LaunchError | None) -> None:
        """Make spans of a launch that is over; a stage entered twice is one, in its first place."""
        asker = self._askers.pop(ccid, Context())
        ends = time.time_ns()
        at = ends - int(sum(took_s for _, took_s in stages) * NS_PER_S)
        launch = self._tracer.start_span("launch", asker, attributes={CCID: ccid}, start_time=at)
        failed = "" if error is None or error.evidence is None else error.evidence.stage
        for stage, took_s in stages:
            span = self._tracer.start_span(stage, set_span_in_context(launch), start_time=at)
            if stage == failed:
                span.set_status(StatusCode.ERROR)
            at += int(took_s * NS_PER_S)
            span.end(at)
        if error is not None:
            _fail(launch, type(error).__name__, str(error))
        launch.end(ends)


def _fail(span: Span, kind: str, text: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, text[:MAX_TEXT])


def _endorser(spans: _Spans) -> type[Endorser]:
    class TracedEndorser(Endorser):
        async def endorse(self, signed: SignedProposal) -> ProposalResponse:
            with spans.span("proposal", attributes={}) as span:
                which = await _identify(span, signed) if span.is_recording() else None
                answer = await super().endorse(signed)
                response = answer.response
                if response is not None:
                    span.set_attribute(STATUS, response.status)
                    if response.status >= ERROR_THRESHOLD:
                        _fail(span, str(response.status), response.message)
                if which is not None and answer.endorsement is not None:
                    spans.endorsed(span, which)
                return answer

    async def _identify(span: Span, signed: SignedProposal) -> TxKey | None:
        """Read the ids before anything is checked, so that what is refused has them, too."""
        try:
            unpacked = await read_apart(preprocess.unpack, signed, len(signed.proposal_bytes))
        except ProposalRefused:
            return None  # it has none; the endorser tells
        which = TxKey(unpacked.channel_id, unpacked.tx_id)
        ids = {CHANNEL: which.channel_id, TX: which.tx_id, CHAINCODE: unpacked.name}
        span.set_attributes({name: text[:MAX_ID] for name, text in ids.items()})
        return which

    return TracedEndorser


def _chaincode(spans: _Spans) -> type[ChaincodeSupport]:
    def executing(params: TransactionParams, name: str) -> dict[str, AttributeValue]:
        return {CHANNEL: params.channel_id, TX: params.tx_id, CHAINCODE: name}

    class TracedChaincodeSupport(ChaincodeSupport):
        async def launch(self, ccid: str) -> Handler:
            get_current_span().set_attribute(CCID, ccid)
            with spans.asking(ccid):
                return await super().launch(ccid)

        async def invoke(
            self,
            params: TransactionParams,
            name: str,
            payload: ChaincodeInput,
            info: EndorsementInfo | None = None,
        ) -> ChaincodeMessage:
            with spans.span("execute", attributes=executing(params, name)) as span:
                answer = await super().invoke(params, name, payload, info)
                if answer.type == ChaincodeMessageType.ERROR:
                    _fail(span, "ERROR", answer.payload.decode(errors="replace"))
                return answer

        async def execute_legacy_init(
            self, params: TransactionParams, name: str, version: str, payload: ChaincodeInput
        ) -> Execution:
            with spans.span("execute", attributes=executing(params, name)):
                return await super().execute_legacy_init(params, name, version, payload)

    return TracedChaincodeSupport


def _chaincode_meters(spans: _Spans) -> type[ChaincodeMeters]:
    class TracedChaincodeMeters(ChaincodeMeters):
        def launch_settled(
            self, ccid: str, stages: Sequence[StageTime], error: LaunchError | None
        ) -> None:
            super().launch_settled(ccid, stages, error)
            spans.launched(ccid, stages, error)

        def execution_ended(
            self, ccid: str, channel_id: str, kind: str, received: int, failed: int
        ) -> None:
            super().execution_ended(ccid, channel_id, kind, received, failed)
            get_current_span().set_attribute(REQUESTS + kind, received)

    return TracedChaincodeMeters


def _served(spans: _Spans, method: Method) -> Method:
    """Return a method whose calls have a span, as part of the client's trace if it sent one.

    Streams have none: they may last for days.
    """
    if not isinstance(method, Unary):
        return method
    name = method.path.removeprefix("/")
    propagator = TraceContextTextMapPropagator()

    async def call(request: Any, caller: Caller) -> Any:
        text = caller.traceparent.decode(errors="replace")
        with spans.span(
            name,
            kind=SpanKind.SERVER,
            parent=propagator.extract({"traceparent": text}, Context()),
            attributes={"rpc.system.name": "grpc", "rpc.method": name},
        ) as span:
            try:
                response = await method.call(request, caller)
            except BaseException as exc:
                span.set_attribute(RPC_CODE, _code(exc))
                raise
            span.set_attribute(RPC_CODE, "OK")
            return response

    return replace(method, call=call)


def _code(exc: BaseException) -> str:
    """Return what the server makes of an exception."""
    match exc:
        case CallRefused():
            return exc.code.name
        case trio.Cancelled():
            return "CANCELLED"
        case _:
            return "INTERNAL"
