"""Let peers endorse one transaction, until those that did are enough.

Room:      peer.gateway   (imports discovery; used by gateway)
Loop:      Trio
Lifetime:  one transaction
Fabric:    internal/pkg/gateway/{endorsement,apiutils}.go (release-2.5)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import trio

from fabric_protos.protos import ProposalResponse, Response
from fabric_protos.stream import SignedProposal
from peer.discovery.endorsement import Descriptor
from peer.discovery.peers import PeerNode
from peer.endorser.endorser import ERROR, ERROR_THRESHOLD, OK
from peer.errors import CallFailed, Code, ErrorDetail, ProposalRefused

log = logging.getLogger("peer.gateway")

Process = Callable[[SignedProposal], Awaitable[ProposalResponse]]
"""Gives a proposal to one peer.

Raises `ProposalRefused` where the peer is this one and does not take it, and `CallFailed` where it
is another one and has not answered, for whatever reason.
"""


class Failure(NamedTuple):
    """Why a peer has not endorsed.

    Attributes:
        code: what a call that needs only this peer ends with.
        is_final: another peer would say the same.
    """

    code: Code
    message: str
    is_final: bool


async def ask(
    process: Process, proposal: SignedProposal, limit_s: float
) -> ProposalResponse | Failure:
    """Return what a peer says to a proposal.

    Args:
        limit_s: seconds; later it counts as not within reach.

    Cancellation: ends the execution, where the peer is this one.
    Source: `responseStatus`, internal/pkg/gateway/apiutils.go (release-2.5).
    """
    response = None
    with trio.move_on_after(limit_s):
        try:
            response = await process(proposal)
        except ProposalRefused as exc:
            return Failure(Code.FAILED_PRECONDITION, str(exc), is_final=True)
        except CallFailed as exc:
            return Failure(Code.UNAVAILABLE, str(exc), is_final=False)
    if response is None:
        text = f"no answer within {limit_s:g} s (peer.gateway.endorsementTimeout)"
        return Failure(Code.UNAVAILABLE, text, is_final=False)
    result = response.response or Response()
    if OK <= result.status < ERROR_THRESHOLD:
        return response
    if result.status == ERROR and not response.payload:  # of the peer, not of the chaincode
        return Failure(Code.ABORTED, result.message, is_final=False)
    text = f"chaincode response {result.status}, {result.message}"
    return Failure(Code.UNKNOWN, text, is_final=True)


class Endorsing:
    """The endorsements of one transaction, as far as there are any.

    Args:
        ask: gives the proposal to a peer.

    Attributes:
        responses: of the peers that endorsed; all have the same payload.
        failures: of those that did not, in their order.
    """

    def __init__(self, ask: Callable[[PeerNode], Awaitable[ProposalResponse | Failure]]) -> None:
        self._ask = ask
        self._failed: set[PeerNode] = set()
        self.responses: dict[PeerNode, ProposalResponse] = {}
        self.failures: list[ErrorDetail] = []

    async def add(self, node: PeerNode) -> bool:
        """Let a peer endorse, and tell whether it did, and the same as the others."""
        answer = await self._ask(node)
        if isinstance(answer, ProposalResponse):
            first = next(iter(self.responses.values()), answer)
            if first.payload == answer.payload:
                self.responses[node] = answer
                return True
            answer = Failure(Code.ABORTED, "ProposalResponsePayloads do not match", is_final=True)
        log.warning("%s of %s has not endorsed: %s", node.address, node.msp_id, answer.message)
        self._failed.add(node)
        self.failures.append(ErrorDetail(node.address, node.msp_id, answer.message))
        return False

    async def satisfy(self, descriptor: Descriptor) -> list[ProposalResponse] | None:
        """Return the answers of peers that satisfy a layout, the first one first.

        Returns:
            None where too many fail.

        The layout for which the fewest peers are still to be asked comes first, and those are
        asked at once. A peer that fails is replaced by another one of its group.

        Cancellation: whoever is asked may endorse all the same, to no effect.
        """
        layouts = list(descriptor.layouts)
        while layouts:
            layout = min(layouts, key=lambda each: self._missing(descriptor, each))
            chosen = self._choose(descriptor, layout)
            if chosen is None:
                layouts.remove(layout)
                continue
            missing = [node for node in chosen if node not in self.responses]
            if not missing:
                return [answer for node, answer in self.responses.items() if node in chosen]
            async with trio.open_nursery() as nursery:
                for node in missing:
                    nursery.start_soon(self.add, node)
        return None

    def _missing(self, descriptor: Descriptor, layout: Mapping[str, int]) -> float:
        chosen = self._choose(descriptor, layout)
        if chosen is None:
            return math.inf
        return sum(node not in self.responses for node in chosen)

    def _choose(
        self, descriptor: Descriptor, layout: Mapping[str, int]
    ) -> Sequence[PeerNode] | None:
        """Return different peers for all groups of a layout, those that have endorsed first."""
        chosen: list[PeerNode] = []
        groups = {name: descriptor.groups.get(name, ()) for name in layout}
        for name in sorted(layout, key=lambda each: len(groups[each])):
            free = [node for node in groups[name] if node not in chosen]
            usable = [node for node in free if node not in self._failed]
            usable.sort(key=lambda node: node not in self.responses)
            if len(usable) < layout[name]:
                return None
            chosen += usable[: layout[name]]
        return chosen
