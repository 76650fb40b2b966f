"""``orderer.AtomicBroadcast`` over the embedded ordering service, or one by itself.

Room:      peer.services   (imports peer.events, peer.ordering; used by assembly and orderer)
Loop:      Trio
Lifetime:  peer
Fabric:    orderer/common/broadcast/broadcast.go, orderer/common/server/server.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from fabric_protos.codec import encode
from fabric_protos.common import Block, Envelope, Status
from fabric_protos.orderer import BroadcastResponse, DeliverResponse
from peer.errors import BroadcastRefused
from peer.events.deliver import TIME_WINDOW_S, Chain, Deliverer
from peer.ordering import filters
from peer.ordering.filters import Parsed
from peer.reading import read_apart
from peer.services.api import SMALL, Caller, Method, Requests, Send, Streaming, decoder
from peer.services.deliver import tls_hash

READERS = "/Channel/Readers"


class Orderer(Protocol):
    """What orders a channel."""

    async def order(self, message: Parsed) -> None:
        """
        Raises:
            BroadcastRefused: it does not order this.
        """
        ...


FindOrderer = Callable[[str], Orderer]


def methods(
    orderer: FindOrderer,
    chain: Callable[[str], Chain | None],
    *,
    time_window_s: float = TIME_WINDOW_S,
) -> Sequence[Method]:
    """Return the methods of the service.

    Args:
        orderer: returns the orderer of a channel; raises `BroadcastRefused` where there is none.
        chain: returns a channel that can be delivered from, None where there is none.
        time_window_s: how far the clock of a request for blocks may be off.
    """
    deliverer = Deliverer(find=chain, policy=lambda _: READERS, time_window_s=time_window_s)
    return [
        Streaming(
            path="/orderer.AtomicBroadcast/Broadcast",
            decode=bytes,
            call=partial(_broadcast, orderer),
            encode=encode,
        ),
        Streaming(
            path="/orderer.AtomicBroadcast/Deliver",
            decode=decoder(Envelope),
            call=partial(_deliver, deliverer),
            encode=encode,
            max_request=SMALL,
            is_endless=True,
        ),
    ]


async def _broadcast(orderer: FindOrderer, requests: Requests, send: Send, _: Caller) -> None:
    """Take messages in their order; the first that is refused ends the stream."""
    async for data in requests:
        try:
            message = await read_apart(filters.parse, data, len(data))
            await _orderer(orderer, message.channel_id).order(message)
        except BroadcastRefused as exc:
            await send(BroadcastResponse(status=Status(exc.status), info=exc.info))
            return
        await send(BroadcastResponse(status=Status.SUCCESS))


def _orderer(find: FindOrderer, channel_id: str) -> Orderer:
    try:
        return find(channel_id)
    except BroadcastRefused as exc:  # for clients this is final
        raise BroadcastRefused(Status.BAD_REQUEST, "channel does not exist") from exc


async def _deliver(deliverer: Deliverer, requests: Requests, send: Send, caller: Caller) -> None:
    def send_block(block: Block) -> Awaitable[None]:
        return send(DeliverResponse(block=block))

    async for request in requests:
        status = await deliverer.serve(request, send_block, tls_hash=tls_hash(caller))
        await send(DeliverResponse(status=status))
        if status != Status.SUCCESS:
            return
