"""Make a block of transactions that no orderer saw.

Room:      peer.ledger   (used by kvledger)
Loop:      none
Lifetime:  one block
"""

from __future__ import annotations

from collections.abc import Sequence

from fabric_protos.codec import encode
from fabric_protos.common import Block, BlockData, BlockHeader, Envelope, Header, Payload
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeActionPayload,
    ChaincodeEndorsedAction,
    ProposalResponsePayload,
    Transaction,
    TransactionAction,
)
from fabric_protos.stream import ChannelHeader, HeaderType, Timestamp
from peer.ledger.api import CommittingTransaction
from peer.ledger.blocks import data_hash


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
        timestamp=Timestamp(
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
