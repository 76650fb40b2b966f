"""Blocks that no orderer made, for tests of the ledger alone.

Room:      tests   (imports peer.ledger)
Loop:      Trio
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import trio

from fabric_protos.codec import encode
from fabric_protos.common import Block, BlockData, BlockHeader, Envelope, Header, Payload
from fabric_protos.errors import DecodeError
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeActionPayload,
    ChaincodeEndorsedAction,
    ProposalResponsePayload,
    Transaction,
    TransactionAction,
)
from fabric_protos.stream import ChannelHeader, HeaderType
from fabric_protos.stream import Timestamp as TimestampMessage
from peer.ledger.api import Ledger, SimulationResults, Timestamp, ValidationCode
from peer.ledger.blocks import data_hash
from peer.ledger.transactions import read_sets

_one_at_a_time: WeakKeyDictionary[Ledger, trio.Lock] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittingTransaction:
    """One simulated transaction that no orderer put into a block."""

    tx_id: str
    timestamp: Timestamp
    results: SimulationResults


async def commit_unordered(
    ledger: Ledger, transactions: Sequence[CommittingTransaction]
) -> list[ValidationCode]:
    """Make the next block of transactions that nobody signed, and commit it.

    An id that is in the ledger already, or was used by an earlier transaction of the block, is a
    DUPLICATE_TXID.
    """
    async with _one_at_a_time.setdefault(ledger, trio.Lock()):
        info = ledger.blockchain_info()
        block = make_block(info.height, info.current_block_hash, transactions)
        tx_ids: set[str] = set()
        verdicts = [_verdict(ledger, transaction, tx_ids) for transaction in transactions]
        private = {tx: each.results.private for tx, each in enumerate(transactions)}
        return list((await ledger.commit(block, verdicts, private)).codes)


def _verdict(
    ledger: Ledger, transaction: CommittingTransaction, tx_ids: set[str]
) -> ValidationCode:
    if transaction.tx_id in tx_ids or ledger.has_transaction(transaction.tx_id):
        return ValidationCode.DUPLICATE_TXID
    try:
        read_sets(transaction.results.public)
    except DecodeError:
        return ValidationCode.INVALID_OTHER_REASON
    # An id stays free after a transaction that is no transaction, not after a conflict.
    tx_ids.add(transaction.tx_id)
    return ValidationCode.VALID


def make_block(
    number: int, previous_hash: bytes, transactions: Sequence[CommittingTransaction]
) -> Block:
    """Return a block of unsigned transactions with nothing in them but what a ledger reads."""
    data = BlockData(data=[_envelope(transaction) for transaction in transactions])
    header = BlockHeader(number=number, previous_hash=previous_hash, data_hash=data_hash(data))
    return Block(header=header, data=data)


def _envelope(transaction: CommittingTransaction) -> bytes:
    header = ChannelHeader(
        type=HeaderType.ENDORSER_TRANSACTION,
        tx_id=transaction.tx_id,
        timestamp=TimestampMessage(
            seconds=transaction.timestamp.seconds, nanos=transaction.timestamp.nanos
        ),
    )
    response = ProposalResponsePayload(
        extension=encode(ChaincodeAction(results=transaction.results.public))
    )
    action = ChaincodeActionPayload(
        action=ChaincodeEndorsedAction(proposal_response_payload=encode(response))
    )
    payload = Payload(
        header=Header(channel_header=header.encode()),
        data=encode(Transaction(actions=[TransactionAction(payload=encode(action))])),
    )
    return encode(Envelope(payload=encode(payload)))
