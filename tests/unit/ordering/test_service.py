"""Channels that others order: who gets transactions, whose connections stay, what is told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from fabric_protos.common import Status
from peer.channel.bundle import Bundle
from peer.channel.channel import Channel
from peer.channel.network import Network
from peer.channels import Joined
from peer.errors import (
    BroadcastRefused,
    CallFailed,
    ChannelConfigRefused,
    Code,
    LedgerCorrupt,
    UnknownChannel,
)
from peer.msp.identity import SigningIdentity
from peer.ordering.connections import Connections
from peer.ordering.endpoints import Routes
from peer.ordering.following import Patience
from peer.ordering.remote import RemoteOrdering
from peer.ordering.service import Ordering
from peer.ordering.writer import BlockWriter
from peer.remote import Endpoint
from tests.unit.ordering.conftest import CHANNEL, envelope_of
from tests.unit.ordering.orderers import Chain, FakeOrderer
from tests.unit.ordering.test_following import A, B, C, naming


class OneChannel:
    """A peer's channels; see `Channels`."""

    def __init__(self, joined: Joined) -> None:
        self._joined = joined
        self.ids = [CHANNEL]

    def get(self, channel_id: str) -> Joined:
        if channel_id != CHANNEL:
            raise UnknownChannel(channel_id, self.ids)
        return self._joined

    def find(self, channel_id: str) -> Channel | None:
        return self._joined.channel if channel_id == CHANNEL else None


class Site:
    """A peer without a network of its own, joined to one channel with three orderers."""

    def __init__(
        self, bundle: Bundle, made: Network, peer: SigningIdentity, nursery: trio.Nursery
    ) -> None:
        self.plain = bundle
        genesis = made.genesis_block()
        self.chain = Chain(naming(bundle, A, B, C), genesis)
        self.orderers = {name: FakeOrderer([genesis]) for name in (A, B, C)}
        self.envelope = envelope_of(peer)
        self.remote = RemoteOrdering(
            peer,
            lambda endpoint: self.orderers[endpoint.address].connection(endpoint),
            Routes(),
            Patience(),
            nursery,
        )
        channels: Any = OneChannel(self.chain.joined)
        self.ordering = Ordering(channels, self.remote, None)

    @property
    def taken(self) -> list[int]:
        return [len(each.taken) for each in self.orderers.values()]

    async def broadcast(self) -> None:
        await self.ordering.orderer(CHANNEL).broadcast(self.envelope)


@pytest.fixture
def site(bundle: Bundle, made: Network, client: SigningIdentity, nursery: trio.Nursery) -> Site:
    return Site(bundle, made, client, nursery)


async def test_an_ordering_that_could_not_be_started_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(joined: Joined) -> None:
        raise LedgerCorrupt("/ledger", "no last block")

    monkeypatch.setattr(site.remote, "start", damaged)
    with pytest.raises(LedgerCorrupt):
        await site.ordering.start(CHANNEL)
    trouble = site.ordering.state(CHANNEL).trouble
    assert trouble.startswith("its ordering was not started: ")
    assert "no last block" in trouble
    with pytest.raises(BroadcastRefused, match="no last block"):
        await site.ordering.health()


async def test_one_orderer_gets_a_transaction(site: Site) -> None:
    await site.broadcast()
    assert sorted(site.taken) == [0, 0, 1]
    assert [each.msp_id for each in site.ordering.orderers(CHANNEL)] == ["OrdererMSP"] * 3


async def test_orderers_that_cannot_are_passed_over(site: Site) -> None:
    site.orderers[A].is_down = True
    site.orderers[B].refusal = (Status.SERVICE_UNAVAILABLE, "no leader")
    for _ in range(10):
        await site.broadcast()
    assert site.taken == [0, 0, 10]


async def test_what_is_refused_for_good_is_tried_nowhere_else(site: Site) -> None:
    for orderer in site.orderers.values():
        orderer.refusal = (Status.FORBIDDEN, "no writer")
    with pytest.raises(BroadcastRefused) as caught:
        await site.broadcast()
    assert (caught.value.status, caught.value.info) == (Status.FORBIDDEN, "no writer")
    assert sum(len(each.dialled) for each in site.orderers.values()) == 1


async def test_when_nobody_is_there_each_is_told(site: Site) -> None:
    for orderer in site.orderers.values():
        orderer.is_down = True
    with pytest.raises(CallFailed) as caught:
        await site.broadcast()
    assert caught.value.code is Code.UNAVAILABLE
    assert sorted(each.address for each in caught.value.details) == [A, B, C]


async def test_a_channel_that_nobody_orders(site: Site) -> None:
    site.chain.bundle = naming(site.plain)
    for channel_id in (CHANNEL, "other"):
        with pytest.raises(BroadcastRefused, match=f"knows no ordering service of {channel_id}"):
            site.ordering.orderer(channel_id)
    assert site.ordering.orderers(CHANNEL) == []
    with pytest.raises(UnknownChannel):
        site.ordering.orderers("other")
    with pytest.raises(ChannelConfigRefused):
        await site.ordering.create_channel("new")


async def test_connections_are_shared_and_end_with_the_configuration_that_names_them(
    site: Site, made: Network, orderer_identity: SigningIdentity
) -> None:
    async with trio.open_nursery() as many:
        for _ in range(50):
            many.start_soon(site.broadcast)
    assert [len(each.dialled) for each in site.orderers.values()] == [1, 1, 1]
    site.chain.bundles[1] = naming(site.plain, A)
    writer = BlockWriter(orderer_identity, made.genesis_block())
    await site.ordering.start(CHANNEL)
    for orderer in site.orderers.values():
        orderer.grow(writer.next_block([site.envelope]))
    await site.chain.reached(2)
    await trio.testing.wait_all_tasks_blocked()
    assert site.ordering.state(CHANNEL).source == A
    assert [each.open_connections for each in site.orderers.values()] == [2, 0, 0]


async def test_the_state_of_a_channel(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    assert site.ordering.state(CHANNEL) == ("", "it has only just been joined")
    for orderer in site.orderers.values():
        orderer.is_down = True
    await site.ordering.start(CHANNEL)
    await trio.testing.wait_all_tasks_blocked()
    assert site.ordering.state(CHANNEL).source == ""
    with pytest.raises(BroadcastRefused, match=f"channel {CHANNEL}: .* connection refused"):
        await site.ordering.health()
    for orderer in site.orderers.values():
        orderer.is_down = False
    await trio.sleep(1)
    assert site.ordering.state(CHANNEL).source in (A, B, C)
    await site.ordering.health()
    with pytest.raises(UnknownChannel):
        site.ordering.state("other")


async def test_a_channel_that_breaks_leaves_the_peer_alone(
    site: Site, made: Network, orderer_identity: SigningIdentity, client: SigningIdentity
) -> None:
    site.chain.failures.append(LedgerCorrupt("/ledger", "damaged"))
    block = BlockWriter(orderer_identity, made.genesis_block()).next_block([envelope_of(client)])
    for orderer in site.orderers.values():
        orderer.grow(block)
    await site.ordering.start(CHANNEL)
    await trio.testing.wait_all_tasks_blocked()
    assert "cannot be committed" in site.ordering.state(CHANNEL).trouble
    [reason] = site.chain.told
    assert "is not followed any more" in str(reason)
    await site.broadcast()  # the orderers are there all the same


# Connections


class Door:
    """What `Connections` dials: opens when it is told to."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.failure: CallFailed | None = None
        self.dialled = 0
        self.held = 0

    @asynccontextmanager
    async def __call__(self, endpoint: Endpoint) -> Any:
        self.dialled += 1
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.held += 1
        try:
            yield endpoint
        finally:
            self.held -= 1


async def test_whoever_gives_up_leaves_the_attempt_to_the_others(nursery: trio.Nursery) -> None:
    door = Door()
    connections = Connections(door, nursery)
    with trio.CancelScope() as impatient:
        impatient.cancel()
        await connections.to(Endpoint(A))
    async with trio.open_nursery() as others:
        for _ in range(3):
            others.start_soon(connections.to, Endpoint(A))
        await trio.testing.wait_all_tasks_blocked()
        door.open.set()
    assert (door.dialled, door.held) == (1, 1)


async def test_all_hear_of_an_attempt_that_fails_and_the_next_is_new(
    nursery: trio.Nursery,
) -> None:
    door = Door()
    door.failure = CallFailed(Code.UNAVAILABLE, "refused")
    connections = Connections(door, nursery)
    failures: list[CallFailed] = []

    async def connect() -> None:
        try:
            await connections.to(Endpoint(A))
        except CallFailed as exc:
            failures.append(exc)

    async with trio.open_nursery() as callers:
        for _ in range(3):
            callers.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked()
        door.open.set()
    assert [each.message for each in failures] == ["refused"] * 3
    door.failure = None
    await connections.to(Endpoint(A))
    assert door.dialled == 2


async def test_what_is_not_kept_is_closed_also_while_it_is_being_opened(
    nursery: trio.Nursery,
) -> None:
    door = Door()
    connections = Connections(door, nursery)

    async def connect() -> None:
        with pytest.raises(CallFailed, match="it is not wanted any more"):
            await connections.to(Endpoint(A))

    async with trio.open_nursery() as callers:
        callers.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked()
        connections.keep([])
    door.open.set()
    await connections.to(Endpoint(A))
    await connections.to(Endpoint(B))
    connections.keep([Endpoint(B)])
    await trio.testing.wait_all_tasks_blocked()
    assert door.held == 1
