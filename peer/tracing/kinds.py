"""What the peer is put together from: the plain kinds, or those that make spans.

Room:      peer.tracing   (loads spans and export only where tracing is on; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    none, it has no traces
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from peer.chaincode.support import ChaincodeSupport
from peer.config import PeerConfig
from peer.endorser.endorser import Endorser
from peer.errors import ConfigError
from peer.ledger.api import CommittedBlock
from peer.metrics import ChaincodeMeters
from peer.services.api import Method


class Kinds(NamedTuple):
    """Classes and functions; those of a peer that is not traced by default.

    Attributes:
        served: returns methods as they are to be served.
        committed: hears of each block of a channel once it is committed; must not wait.
    """

    endorser: type[Endorser] = Endorser
    chaincode: type[ChaincodeSupport] = ChaincodeSupport
    chaincode_meters: type[ChaincodeMeters] = ChaincodeMeters
    served: Callable[[Sequence[Method]], Sequence[Method]] = lambda methods: methods
    committed: Callable[[str, CommittedBlock], None] = lambda channel_id, block: None


async def kinds_of(config: PeerConfig, stack: AsyncExitStack) -> Kinds:
    """Return what is configured; what sends the spans ends with the stack.

    Raises:
        ConfigError: what tracing needs is not installed, or the ``OTEL_*`` variables do not fit.
    """
    provider = config.tracing.provider
    if provider == "disabled":
        return Kinds()
    try:
        from peer.tracing.export import open_tracer  # of an extra
        from peer.tracing.spans import traced
    except ModuleNotFoundError as exc:
        problem = f"that needs `pip install triopeer[otel]` ({exc})"
        raise ConfigError([f"tracing.provider is {provider}: {problem}"]) from exc
    return traced(await stack.enter_async_context(open_tracer(config.peer.id)))
