"""Submit: which orderers get a transaction, and what they may say to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256

import pytest
import trio
import trio.testing

from fabric_protos.common import Envelope, Status
from fabric_protos.gateway import SubmitRequest
from peer.channel.bundle import BFT
from peer.errors import BroadcastRefused, CallFailed, CallRefused, Code
from peer.gateway.gateway import Limits
from peer.ordering.submitting import ALREADY_THERE, OrdererNode, bft_quorum
from tests.unit.gateway.conftest import CALLER, Stage, details, refusal
from tests.unit.validation.forging import CHANNEL, writes

NOBODY = "no orderers could successfully process transaction"
TOO_FEW = (
    "insufficient number of orderers could successfully process transaction to satisfy quorum "
    "requirement"
)

Broadcast = Callable[[bytes], Awaitable[None]]


async def takes(envelope: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def gone(envelope: bytes) -> None:
    await trio.lowlevel.checkpoint()
    raise CallFailed(Code.UNAVAILABLE, "connection refused")


async def silent(envelope: bytes) -> None:
    await trio.sleep_forever()


def refuses(status: Status, info: str) -> Broadcast:
    async def refuse(envelope: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise BroadcastRefused(status, info)

    return refuse


def orderers(*broadcasts: Broadcast) -> list[OrdererNode]:
    return [
        OrdererNode(f"orderer{index}:7050", "OrdererMSP", broadcast)
        for index, broadcast in enumerate(broadcasts)
    ]


BUSY = refuses(Status.SERVICE_UNAVAILABLE, "no leader")
SAID = "received unsuccessful response from orderer: status=SERVICE_UNAVAILABLE, info=no leader"
GONE = "rpc error: code = Unavailable desc = connection refused"


async def test_what_an_orderer_takes_will_be_committed(ordered: Stage) -> None:
    transaction = ordered.world.forged(writes("k"), 0)
    await ordered.submit(transaction.payload())
    tx_id = sha256(transaction.nonce + transaction.signer.creator).hexdigest()
    with trio.fail_after(10):
        assert (await ordered.joined.statuses.wait(tx_id)).block == 2
    assert ordered.world.state("k") == b"v"


async def test_a_transaction_that_the_orderer_refuses(ordered: Stage) -> None:
    payload = ordered.world.forged(writes("k"), 0).payload()
    with pytest.raises(CallRefused) as caught:
        await ordered.submit(payload, signer=ordered.scene.user(1))
    assert caught.value.code is Code.ABORTED
    text = "received unsuccessful response from orderer: status=FORBIDDEN, info="
    assert caught.value.message.startswith(text)
    assert details(caught) == []


@pytest.mark.parametrize("broadcasts", [(gone, BUSY, takes), (takes,), (BUSY, takes, gone)])
async def test_any_orderer_will_do(stage: Stage, broadcasts: tuple[Broadcast, ...]) -> None:
    stage.orderers = orderers(*broadcasts)
    await stage.submit(b"payload")


async def test_a_client_error_is_final(stage: Stage) -> None:
    """Whichever is asked first says so; nobody else is asked."""
    asked: list[bytes] = []

    async def refuse(envelope: bytes) -> None:
        asked.append(envelope)
        raise BroadcastRefused(Status.BAD_REQUEST, "too large")

    stage.orderers = orderers(refuse, refuse, refuse)
    with pytest.raises(CallRefused) as caught:
        await stage.submit(b"payload")
    text = "received unsuccessful response from orderer: status=BAD_REQUEST, info=too large"
    assert refusal(caught) == (Code.ABORTED, text)
    assert len(asked) == 1


async def test_no_orderer_takes_it(stage: Stage) -> None:
    stage.orderers = orderers(gone, BUSY)
    with pytest.raises(CallRefused) as caught:
        await stage.submit(b"payload")
    assert refusal(caught) == (Code.UNAVAILABLE, NOBODY)
    assert sorted(details(caught)) == [
        ("orderer0:7050", "OrdererMSP", GONE),
        ("orderer1:7050", "OrdererMSP", SAID),
    ]


async def test_there_is_no_orderer(stage: Stage) -> None:
    with pytest.raises(CallRefused) as caught:
        await stage.submit(b"payload")
    assert refusal(caught) == (Code.UNAVAILABLE, "no orderer nodes available")


async def test_a_channel_that_is_not_here(stage: Stage) -> None:
    request = SubmitRequest(
        channel_id="other", prepared_transaction=Envelope(payload=b"p", signature=b"s")
    )
    with pytest.raises(CallRefused) as caught:
        await stage.gateway.submit(request, CALLER)
    text = "failed to get config for channel [other]: could not get last config for channel other"
    assert refusal(caught) == (Code.FAILED_PRECONDITION, text)


@pytest.mark.parametrize(
    ("envelope", "text"),
    [
        (None, "a prepared transaction is required"),
        (Envelope(payload=b"p"), "prepared transaction must be signed"),
    ],
)
async def test_what_is_no_transaction(stage: Stage, envelope: Envelope | None, text: str) -> None:
    request = SubmitRequest(channel_id=CHANNEL, prepared_transaction=envelope)
    with pytest.raises(CallRefused) as caught:
        await stage.gateway.submit(request, CALLER)
    assert refusal(caught) == (Code.INVALID_ARGUMENT, text)


async def test_the_limits(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.orderers = orderers(silent, silent)
    stage.limits = Limits(broadcast_s=4.0)
    before = trio.current_time()
    with pytest.raises(CallRefused) as caught:
        await stage.submit(b"payload")
    assert trio.current_time() - before == pytest.approx(8.0)
    assert refusal(caught) == (Code.UNAVAILABLE, NOBODY)
    said = "no answer within 4 s (peer.gateway.broadcastTimeout)"
    assert {each[2] for each in details(caught)} == {said}
    with pytest.raises(CallRefused) as caught, trio.fail_after(6):
        await stage.submit(b"payload")
    text = "submit timeout expired while broadcasting to ordering service"
    assert refusal(caught) == (Code.DEADLINE_EXCEEDED, text)


@pytest.fixture
def bft(stage: Stage) -> Stage:
    """The same as if its orderers might lie."""
    bundle = stage.joined.channel.bundle
    assert bundle.orderer is not None
    bundle.orderer = replace(bundle.orderer, consensus_type=BFT)
    return stage


@pytest.mark.parametrize(
    ("nodes", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (10, 7)]
)
def test_how_many_orderers_have_to_take_it(nodes: int, quorum: int) -> None:
    assert bft_quorum(nodes) == quorum


@pytest.mark.parametrize(
    "fourth", [takes, gone, silent, refuses(Status.BAD_REQUEST, "I lie")], ids=str
)
async def test_a_quorum_takes_it_whatever_another_says(bft: Stage, fourth: Broadcast) -> None:
    exists = refuses(Status.SERVICE_UNAVAILABLE, ALREADY_THERE)
    bft.orderers = orderers(takes, takes, exists, fourth)
    with trio.fail_after(10):
        await bft.submit(b"payload")


async def test_too_few_take_it(bft: Stage) -> None:
    bft.orderers = orderers(takes, silent, gone, BUSY)
    with trio.fail_after(10), pytest.raises(CallRefused) as caught:
        await bft.submit(b"payload")
    assert refusal(caught) == (Code.UNAVAILABLE, TOO_FEW)
    assert sorted(each[2] for each in details(caught)) == [SAID, GONE]
