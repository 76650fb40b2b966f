"""What a client makes of peers and orderers on other machines: answers, refusals, silence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, BlockHeader, Envelope, Payload, Status
from fabric_protos.orderer import BroadcastResponse, SeekInfo, SeekInfoSeekBehavior
from fabric_protos.orderer import DeliverResponse as OrdererResponse
from fabric_protos.protos import (
    DeliverResponse,
    FilteredBlock,
    FilteredTransaction,
    ProposalResponse,
    Response,
    TxValidationCode,
)
from fabric_protos.stream import ChannelHeader, SignedProposal
from peer.client.remote import (
    DELIVER_FILTERED,
    DELIVER_OF_ORDERERS,
    DELIVER_OF_PEERS,
    PROCESS_PROPOSAL,
    RemoteEndorser,
    RemoteOrderer,
    RemoteVerdicts,
    fetch_block,
)
from peer.errors import BroadcastRefused, CallFailed, Code, CommitTimeout, DeliverRefused
from peer.events.requests import NEWEST, at
from peer.ledger.api import ValidationCode
from peer.msp.identity import SigningIdentity
from peer.ordering.calls import BROADCAST
from peer.remote import Endpoint

ME = SigningIdentity.self_signed("Org1MSP")
TX = "a" * 64


@dataclass
class Call:
    """A stream whose answers wait in a channel."""

    answers: trio.MemoryReceiveChannel[bytes]
    sent: list[bytes] = field(default_factory=list)

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    async def end(self) -> None:
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self.answers.__anext__()


class Far:
    """A connection to a server that says what a test lets it say."""

    def __init__(self, address: str = "far:1") -> None:
        self.endpoint = Endpoint(address)
        self.say, answers = trio.open_memory_channel[bytes](100)
        self.call = Call(answers)
        self.paths: list[str] = []
        self.open = 0
        self.answer: Callable[[], bytes] = lambda: b""

    async def unary(self, path: str, request: bytes, *, timeout_s: float | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.paths.append(path)
        self.call.sent.append(request)
        return self.answer()

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[Call]:
        self.paths.append(path)
        self.open += 1
        try:
            yield self.call
        finally:
            self.open -= 1


def seek(sent: bytes) -> tuple[ChannelHeader, SeekInfo]:
    """Return what a request for blocks asks for."""
    payload = decode(Payload, decode(Envelope, sent).payload)
    assert payload.header is not None
    return ChannelHeader.decode(payload.header.channel_header), decode(SeekInfo, payload.data)


def brings(*codes: TxValidationCode) -> bytes:
    """Return a block with a stranger's transaction, and with ours for each code."""
    found = [FilteredTransaction(txid="b" * 64)]
    found += [FilteredTransaction(txid=TX, tx_validation_code=code) for code in codes]
    return encode(DeliverResponse(filtered_block=FilteredBlock(filtered_transactions=found)))


async def test_an_endorsement_is_handed_on_whatever_its_status() -> None:
    far = Far()
    answer = ProposalResponse(response=Response(status=500, message="no"))
    far.answer = lambda: encode(answer)
    signed = SignedProposal(proposal_bytes=b"p", signature=b"s")
    assert await RemoteEndorser(far).endorse(signed) == answer
    assert (far.paths, far.call.sent) == ([PROCESS_PROPOSAL], [signed.encode()])


async def test_an_answer_that_is_none() -> None:
    far = Far()
    far.answer = lambda: b"\xff"
    with pytest.raises(CallFailed, match="far:1: the answer is no ProposalResponse") as caught:
        await RemoteEndorser(far).endorse(SignedProposal())
    assert caught.value.code is Code.INTERNAL


async def test_an_order() -> None:
    far = Far()
    far.say.send_nowait(encode(BroadcastResponse(status=Status.SUCCESS)))
    await RemoteOrderer(far).broadcast(b"envelope")
    assert (far.paths, far.call.sent, far.open) == ([BROADCAST], [b"envelope"], 0)
    far.say.send_nowait(encode(BroadcastResponse(status=Status.FORBIDDEN, info="not you")))
    with pytest.raises(BroadcastRefused) as caught:
        await RemoteOrderer(far).broadcast(b"envelope")
    assert (caught.value.status, caught.value.info) == (403, "not you")
    far.say.close()
    with pytest.raises(CallFailed, match="the server has ended the call"):
        await RemoteOrderer(far).broadcast(b"envelope")
    assert far.open == 0


async def test_a_block_of_a_peer_and_of_an_orderer() -> None:
    block = Block(header=BlockHeader(number=3))
    for path, answer in (
        (DELIVER_OF_PEERS, DeliverResponse(block=block)),
        (DELIVER_OF_ORDERERS, OrdererResponse(block=block)),
    ):
        far = Far()
        far.say.send_nowait(encode(answer))
        found = await fetch_block(far, ME, "ch", at(3), path=path, tls_hash=b"hash")
        assert (found, far.paths, far.open) == (block, [path], 0)
        header, asked = seek(far.call.sent[0])
        assert (header.type, header.channel_id, header.tls_cert_hash) == (5, "ch", b"hash")
        assert (asked.start, asked.stop) == (at(3), at(3))
        assert asked.behavior == SeekInfoSeekBehavior.FAIL_IF_NOT_READY


async def test_a_block_that_is_refused() -> None:
    far = Far()
    far.say.send_nowait(encode(DeliverResponse(status=Status.NOT_FOUND)))
    with pytest.raises(DeliverRefused, match="can't read the block: NOT_FOUND") as caught:
        await fetch_block(far, ME, "ch", NEWEST, waits=True)
    assert caught.value.status == 404
    assert seek(far.call.sent[0])[1].behavior == SeekInfoSeekBehavior.BLOCK_UNTIL_READY


class Watching:
    """Two peers whose verdicts are waited for."""

    def __init__(self) -> None:
        self.peers = [Far("one:1"), Far("two:2")]
        self.heard: list[tuple[str, str, str]] = []
        self.verdicts = RemoteVerdicts(
            ME,
            self.peers,
            timeout_s=30.0,
            on_verdict=lambda tx_id, address, code: self.heard.append((tx_id, address, code.name)),
        )
        for peer in self.peers:
            peer.say.send_nowait(brings())

    async def outcome(self) -> ValidationCode:
        async with AsyncExitStack() as stack:
            wait = await stack.enter_async_context(self.verdicts.watch("ch", TX))
            return await wait()


@pytest.fixture
def watching() -> Watching:
    return Watching()


async def test_every_peer_has_to_say_so(watching: Watching) -> None:
    first, second = watching.peers
    first.say.send_nowait(brings(TxValidationCode.VALID))
    second.say.send_nowait(brings())
    second.say.send_nowait(brings(TxValidationCode.VALID))
    assert await watching.outcome() is ValidationCode.VALID
    assert sorted(watching.heard) == [(TX, "one:1", "VALID"), (TX, "two:2", "VALID")]
    for peer in watching.peers:
        assert (peer.paths, peer.open) == ([DELIVER_FILTERED], 0)
        assert seek(peer.call.sent[0])[1].start == NEWEST


async def test_one_that_disagrees_decides(watching: Watching) -> None:
    first, second = watching.peers
    first.say.send_nowait(brings(TxValidationCode.VALID))
    second.say.send_nowait(brings(TxValidationCode.MVCC_READ_CONFLICT))
    assert await watching.outcome() is ValidationCode.MVCC_READ_CONFLICT


async def test_the_newest_block_may_bring_it_already() -> None:
    watching = Watching()
    for peer in watching.peers:
        peer.call.answers.receive_nowait()
        peer.say.send_nowait(brings(TxValidationCode.VALID))
    assert await watching.outcome() is ValidationCode.VALID


async def test_nobody_is_watched_before_each_has_answered(
    watching: Watching, autojump_clock: trio.testing.MockClock
) -> None:
    watching.peers[1].call.answers.receive_nowait()
    began = trio.current_time()
    with pytest.raises(CommitTimeout):
        async with watching.verdicts.watch("ch", TX):
            raise AssertionError("the second has said nothing")
    assert trio.current_time() - began == pytest.approx(30)
    assert [peer.open for peer in watching.peers] == [0, 0]


async def test_silence_ends_the_wait(
    watching: Watching, autojump_clock: trio.testing.MockClock
) -> None:
    watching.peers[0].say.send_nowait(brings(TxValidationCode.VALID))
    began = trio.current_time()
    with pytest.raises(CommitTimeout) as caught:
        await watching.outcome()
    assert (caught.value.tx_id, caught.value.limit_s) == (TX, 30.0)
    assert trio.current_time() - began == pytest.approx(30)
    assert [peer.open for peer in watching.peers] == [0, 0]


async def test_a_peer_that_ends_its_blocks_ends_the_wait(watching: Watching) -> None:
    refused = DeliverResponse(status=Status.SERVICE_UNAVAILABLE)
    watching.peers[1].say.send_nowait(encode(refused))
    told = r"deliver completed with status \(SERVICE_UNAVAILABLE\) before txid received"
    with pytest.raises(DeliverRefused, match=told):
        await watching.outcome()
    other = Watching()
    other.peers[0].say.close()
    with pytest.raises(CallFailed, match="the server has ended the call"):
        await other.outcome()
    assert [peer.open for peer in (*watching.peers, *other.peers)] == [0, 0, 0, 0]
