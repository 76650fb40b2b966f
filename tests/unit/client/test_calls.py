"""What a caller hears of a transaction that was ordered, and of one that no block brings."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from fabric_protos.stream import ChaincodeInput
from peer.channels import Joined
from peer.client.calls import COMMIT_WAIT_S, Client, OwnVerdicts
from peer.errors import CommitTimeout, UnknownChannel
from peer.events.status import CommitStatuses
from peer.ledger.api import ValidationCode
from tests.unit.endorser.conftest import Desk, writing
from tests.unit.endorser.conftest import bare as bare
from tests.unit.endorser.conftest import desk as desk
from tests.unit.endorser.conftest import scene as scene
from tests.unit.endorser.conftest import world as world
from tests.unit.validation.forging import CC, CHANNEL

CALL = ChaincodeInput(args=[b"put"])


@dataclass
class Orderer:
    """Takes everything, and makes no blocks."""

    taken: list[bytes] = field(default_factory=list)

    async def broadcast(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.taken.append(data)


class OneChannel:
    """The channels of a peer that has joined one."""

    def __init__(self, desk: Desk) -> None:
        channel, committer = desk.world.channel, desk.world.committer
        self.joined = Joined(channel, committer, CommitStatuses(channel.ledger))

    def get(self, channel_id: str) -> Joined:
        if channel_id != CHANNEL:
            raise UnknownChannel(channel_id)
        return self.joined


def client_of(desk: Desk, orderer: Orderer) -> Client:
    return Client(
        desk.client,
        endorsers=[desk.endorser],
        verdicts=OwnVerdicts(OneChannel(desk)),
        orderer=lambda channel_id: orderer,
    )


async def test_a_transaction_that_no_block_brings_is_not_waited_for_without_end(
    desk: Desk, autojump_clock: trio.testing.MockClock
) -> None:
    desk.script.does = writing(["key"])
    orderer = Orderer()
    began = trio.current_time()
    with pytest.raises(CommitTimeout) as caught:
        await client_of(desk, orderer).submit(CHANNEL, CC, CALL)
    configured = desk.world.channel.bundle.orderer
    assert configured is not None
    assert caught.value.limit_s == COMMIT_WAIT_S + configured.batch_timeout_s
    assert trio.current_time() - began == pytest.approx(caught.value.limit_s)
    [envelope] = orderer.taken
    assert caught.value.tx_id.encode() in envelope
    # It was not wrong to say that one still may: here it comes.
    assert await desk.world.commit(envelope) == [ValidationCode.ENDORSEMENT_POLICY_FAILURE]
    assert desk.world.ledger.has_transaction(caught.value.tx_id)


async def test_a_call_of_a_channel_that_is_not_joined(desk: Desk) -> None:
    with pytest.raises(UnknownChannel):
        await client_of(desk, Orderer()).submit("other", CC, CALL)
    assert desk.script.calls == []
