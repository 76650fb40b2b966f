"""``grpc.health.v1``: whether the peer serves.

Room:      peer.services   (used by introspection)
Loop:      Trio
Lifetime:  peer

A peer that answers serves; what depends on others, such as a container engine, is for the
operations endpoint to tell.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import trio

from fabric_protos.codec import encode
from fabric_protos.grpc.health.v1 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthCheckResponseServingStatus,
)
from peer.errors import CallRefused, Code
from peer.services.api import SMALL, Caller, Method, Requests, Send, Streaming, Unary, decoder

SERVING = HealthCheckResponse(status=HealthCheckResponseServingStatus.SERVING)
UNKNOWN = HealthCheckResponse(status=HealthCheckResponseServingStatus.SERVICE_UNKNOWN)


def methods(services: Collection[str]) -> Sequence[Method]:
    """Return the methods of the service.

    Args:
        services: full names of what is served; the empty name is the peer as a whole.
    """

    async def check(request: HealthCheckRequest, _: Caller) -> HealthCheckResponse:
        if request.service and request.service not in services:
            raise CallRefused(Code.NOT_FOUND, f"unknown service {request.service}")
        return SERVING

    async def watch(requests: Requests, send: Send, _: Caller) -> None:
        async for request in requests:
            known = not request.service or request.service in services
            await send(SERVING if known else UNKNOWN)
            await trio.sleep_forever()

    decode = decoder(HealthCheckRequest)
    return [
        Unary(
            path="/grpc.health.v1.Health/Check",
            decode=decode,
            call=check,
            encode=encode,
            max_request=SMALL,
        ),
        Streaming(
            path="/grpc.health.v1.Health/Watch",
            decode=decode,
            call=watch,
            encode=encode,
            max_request=SMALL,
            is_endless=True,
        ),
    ]
