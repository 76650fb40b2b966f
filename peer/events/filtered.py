"""Blocks without their contents: who did what, and the verdicts.

Room:      peer.events   (used by rpc and library)
Loop:      none
Lifetime:  none
Fabric:    core/peer/deliverevents.go `toFilteredBlock` (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterator
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
from peer.ledger.api import ValidationCode
from peer.ledger.blocks import envelopes_of, flags_of, header_of


class TransactionEvents(NamedTuple):
    """One transaction of a block, as far as listeners look at it."""

    tx_id: str
    channel_id: str
    type: int
    code: ValidationCode
    events: list[ChaincodeEvent]


def transactions(block: Block) -> Iterator[TransactionEvents]:
    """Yield the transactions of a committed block; one that cannot be read has no id."""
    for data, flag in zip(envelopes_of(block), flags_of(block), strict=True):
        code = ValidationCode(flag)
        try:
            payload = decode(Payload, decode(Envelope, data).payload)
            if payload.header is None:
                raise DecodeError("no header")
            header = ChannelHeader.decode(payload.header.channel_header)
        except DecodeError:
            yield TransactionEvents("", "", HeaderType.MESSAGE, code, [])
            continue
        events = []
        if header.type == HeaderType.ENDORSER_TRANSACTION:
            events = list(_events(payload.data))
        yield TransactionEvents(header.tx_id, header.channel_id, header.type, code, events)


def filtered_block(channel_id: str, block: Block) -> FilteredBlock:
    """Return a block without contents; events keep their names and lose their payloads."""
    filtered = []
    for each in transactions(block):
        actions = None
        if each.type == HeaderType.ENDORSER_TRANSACTION:
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


def _events(data: bytes) -> Iterator[ChaincodeEvent]:
    """Yield the events of a transaction, as far as they can be read."""
    try:
        for action in decode(Transaction, data).actions:
            endorsed = decode(ChaincodeActionPayload, action.payload).action
            if endorsed is None:
                continue
            response = decode(ProposalResponsePayload, endorsed.proposal_response_payload)
            events = decode(ChaincodeAction, response.extension).events
            if events:
                yield decode(ChaincodeEvent, events)
    except DecodeError:
        return
