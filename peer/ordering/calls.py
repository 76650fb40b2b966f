"""``orderer.AtomicBroadcast`` as its client calls it.

Room:      peer.ordering   (imports peer.remote, peer.events; used by remote, following and client)
Loop:      Trio
Lifetime:  the connection's
Fabric:    internal/peer/common/broadcastclient.go, internal/pkg/peer/blocksprovider (release-2.5)
"""

from __future__ import annotations

from fabric_protos.codec import decode
from fabric_protos.common import Block, Status
from fabric_protos.errors import DecodeError
from fabric_protos.orderer import BroadcastResponse, DeliverResponse
from peer.errors import BroadcastRefused, CallFailed, Code, DeliverRefused
from peer.remote import Call, Connection

BROADCAST = "/orderer.AtomicBroadcast/Broadcast"
DELIVER = "/orderer.AtomicBroadcast/Deliver"


async def broadcast(connection: Connection, envelope: bytes) -> None:
    """Hand over a marshalled envelope.

    Raises:
        BroadcastRefused: it is not taken.
        CallFailed: nobody knows whether it is.
    """
    async with connection.stream(BROADCAST) as call:
        await call.send(envelope)
        data = await next_message(call)
    try:
        answer = decode(BroadcastResponse, data)
    except DecodeError as exc:
        raise CallFailed(Code.INTERNAL, f"{connection.endpoint}: no answer: {exc}") from exc
    if answer.status != Status.SUCCESS:
        raise BroadcastRefused(int(answer.status), answer.info)


async def next_block(call: Call) -> Block:
    """Return the next block of a call of `DELIVER` that was sent a request.

    Raises:
        DeliverRefused: no block comes, or no more; SUCCESS is such an end, too.
        CallFailed: the call is over.

    Cancellation: a later call gets the block.
    """
    try:
        answer = decode(DeliverResponse, await next_message(call))
    except DecodeError as exc:
        raise CallFailed(Code.INTERNAL, f"what came is no block: {exc}") from exc
    if answer.block is None:
        status = answer.status or Status.UNKNOWN
        raise DeliverRefused(int(status), f"it answers {status.name}")
    return answer.block


async def next_message(call: Call) -> bytes:
    """Return the next message of a call that must not be over.

    Raises:
        CallFailed: it is.
    """
    async for message in call:
        return message
    raise CallFailed(Code.UNAVAILABLE, "the server has ended the call")
