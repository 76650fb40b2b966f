"""A peer that is traced; the thread that sends its spans ends with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from peer import PeerConfig
from peer.config.model import TracingConfig

EXTRA = "needs triopeer[otel]"
TRACED = PeerConfig(tracing=TracingConfig(provider="otlp"))


def senders() -> list[threading.Thread]:
    """Return the threads of the SDK that send spans."""
    return [each for each in threading.enumerate() if each.name == "OtelBatchSpanRecordProcessor"]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not senders()
