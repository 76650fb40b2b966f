"""Read-write sets that real Fabric peers committed, committed again here."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from fabric_protos.codec import decode
from fabric_protos.common import ChannelHeader, Envelope, Payload
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeActionPayload,
    ProposalResponsePayload,
    Transaction,
)
from peer.ledger import open_ledger
from peer.ledger.api import CommittingTransaction, SimulationResults, Timestamp
from tests.shared_fixtures import shared_fixture

FIXTURE = "fabric-v20-ledger/ledgersData.zip"
BLOCK_FILE = "ledgersData/chains/chains/testchannel/blockfile_000000"
ENDORSER_TRANSACTION = 3
TRANSACTIONS_FILTER = 2


class Reader:
    """Fabric's block file: varints and length-prefixed bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def chunk(self) -> bytes:
        length = self.varint()
        self._at += length
        return self._data[self._at - length : self._at]

    def __bool__(self) -> bool:
        return self._at < len(self._data)


def blocks(data: bytes) -> Iterator[tuple[list[bytes], bytes]]:
    """Yield each block's envelopes and its verdicts."""
    file = Reader(data)
    while file:
        block = Reader(file.chunk())
        block.varint(), block.chunk(), block.chunk()
        envelopes = [block.chunk() for _ in range(block.varint())]
        metadata = [block.chunk() for _ in range(block.varint())]
        yield envelopes, metadata[TRANSACTIONS_FILTER]


def committing(envelope: bytes, fallback_id: str) -> CommittingTransaction:
    payload = decode(Payload, decode(Envelope, envelope).payload)
    header = decode(ChannelHeader, payload.header.channel_header)
    public = b""
    if header.type == ENDORSER_TRANSACTION:
        (action,) = decode(Transaction, payload.data).actions
        endorsed = decode(ChaincodeActionPayload, action.payload).action.proposal_response_payload
        extension = decode(ProposalResponsePayload, endorsed).extension
        public = decode(ChaincodeAction, extension).results
    return CommittingTransaction(
        tx_id=header.tx_id or fallback_id,
        timestamp=Timestamp(0),
        results=SimulationResults(public=public),
    )


async def test_every_real_verdict_is_reached_again(tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_fixture(FIXTURE)) as archive:
        data = archive.read(BLOCK_FILE)
    endorsed = 0
    async with open_ledger(tmp_path, "testchannel") as ledger:
        for number, (envelopes, flags) in enumerate(blocks(data)):
            transactions = [
                committing(envelope, f"config {number} {i}") for i, envelope in enumerate(envelopes)
            ]
            endorsed += sum(bool(t.results.public) for t in transactions)
            codes = await ledger.commit(transactions)
            assert bytes(codes) == (flags or bytes(len(envelopes)))
        assert (ledger.height, endorsed) == (20, 15)
