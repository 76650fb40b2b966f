"""Whose blocks a peer takes, whom it leaves, and how long it waits in between."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import trio
import trio.testing

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, Config, ConfigValue, OrdererAddresses, Status
from peer.channel.bundle import Bundle
from peer.channel.network import Network
from peer.errors import LedgerCorrupt, LedgerFull
from peer.msp.identity import SigningIdentity
from peer.ordering.endpoints import Named, Override, Routes
from peer.ordering.following import FIRST_PAUSE_S, PAUSE_GROWTH, Follower, Patience
from peer.ordering.writer import BlockWriter
from peer.remote import Endpoint
from tests.unit.ordering.conftest import envelope_of
from tests.unit.ordering.orderers import Chain, FakeOrderer

PATIENCE = Patience(longest_pause_s=3600, silence_s=30)
A, B, C = "a:7050", "b:7050", "c:7050"


def naming(bundle: Bundle, *addresses: str) -> Bundle:
    """Return a configuration that names these orderers, and nothing else is changed."""
    config = decode(Config, encode(bundle.config))
    assert config.channel_group is not None
    organisation = config.channel_group.groups["Orderer"].groups["Orderer"]
    value = encode(OrdererAddresses(addresses=list(addresses)))
    organisation.values["Endpoints"] = ConfigValue(value=value, mod_policy="Admins")
    return Bundle(bundle.channel_id, config)


class Scene:
    """A channel, three orderers with the same blocks, and the peer that follows them."""

    def __init__(
        self, bundle: Bundle, genesis: Block, signer: SigningIdentity, peer: SigningIdentity
    ) -> None:
        self.plain = bundle
        self.chain = Chain(naming(bundle, A, B, C), genesis)
        self.writer = BlockWriter(signer, genesis)
        self._client = peer
        self.orderers = {name: FakeOrderer([genesis]) for name in (A, B, C)}
        self.follower = Follower(
            self.chain.joined,
            peer,
            lambda endpoint: self.orderers[endpoint.address].connection(endpoint),
            Routes(),
            PATIENCE,
        )

    def block(self) -> Block:
        """Return the next block, signed as it must be."""
        block = self.writer.next_block([envelope_of(self._client)])
        self.writer.written(block)
        return block

    def order(self, count: int = 1) -> None:
        """Let all orderers have more blocks."""
        for _ in range(count):
            block = self.block()
            for orderer in self.orderers.values():
                orderer.grow(block)

    def source(self) -> FakeOrderer:
        """Return the orderer that is being followed."""
        return self.orderers[self.follower.source]

    async def settled(self) -> None:
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def scene(
    bundle: Bundle, made: Network, orderer_identity: SigningIdentity, client: SigningIdentity
) -> Scene:
    return Scene(bundle, made.genesis_block(), orderer_identity, client)


async def test_blocks_come_from_one_orderer_from_the_height_on(
    scene: Scene, nursery: trio.Nursery
) -> None:
    scene.order(3)
    nursery.start_soon(scene.follower.run)
    await scene.chain.reached(4)
    scene.order()
    await scene.chain.reached(5)
    assert scene.source().asked == [1]
    assert scene.follower.trouble == ""
    assert [len(each.dialled) for each in scene.orderers.values()].count(0) == 2


async def test_an_orderer_that_is_gone_is_left_for_another(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    scene.orderers[A].is_down = scene.orderers[B].is_down = True
    scene.order()
    nursery.start_soon(scene.follower.run)
    await scene.chain.reached(2)
    assert scene.follower.source == C


async def test_pauses_grow_up_to_a_limit_and_start_again_with_a_block(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    for orderer in scene.orderers.values():
        orderer.is_down = True
    nursery.start_soon(scene.follower.run)
    await trio.sleep(80_000)
    times = sorted(time for each in scene.orderers.values() for time in each.dialled)
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[:20] == pytest.approx([FIRST_PAUSE_S * PAUSE_GROWTH**n for n in range(20)])
    assert pauses[-2:] == pytest.approx([3600, 3600])
    assert scene.follower.trouble.endswith("connection refused")
    scene.order()
    for orderer in scene.orderers.values():
        orderer.is_down = False
        orderer.dialled.clear()
    await scene.chain.reached(2)
    scene.chain.failures.append(LedgerFull("/", "no room"))
    scene.order()
    before = trio.current_time()
    await scene.chain.reached(3)
    assert trio.current_time() - before == pytest.approx(FIRST_PAUSE_S)


async def test_every_orderer_is_tried_before_one_is_tried_again(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    for orderer in scene.orderers.values():
        orderer.status = Status.FORBIDDEN
    nursery.start_soon(scene.follower.run)
    await trio.sleep(FIRST_PAUSE_S * (1 + PAUSE_GROWTH) + 0.01)
    assert [len(each.dialled) for each in scene.orderers.values()] == [1, 1, 1]
    assert scene.follower.trouble.endswith("it answers FORBIDDEN (status 403)")


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.NOT_FOUND, Status.SERVICE_UNAVAILABLE])
async def test_a_status_instead_of_blocks_is_a_reason_to_leave(
    scene: Scene,
    status: Status,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene.orderers[A].status = scene.orderers[B].status = status
    scene.order()
    nursery.start_soon(scene.follower.run)
    await scene.chain.reached(2)
    assert scene.follower.source == C


async def test_a_forged_block_is_not_committed_and_another_orderer_is_asked(
    scene: Scene,
    bundle: Bundle,
    made: Network,
    client: SigningIdentity,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forger = BlockWriter(client, made.genesis_block())  # a member, but no orderer
    forged = forger.next_block([envelope_of(client)])
    for name in (A, B):
        scene.orderers[name].grow(forged)
    good = scene.block()
    scene.orderers[C].grow(good)
    with caplog.at_level(logging.WARNING, "peer.ordering"):
        nursery.start_soon(scene.follower.run)
        await scene.chain.reached(2)
    assert scene.chain.blocks[1] == good
    assert scene.follower.source == C
    liars = {name for name in (A, B) if scene.orderers[name].dialled}
    assert {record.args[1].split(":7050")[0] + ":7050" for record in caplog.records} == liars
    assert all("block 1 refused: policy" in record.getMessage() for record in caplog.records)


async def test_a_block_of_another_place_is_not_committed(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    first, second = scene.block(), scene.block()
    for name in (A, B):
        scene.orderers[name].grow(second)  # sent as if it were block 1
    scene.orderers[C].grow(first, second)
    nursery.start_soon(scene.follower.run)
    await scene.chain.reached(3)
    assert scene.chain.blocks[1:] == [first, second]


async def test_an_orderer_that_keeps_back_what_another_has_is_left(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(scene.follower.run)
    await scene.settled()
    slow = scene.follower.source
    scene.orderers[slow].keeps = 1
    began = trio.current_time()
    scene.order()
    await scene.chain.reached(2)
    assert scene.follower.source != slow
    assert trio.current_time() - began == pytest.approx(60 + FIRST_PAUSE_S)


async def test_a_quiet_channel_is_no_reason_to_leave(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(scene.follower.run)
    await scene.settled()
    source = scene.follower.source
    await trio.sleep(1000)
    assert scene.follower.source == source
    assert scene.source().asked == [1]
    others = [each for name, each in scene.orderers.items() if name != source]
    assert sum(len(each.dialled) for each in others) == 1000 // 30  # asked, and believed


async def test_a_newest_block_that_nobody_signed_proves_nothing(
    scene: Scene,
    made: Network,
    client: SigningIdentity,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    nursery.start_soon(scene.follower.run)
    await scene.settled()
    source = scene.follower.source
    forged = BlockWriter(client, made.genesis_block()).next_block([envelope_of(client)])
    for name in {A, B, C} - {source}:
        scene.orderers[name].grow(forged)
    await trio.sleep(1000)
    assert scene.follower.source == source
    assert scene.source().asked == [1]


async def test_a_configuration_with_other_orderers_is_followed_there(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(scene.follower.run)
    await scene.settled()
    former = scene.follower.source
    [other, third] = {A, B, C} - {former}
    scene.chain.bundles[1] = naming(scene.plain, other)
    scene.order(2)
    await scene.chain.reached(3)
    assert scene.follower.source == other
    assert scene.orderers[former].open_connections == 0
    assert scene.orderers[former].asked == [1]
    assert scene.orderers[other].asked == [2]
    assert scene.orderers[third].asked == []


async def test_a_configuration_with_the_same_orderers_changes_nothing(
    scene: Scene, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    nursery.start_soon(scene.follower.run)
    await scene.settled()
    looked: list[Bundle] = []
    named = Routes.named

    def counted(routes: Routes, bundle: Bundle) -> list[Named]:
        looked.append(bundle)
        return named(routes, bundle)

    monkeypatch.setattr(Routes, "named", counted)
    changed = scene.chain.bundles[2] = naming(scene.plain, A, B, C)
    scene.order(5)
    await scene.chain.reached(6)
    assert scene.source().asked == [1]
    assert looked == [changed]  # once, not at each block from then on


async def test_without_orderers_a_configuration_that_names_some_is_waited_for(
    scene: Scene, nursery: trio.Nursery
) -> None:
    named = scene.chain.bundle
    scene.chain.bundle = naming(scene.plain)
    nursery.start_soon(scene.follower.run)
    await scene.settled()
    assert scene.follower.trouble == "the configuration names no orderer"
    scene.chain.bundles[1] = named
    scene.order(2)
    await scene.chain.commit_block(scene.orderers[A].blocks[1])
    await scene.chain.reached(3)
    assert scene.source().asked == [2]


async def test_what_the_ordering_service_signed_and_nobody_can_commit_ends_it(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.chain.failures.append(LedgerCorrupt("/ledger", "damaged"))
    scene.order()
    with pytest.raises(LedgerCorrupt):
        await scene.follower.run()
    assert [each.open_connections for each in scene.orderers.values()] == [0, 0, 0]


async def test_cancelling_leaves_no_connection(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.follower.run)
        await scene.settled()
        assert scene.source().open_connections == 1
        nursery.cancel_scope.cancel()
    assert [each.open_connections for each in scene.orderers.values()] == [0, 0, 0]


# Where the orderers are


def test_routes_take_the_authorities_of_the_channel_or_of_an_override(bundle: Bundle) -> None:
    routes = Routes(
        is_tls=True,
        certificate=b"certificate",
        key=b"key",
        overrides={B: Override("real:1"), C: Override("other:2", b"roots")},
    )
    named = routes.named(naming(bundle, A, B, C))
    assert [each.endpoint.address for each in named] == [A, "real:1", "other:2"]
    assert {each.msp_id for each in named} == {"OrdererMSP"}
    tls = [each.endpoint.tls for each in named]
    assert all(each is not None for each in tls)
    [organisation] = bundle.orderer.organisations.values()
    of_channel = b"\n".join(organisation.tls_roots)
    assert [each.root for each in tls] == [of_channel, of_channel, b"roots"]
    assert {(each.certificate, each.key) for each in tls} == {(b"certificate", b"key")}
    assert b"key" not in repr(routes).encode().replace(b"key=", b"")


def test_without_tls_an_address_is_all_there_is(bundle: Bundle) -> None:
    routes = Routes(certificate=b"certificate")
    assert routes.named(naming(bundle, A, A))[0].endpoint == Endpoint(A)
    assert len(routes.named(naming(bundle, A, A))) == 1
