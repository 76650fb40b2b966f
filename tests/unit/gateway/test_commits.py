"""CommitStatus and ChaincodeEvents: who may ask, and how long an answer takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256

import pytest
import trio
import trio.testing

from fabric_protos.codec import encode
from fabric_protos.gateway import (
    ChaincodeEventsRequest,
    ChaincodeEventsResponse,
    CommitStatusRequest,
    CommitStatusResponse,
    SignedChaincodeEventsRequest,
    SignedCommitStatusRequest,
)
from fabric_protos.orderer import (
    SeekNewest,
    SeekNextCommit,
    SeekOldest,
    SeekPosition,
    SeekSpecified,
)
from fabric_protos.protos import ChaincodeEvent, TxValidationCode
from peer.errors import CallRefused, Code
from peer.msp.identity import SigningIdentity
from peer.services.api import Streaming, Unary
from tests.unit.gateway.conftest import CALLER, Stage, refusal
from tests.unit.validation.forging import CC, CHANNEL, Forged, writes

DENIED = (
    "Failed evaluating policy on signed data during check policy on channel [mychannel] with "
    "policy [/Channel/Application/Readers]: "
)


def tx_id(transaction: Forged) -> str:
    return sha256(transaction.nonce + transaction.signer.creator).hexdigest()


def transaction(stage: Stage, name: str, *, signers: tuple[int, ...] = (0,)) -> Forged:
    """Return a transaction with an event; only Org1 has to endorse it."""
    made = stage.world.forged(writes(name), *signers)
    made.event = encode(
        ChaincodeEvent(chaincode_id=CC, tx_id=tx_id(made), event_name=name, payload=b"p")
    )
    return made


async def commit(stage: Stage, *transactions: Forged) -> None:
    await stage.world.commit(*(each.made() for each in transactions))


def signed(request: CommitStatusRequest, signer: SigningIdentity) -> SignedCommitStatusRequest:
    data = encode(request)
    return SignedCommitStatusRequest(request=data, signature=signer.sign(data))


async def status(stage: Stage, tx_id: str, **changes: object) -> CommitStatusResponse:
    """Ask for what became of a transaction, as the client unless told otherwise."""
    request = CommitStatusRequest(
        transaction_id=tx_id, channel_id=CHANNEL, identity=stage.client.creator
    )
    for name, value in changes.items():
        setattr(request, name, value)
    method = methods(stage)["/gateway.Gateway/CommitStatus"]
    assert isinstance(method, Unary)
    answer = await method.call(signed(request, stage.client), CALLER)
    assert isinstance(answer, CommitStatusResponse)
    return answer


def methods(stage: Stage) -> dict[str, Unary | Streaming]:
    return {each.path: each for each in stage.gateway.methods()}


async def test_what_is_served(stage: Stage) -> None:
    names = ["ChaincodeEvents", "CommitStatus", "Endorse", "Evaluate", "Submit"]
    served = methods(stage)
    assert sorted(served) == [f"/gateway.Gateway/{name}" for name in names]
    events = served["/gateway.Gateway/ChaincodeEvents"]
    assert isinstance(events, Streaming)
    assert events.is_endless  # so that a peer that stops does not wait for who listens


async def test_a_transaction_that_is_there(stage: Stage) -> None:
    good, bad = transaction(stage, "a"), transaction(stage, "b", signers=(1,))
    await commit(stage, good, bad)
    assert await status(stage, tx_id(good)) == CommitStatusResponse(
        result=TxValidationCode.VALID, block_number=2
    )
    assert await status(stage, tx_id(bad)) == CommitStatusResponse(
        result=TxValidationCode.ENDORSEMENT_POLICY_FAILURE, block_number=2
    )


async def test_a_transaction_that_comes_later(stage: Stage) -> None:
    late = transaction(stage, "a")
    heard: list[CommitStatusResponse] = []

    async def ask() -> None:
        heard.append(await status(stage, tx_id(late)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await commit(stage, transaction(stage, "b"))
        await trio.testing.wait_all_tasks_blocked()
        assert heard == []
        await commit(stage, late)
    assert heard == [CommitStatusResponse(result=TxValidationCode.VALID, block_number=3)]


async def test_a_transaction_that_never_comes(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    before = trio.current_time()
    with pytest.raises(CallRefused) as caught, trio.fail_after(60):
        await status(stage, "unknown")
    assert trio.current_time() - before == pytest.approx(60, abs=0.02)
    assert refusal(caught) == (Code.DEADLINE_EXCEEDED, "context deadline exceeded")


async def test_a_transaction_that_no_block_will_bring(stage: Stage) -> None:
    async def close() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.joined.statuses.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(CallRefused) as caught:
            await status(stage, "unknown")
    assert refusal(caught) == (Code.ABORTED, "the channel is closed")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"identity": b""}, "no identity provided"),
        ({"channel_id": ""}, "no channel ID provided"),
        ({"transaction_id": ""}, "transaction ID should not be empty"),
    ],
)
async def test_what_a_status_request_must_say(
    stage: Stage, changes: dict[str, object], text: str
) -> None:
    with pytest.raises(CallRefused) as caught:
        await status(stage, "id", **changes)
    assert refusal(caught) == (Code.INVALID_ARGUMENT, text)


async def test_only_readers_may_ask(stage: Stage) -> None:
    orderer = stage.scene.orderer_admin
    with pytest.raises(CallRefused) as caught:  # signed by somebody else than it says
        await status(stage, "id", identity=stage.scene.user(1).creator)
    assert caught.value.code is Code.PERMISSION_DENIED
    assert caught.value.message.startswith(DENIED)
    with pytest.raises(CallRefused) as caught:
        await status(stage, "id", identity=orderer.creator)
    assert caught.value.code is Code.PERMISSION_DENIED
    with pytest.raises(CallRefused) as caught:
        await status(stage, "id", channel_id="other")
    text = "Failed to get policy manager for channel [other]"
    assert refusal(caught) == (Code.PERMISSION_DENIED, text)


@pytest.mark.parametrize(("content", "text"), [(b"", "request is required"), (b"\xff", "invalid ")])
async def test_what_is_no_request(stage: Stage, content: bytes, text: str) -> None:
    served = methods(stage)
    status_of, events = (
        served[f"/gateway.Gateway/{name}"] for name in ("CommitStatus", "ChaincodeEvents")
    )
    assert isinstance(status_of, Unary)
    assert isinstance(events, Streaming)
    for call in (
        status_of.call(SignedCommitStatusRequest(request=content), CALLER),
        events.call(Incoming(SignedChaincodeEventsRequest(request=content)), Events().send, CALLER),
    ):
        with pytest.raises(CallRefused) as caught:
            await call
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert text in caught.value.message
    with pytest.raises(CallRefused, match="request is required"):
        await events.call(Incoming(), Events().send, CALLER)


class Incoming:
    """The requests of a stream."""

    def __init__(self, *requests: SignedChaincodeEventsRequest) -> None:
        self._requests = list(requests)

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        await trio.lowlevel.checkpoint()
        if not self._requests:
            raise StopAsyncIteration
        return self._requests.pop(0)


class Events:
    """Takes events; `count` blocks of them, then it waits until it is told to go on."""

    def __init__(self, count: int = 99) -> None:
        self.got: list[tuple[int, list[str]]] = []
        self._count = count

    async def send(self, response: ChaincodeEventsResponse) -> None:
        self.got.append((response.block_number, [each.event_name for each in response.events]))
        if len(self.got) == self._count:
            await trio.sleep_forever()


async def listened(stage: Stage, count: int, **changes: object) -> list[tuple[int, list[str]]]:
    """Return block and names of the events of so many blocks."""
    request = ChaincodeEventsRequest(
        channel_id=CHANNEL, chaincode_id=CC, identity=stage.client.creator
    )
    for name, value in changes.items():
        setattr(request, name, value)
    data = encode(request)
    signed = SignedChaincodeEventsRequest(request=data, signature=stage.client.sign(data))
    events = Events(count)
    method = methods(stage)["/gateway.Gateway/ChaincodeEvents"]
    assert isinstance(method, Streaming)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(method.call, Incoming(signed), events.send, CALLER)
            while len(events.got) < count:
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    return events.got


def block(number: int) -> SeekPosition:
    return SeekPosition(specified=SeekSpecified(number=number))


async def test_events_from_a_block_and_from_a_checkpoint(stage: Stage) -> None:
    first, second, third = (transaction(stage, name) for name in "abc")
    await commit(stage, first, transaction(stage, "bad", signers=(1,)), second)
    await commit(stage, third)
    assert await listened(stage, 2, start_position=block(0)) == [(2, ["a", "b"]), (3, ["c"])]
    assert await listened(stage, 1, start_position=block(3)) == [(3, ["c"])]
    after = await listened(stage, 2, start_position=block(2), after_transaction_id=tx_id(first))
    assert after == [(2, ["b"]), (3, ["c"])]


@pytest.mark.parametrize(
    "position", [None, SeekPosition(), SeekPosition(next_commit=SeekNextCommit())]
)
async def test_events_from_now_on(stage: Stage, position: SeekPosition | None) -> None:
    await commit(stage, transaction(stage, "before"))
    heard: list[tuple[int, list[str]]] = []

    async def listen() -> None:
        heard.extend(await listened(stage, 1, start_position=position))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        await commit(stage, transaction(stage, "after"))
    assert heard == [(3, ["after"])]


async def test_nothing_is_read_ahead_of_a_client_that_does_not_read(stage: Stage) -> None:
    """Two blocks of events: the second one is not sent as long as the first is not taken."""
    await commit(stage, transaction(stage, "a"))
    await commit(stage, transaction(stage, "b"))
    assert await listened(stage, 1, start_position=block(0)) == [(2, ["a"])]


@pytest.mark.parametrize(
    ("position", "name"),
    [
        (SeekPosition(newest=SeekNewest()), "Newest"),
        (SeekPosition(oldest=SeekOldest()), "Oldest"),
    ],
)
async def test_where_events_cannot_begin(stage: Stage, position: SeekPosition, name: str) -> None:
    with pytest.raises(ExceptionGroup) as group:
        await listened(stage, 1, start_position=position)
    [refused] = group.value.exceptions
    assert isinstance(refused, CallRefused)
    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.message == f"invalid start position type: *orderer.SeekPosition_{name}"


async def test_only_readers_may_listen(stage: Stage) -> None:
    for changes in ({"identity": stage.scene.user(1).creator}, {"channel_id": "other"}):
        with pytest.raises(ExceptionGroup) as group:
            await listened(stage, 1, **changes)
        [refused] = group.value.exceptions
        assert isinstance(refused, CallRefused)
        assert refused.code is Code.PERMISSION_DENIED


async def test_the_ledger_closes_while_somebody_listens(stage: Stage) -> None:
    async def close() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await stage.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(ExceptionGroup) as group:
            await listened(stage, 1)
    [refused] = group.value.exceptions
    assert isinstance(refused, CallRefused)
    assert refused.code is Code.ABORTED
