"""Blocks without their contents: who did what, and the verdicts.

Room:      peer.events   (used by services, dev and chaincode)
Loop:      none
Lifetime:  none
Fabric:    core/peer/deliverevents.go `toFilteredBlock` (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from fabric_protos.codec import decode
from fabric_protos.common import Block, Envelope, HeaderType, Payload
from fabric_protos.errors import DecodeError
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeActionPayload,
    ChaincodeEvent,
    FilteredBlock,
    FilteredChaincodeAction,
    FilteredTransaction,
    FilteredTransactionActions,
    ProposalResponsePayload,
    Transaction,
    TxValidationCode,
)
from fabric_protos.stream import ChannelHeader
from peer.ledger.api import CommittedBlock, ValidationCode
from peer.ledger.blocks import envelopes_of, flags_of, header_of

ENDORSED = HeaderType.ENDORSER_TRANSACTION


class TransactionEvents(NamedTuple):
    """One transaction of a block, as far as listeners look at it."""

    tx_id: str
    type: int
    code: ValidationCode
    events: list[ChaincodeEvent]


def transactions(block: Block, newest: CommittedBlock | None = None) -> Iterator[TransactionEvents]:
    """Yield the transactions of a committed block; one that cannot be read has no id.

    Args:
        newest: the ledger's last block. If it is this one, what is known of it is not read again.
    """
    known = newest if newest is not None and newest.block is block else None
    for index, (data, flag) in enumerate(zip(envelopes_of(block), flags_of(block), strict=True)):
        code = ValidationCode(flag)
        event = None if known is None else known.events.get(index)
        if known is None or event is None:
            yield _read(data, code)
        else:
            yield TransactionEvents(known.tx_ids[index], ENDORSED, code, _decoded([event]))


def filtered_block(
    channel_id: str, block: Block, newest: CommittedBlock | None = None
) -> FilteredBlock:
    """Return a block without contents; events keep their names and lose their payloads.

    Args:
        newest: as of `transactions`.
    """
    filtered = []
    for each in transactions(block, newest):
        actions = None
        if each.type == ENDORSED:
            actions = FilteredTransactionActions(
                chaincode_actions=[
                    FilteredChaincodeAction(chaincode_event=_without_payload(event))
                    for event in each.events
                    if event.chaincode_id
                ]
            )
        filtered.append(
            FilteredTransaction(
                txid=each.tx_id,
                type=HeaderType(each.type),
                tx_validation_code=TxValidationCode(each.code),
                transaction_actions=actions,
            )
        )
    return FilteredBlock(
        channel_id=channel_id, number=header_of(block).number, filtered_transactions=filtered
    )


def _without_payload(event: ChaincodeEvent) -> ChaincodeEvent:
    return ChaincodeEvent(
        chaincode_id=event.chaincode_id, tx_id=event.tx_id, event_name=event.event_name
    )


def _read(data: bytes, code: ValidationCode) -> TransactionEvents:
    try:
        payload = decode(Payload, decode(Envelope, data).payload)
        if payload.header is None:
            raise DecodeError("no header")
        header = ChannelHeader.decode(payload.header.channel_header)
    except DecodeError:
        return TransactionEvents("", HeaderType.MESSAGE, code, [])
    events = _decoded(_events(payload.data)) if header.type == ENDORSED else []
    return TransactionEvents(header.tx_id, header.type, code, events)


def _events(data: bytes) -> Iterator[bytes]:
    """Yield the marshalled event of each action of a transaction."""
    for action in decode(Transaction, data).actions:
        endorsed = decode(ChaincodeActionPayload, action.payload).action
        if endorsed is not None:
            response = decode(ProposalResponsePayload, endorsed.proposal_response_payload)
            yield decode(ChaincodeAction, response.extension).events


def _decoded(events: Iterable[bytes]) -> list[ChaincodeEvent]:
    """Return the events there are, as far as they can be read."""
    found = []
    with suppress(DecodeError):
        for event in events:
            if not event:
                continue
            found.append(decode(ChaincodeEvent, event))
    return found
