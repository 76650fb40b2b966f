"""What every listener answers beside its services: whether they serve, and what they are.

Room:      peer.services   (imports health, reflection; used by serving and orderer)
Loop:      none
Lifetime:  peer
"""

from __future__ import annotations

from collections.abc import Sequence

from peer.services import health, reflection
from peer.services.api import Method

MOST = 100
CONCURRENCY = {
    "/grpc.health.v1.Health": MOST,
    **{f"/grpc.reflection.{each}.ServerReflection": MOST for each in reflection.VERSIONS},
}
"""Calls at once by service: anybody may make them, and they may go on for ever."""


def introspected(methods: Sequence[Method]) -> Sequence[Method]:
    """Return methods, and those that tell of all of them."""
    services: set[str] = set()
    everything = [*methods, *health.methods(services), *reflection.methods(services)]
    services |= {method.path.split("/")[1] for method in everything}
    return everything
