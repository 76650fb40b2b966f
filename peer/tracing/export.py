"""Send spans to a collector, from a thread of the SDK's.

Room:      peer.tracing   (imports the SDK; loaded only where tracing is on)
Loop:      Trio; the SDK batches and sends in a thread of its own
Lifetime:  peer
Fabric:    none

Where to, how often and how much are the SDK's own ``OTEL_*`` variables. Its queue is bounded: what
comes while it is full is dropped, with a warning in the log, and the peer never waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

from peer.errors import ConfigError
from peer.version import VERSION

log = logging.getLogger("peer.tracing")

FLUSH_S = 5.0
"""How long a peer that closes waits for its last spans to be taken."""


@asynccontextmanager
async def open_tracer(peer_id: str) -> AsyncIterator[Tracer]:
    """Yield what makes the spans of one peer.

    Raises:
        ConfigError: the SDK does not take the ``OTEL_*`` variables.

    Cancellation: the last spans still have `FLUSH_S`.
    """
    try:
        exporter = OTLPSpanExporter()
        provider = TracerProvider(resource=_resource(peer_id), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except (ValueError, OSError) as exc:
        raise ConfigError([f"tracing.provider is otlp, OTEL_*: {exc}"]) from exc
    try:
        yield provider.get_tracer("triopeer", VERSION)
    finally:
        with trio.move_on_after(FLUSH_S, shield=True) as grace:
            await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)
        if grace.cancelled_caught:
            # The thread, a daemon, has one request to go at most.
            exporter.shutdown()  # type: ignore[no-untyped-call]  # it has no types
            log.warning("the last spans were not taken within %g s", FLUSH_S)


def _resource(peer_id: str) -> Resource:
    """Say who sends; the variables have the last word."""
    ours = {
        "service.name": "triopeer",
        "service.version": VERSION,
        "service.instance.id": peer_id,
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())
