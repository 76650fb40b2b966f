"""Hand a transaction to the orderers of a channel.

Room:      peer.ordering   (used by remote and gateway)
Loop:      Trio
Lifetime:  one transaction
Fabric:    internal/pkg/gateway/submit.go (release-2.5, 3.1 for BFT)
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import trio

from fabric_protos.common import Status
from peer.channel.bundle import BFT, Bundle
from peer.errors import BroadcastRefused, CallFailed, Code, ErrorDetail

log = logging.getLogger("peer.ordering")

BROADCAST_S = 30.0
"""How long each orderer may take, as with ``peer.gateway.broadcastTimeout``."""

ALREADY_THERE = "failed to submit request: request already exists"
"""What an orderer of a BFT service says that has the transaction from another one."""


class OrdererNode(NamedTuple):
    """An orderer.

    Attributes:
        broadcast: gives it a marshalled envelope; raises `BroadcastRefused` where it does not take
            it, and `CallFailed` where it is not within reach.
    """

    address: str
    msp_id: str
    broadcast: Callable[[bytes], Awaitable[None]]


async def submit(
    bundle: Bundle,
    orderers: Sequence[OrdererNode],
    envelope: bytes,
    limit_s: float = BROADCAST_S,
) -> None:
    """Hand an envelope to orderers, in any order, until one takes it; of BFT a quorum has to.

    Args:
        bundle: tells what kind of ordering service it is.
        limit_s: seconds for each orderer.

    Raises:
        BroadcastRefused: it is the envelope's fault.
        CallFailed: UNAVAILABLE, nobody takes it, or too few do; with what each of them said.

    Cancellation: an orderer may have it, or not.
    """
    if bundle.orderer is not None and bundle.orderer.consensus_type == BFT:
        await _submit_to_all(orderers, envelope, limit_s)
    else:
        await _submit_to_one(orderers, envelope, limit_s)


async def _submit_to_one(orderers: Sequence[OrdererNode], envelope: bytes, limit_s: float) -> None:
    details = []
    for node in random.sample(orderers, len(orderers)):
        try:
            failure = await _broadcast(node, envelope, limit_s)
        except BroadcastRefused as exc:
            if Status.BAD_REQUEST <= exc.status < Status.INTERNAL_SERVER_ERROR:
                raise
            failure = sentence(exc)
        if failure is None:
            return
        log.warning("the orderer %s does not take a transaction: %s", node.address, failure)
        details.append(ErrorDetail(node.address, node.msp_id, failure))
    text = "no orderers could successfully process transaction"
    raise CallFailed(Code.UNAVAILABLE, text, details)


async def _submit_to_all(orderers: Sequence[OrdererNode], envelope: bytes, limit_s: float) -> None:
    quorum = bft_quorum(len(orderers))
    taken = 0
    details: list[ErrorDetail] = []

    async def submit(node: OrdererNode) -> None:
        nonlocal taken
        try:
            failure = await _broadcast(node, envelope, limit_s)
        except BroadcastRefused as exc:
            failure = None if exc.info == ALREADY_THERE else sentence(exc)
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
        raise CallFailed(Code.UNAVAILABLE, text, details)


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


def sentence(refused: BroadcastRefused) -> str:
    """Return how Fabric's Gateway tells of an orderer that takes nothing."""
    name = Status(refused.status).name
    return f"received unsuccessful response from orderer: status={name}, info={refused.info}"
