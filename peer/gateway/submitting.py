"""Hand a transaction to the orderers of a channel.

Room:      peer.gateway   (used by gateway)
Loop:      Trio
Lifetime:  one transaction
Fabric:    internal/pkg/gateway/submit.go (release-2.5, 3.1 for BFT)
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from fabric_protos.common import Status
from peer.errors import BroadcastRefused, CallFailed, CallRefused, Code, ErrorDetail

log = logging.getLogger("peer.gateway")

ALREADY_THERE = "failed to submit request: request already exists"
"""What an orderer of a BFT service says that has the transaction from another one."""


@dataclass(frozen=True, slots=True)
class OrdererNode:
    """An orderer.

    Attributes:
        broadcast: gives it a marshalled envelope; raises `BroadcastRefused` where it does not take
            it, and `CallFailed` where it is not within reach.
    """

    address: str
    msp_id: str
    broadcast: Callable[[bytes], Awaitable[None]]


async def submit_to_one(orderers: Sequence[OrdererNode], envelope: bytes, limit_s: float) -> None:
    """Hand an envelope to orderers, in any order, until one takes it.

    Args:
        limit_s: seconds for each of them.

    Raises:
        CallRefused: ABORTED, it is the envelope's fault; UNAVAILABLE, nobody takes it.

    Cancellation: an orderer may have it, or not.
    """
    details = []
    for node in random.sample(orderers, len(orderers)):
        try:
            failure = await _broadcast(node, envelope, limit_s)
        except BroadcastRefused as exc:
            failure = _sentence(exc)
            if Status.BAD_REQUEST <= exc.status < Status.INTERNAL_SERVER_ERROR:
                raise CallRefused(Code.ABORTED, failure) from exc
        if failure is None:
            return
        log.warning("the orderer %s does not take a transaction: %s", node.address, failure)
        details.append(ErrorDetail(node.address, node.msp_id, failure))
    text = "no orderers could successfully process transaction"
    raise CallRefused(Code.UNAVAILABLE, text, details)


async def submit_to_all(orderers: Sequence[OrdererNode], envelope: bytes, limit_s: float) -> None:
    """Hand an envelope to all orderers, and return once a quorum has taken it.

    Raises:
        CallRefused: UNAVAILABLE, too few take it.

    Cancellation: as of `submit_to_one`.
    """
    quorum = bft_quorum(len(orderers))
    taken = 0
    details: list[ErrorDetail] = []

    async def submit(node: OrdererNode) -> None:
        nonlocal taken
        try:
            failure = await _broadcast(node, envelope, limit_s)
        except BroadcastRefused as exc:
            failure = None if exc.info == ALREADY_THERE else _sentence(exc)
        if failure is None:
            taken += 1
        else:
            log.warning("the orderer %s does not take a transaction: %s", node.address, failure)
            details.append(ErrorDetail(node.address, node.msp_id, failure))
        if taken >= quorum or len(details) > len(orderers) - quorum:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for node in orderers:
            nursery.start_soon(submit, node)
    if taken < quorum:
        text = (
            "insufficient number of orderers could successfully process transaction to satisfy "
            "quorum requirement"
        )
        raise CallRefused(Code.UNAVAILABLE, text, details)


def bft_quorum(nodes: int) -> int:
    """Return how many of so many orderers have to take a transaction: any two such sets of them
    have one in common that is neither faulty nor malicious."""
    tolerated = (nodes - 1) // 3
    return math.ceil((nodes + tolerated + 1) / 2)


async def _broadcast(node: OrdererNode, envelope: bytes, limit_s: float) -> str | None:
    """Hand an envelope to one orderer, and return why it is not within reach, None if it is."""
    with trio.move_on_after(limit_s) as scope:
        try:
            await node.broadcast(envelope)
        except CallFailed as exc:
            return str(exc)
    if scope.cancelled_caught:
        return f"no answer within {limit_s:g} s (peer.gateway.broadcastTimeout)"
    return None


def _sentence(refused: BroadcastRefused) -> str:
    name = Status(refused.status).name
    return f"received unsuccessful response from orderer: status={name}, info={refused.info}"
