"""The events of one chaincode, from a block or a transaction on.

Room:      peer.events   (used by gateway)
Loop:      Trio
Lifetime:  one listener
Fabric:    internal/pkg/gateway/chaincodeevents.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from fabric_protos.protos import ChaincodeEvent
from peer.events.filtered import transactions
from peer.ledger.api import Ledger, ValidationCode
from peer.ledger.blocks import header_of


class BlockEvents(NamedTuple):
    """The events of one block, in the order of its transactions; there is at least one."""

    block: int
    events: list[ChaincodeEvent]


async def chaincode_events(
    ledger: Ledger, name: str, *, start: int | None = None, after: str = ""
) -> AsyncGenerator[BlockEvents, None]:
    """Yield the events that valid transactions of a chaincode set, block by block, without end.

    Args:
        start: number of the first block; the next one to come if None.
        after: id of the last transaction whose event is known already: what follows it comes.
            A transaction that is in the ledger decides where to start, over `start`. One without
            an event, one that was invalid and one that never was are waited for without end: as
            with Fabric, nothing comes then. Whoever resumes gives the id of an event it received.

    Cancellation: start again after the last transaction received.
    """
    number = ledger.height if start is None else start
    if after:
        found = await ledger.transaction_by_id(after)
        number = number if found is None else found.version.block
    skipping = bool(after)
    async with aclosing(ledger.blocks(number)) as blocks:
        async for block in blocks:
            events = []
            for each in transactions(block, ledger.newest):
                if each.code is not ValidationCode.VALID:
                    continue
                for event in each.events:
                    if skipping:
                        skipping = each.tx_id != after
                    elif event.chaincode_id == name and event.event_name and event.tx_id:
                        events.append(event)
            if events:
                yield BlockEvents(header_of(block).number, events)
