"""A stream recorded between a real Fabric 2.5 peer and the Go library, with our peer in its place.

Room:      tests.integration   (imports peer.chaincode and peer.ledger)
Loop:      Trio
Lifetime:  one replay

The chaincode's messages are fed to our handler, and what it answers must be the recorded bytes.
Query ids are the only difference allowed; each side makes them up.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from fabric_protos.stream import (
    ChaincodeAdditionalParams,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    QueryResponse,
)
from peer.chaincode.handler import Handler
from peer.chaincode.registry import HandlerRegistry
from peer.chaincode.requests import LongRequests
from peer.chaincode.stream import MemoryStream, PeerEnd, memory_pipe
from peer.chaincode.transactions import TransactionContext, TransactionParams
from peer.ledger import open_ledger
from peer.ledger.api import Ledger, Timestamp, ValidationCode
from peer.metrics import ChaincodeMeters, Registry
from tests.shared_fixtures import shared_fixture
from tests.unordered import CommittingTransaction, commit_unordered

Type = ChaincodeMessageType
NAMESPACE = "recgo"
CHANNEL = "fast"


class Recorded(NamedTuple):
    """One message of the recording."""

    from_chaincode: bool
    message: ChaincodeMessage
    raw: bytes


class OpenGate:
    """Lets the recorded chaincode in."""

    async def recognise(self, far_end: PeerEnd) -> None: ...

    def admit(self, ccid: str) -> None: ...

    def ended(self, reason: str) -> None: ...


class FarSide:
    """The chaincode's end: sends recorded messages and keeps what the peer answers."""

    def __init__(self, stream: MemoryStream) -> None:
        self._stream = stream
        self._send, self._received = trio.open_memory_channel[bytes](100)
        self._ids: dict[str, str] = {}

    async def listen(self) -> None:
        await self._stream.run(self._send.send_nowait)

    async def next(self) -> bytes:
        return await self._received.receive()

    def send(self, raw: bytes) -> None:
        """Send a recorded message, the recorded query ids replaced by ours."""
        for recorded, ours in self._ids.items():
            raw = raw.replace(recorded.encode(), ours.encode())
        self._stream.send(raw)

    def as_recorded(self, raw: bytes, expected: ChaincodeMessage) -> bytes:
        """Return our answer with the recorded query id, learning ids as they appear."""
        ours = ChaincodeMessage.decode(raw)
        recorded_id, our_id = (QueryResponse.decode(m.payload).id for m in (expected, ours))
        assert len(recorded_id) == len(our_id) == 36
        self._ids[recorded_id] = our_id
        return raw.replace(our_id.encode(), recorded_id.encode())


def recording(path: Path) -> list[Recorded]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    raws = [bytes.fromhex(row["raw_hex"]) for row in rows]
    return [
        Recorded(row["dir"] == "cc->peer", ChaincodeMessage.decode(raw), raw)
        for row, raw in zip(rows, raws, strict=True)
    ]


@asynccontextmanager
async def handler_and_far_side() -> AsyncIterator[tuple[Handler, FarSide]]:
    async def no_calls(context: TransactionContext, spec: object) -> bytes:
        raise AssertionError("the recording calls no other chaincode")

    near, far = memory_pipe()
    handler = Handler(
        near,
        gate=OpenGate(),
        registry=HandlerRegistry(),
        long_requests=LongRequests(total_query_limit=100_000, call_chaincode=no_calls),
        ready_params=ChaincodeAdditionalParams(),  # Fabric 2.5 offers nothing
        meters=ChaincodeMeters(Registry()),
    )
    side = FarSide(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler.process_stream)
        nursery.start_soon(side.listen)
        yield handler, side
        nursery.cancel_scope.cancel()


async def test_our_peer_answers_with_the_recorded_bytes(tmp_path: Path) -> None:
    messages = recording(shared_fixture("chaincode-stream/go-shim-with-fabric-2.5-peer.jsonl"))
    register, registered, ready, *rest = messages
    compared = 0
    async with (
        open_ledger(tmp_path, CHANNEL) as ledger,
        handler_and_far_side() as (handler, side),
    ):
        side.send(register.raw)
        assert await side.next() == registered.raw
        assert await side.next() == ready.raw
        while rest:
            start = next(
                (i for i, each in enumerate(rest[1:], 1) if each.message.type == Type.TRANSACTION),
                len(rest),
            )
            compared += await replay(handler, side, ledger, rest[:start])
            rest = rest[start:]
    assert compared == sum(not each.from_chaincode for each in messages) - 2


async def replay(handler: Handler, side: FarSide, ledger: Ledger, messages: list[Recorded]) -> int:
    """Replay one transaction, commit it as the real network did, and count what was compared."""
    begin = messages[0].message
    simulator = ledger.new_tx_simulator(begin.txid)
    params = TransactionParams(
        channel_id=begin.channel_id,
        tx_id=begin.txid,
        namespace=NAMESPACE,
        signed_proposal=begin.proposal,
        simulator=simulator,
    )
    answers: list[ChaincodeMessage] = []

    async def execute() -> None:
        payload = ChaincodeInput.decode(begin.payload)
        answers.append(await handler.execute(Type.TRANSACTION, params, payload, 30.0))

    compared = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(execute)
        for each in messages:
            if each.from_chaincode:
                side.send(each.raw)
                continue
            answer = await side.next()
            if answer != each.raw and each.message.type == Type.RESPONSE:
                answer = side.as_recorded(answer, each.message)
            assert answer == each.raw
            compared += 1
    assert answers[0].encode() == messages[-1].raw
    results = simulator.get_tx_simulation_results()
    transaction = CommittingTransaction(tx_id=begin.txid, timestamp=Timestamp(1), results=results)
    assert await commit_unordered(ledger, [transaction]) == [ValidationCode.VALID]
    return compared
