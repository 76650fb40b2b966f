"""The embedded orderer: what it takes, when it cuts, what its blocks are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    ConfigEnvelope,
    Envelope,
    HeaderType,
    Status,
)
from peer.channel import configtx
from peer.channel.bundle import Bundle
from peer.channel.verification import verify_block
from peer.errors import BroadcastRefused, LedgerFull, LedgerStorageError
from peer.ledger.blocks import header_hash, header_of, is_config_block, last_config_index
from peer.msp.identity import SigningIdentity
from peer.ordering import solo
from peer.ordering.solo import SoloOrderer
from tests.unit.ordering.conftest import (
    MemoryStore,
    data_of,
    envelope_of,
    update_of,
)


async def refused(orderer: SoloOrderer, data: bytes) -> BroadcastRefused:
    with pytest.raises(BroadcastRefused) as caught:
        await orderer.broadcast(data)
    return caught.value


async def test_a_message_alone_waits_for_the_batch_timeout(
    orderer: SoloOrderer,
    store: MemoryStore,
    client: SigningIdentity,
    autojump_clock: trio.testing.MockClock,
) -> None:
    began = trio.current_time()
    await orderer.broadcast(envelope_of(client, b"one"))
    await trio.sleep(1)
    await orderer.broadcast(envelope_of(client, b"two"))
    blocks = await store.reached(2)
    assert trio.current_time() - began == pytest.approx(2)
    assert data_of(blocks[1]) == [b"one", b"two"]


async def test_blocks_are_signed_linked_and_well_formed(
    orderer: SoloOrderer,
    store: MemoryStore,
    client: SigningIdentity,
    bundle: Bundle,
    autojump_clock: trio.testing.MockClock,
) -> None:
    for name in (b"one", b"two", b"three"):
        await orderer.broadcast(envelope_of(client, name))
        await store.reached(len(store.blocks) + 1)
    for number, block in enumerate(store.blocks[1:], start=1):
        former = header_of(store.blocks[number - 1])
        verify_block(bundle, block, number, header_hash(former))
        assert last_config_index(block) == 0


async def test_a_full_batch_does_not_wait(
    bundle: Bundle,
    store: MemoryStore,
    orderer_identity: SigningIdentity,
    client: SigningIdentity,
    orderer_admin: SigningIdentity,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    orderer = SoloOrderer(bundle, store, orderer_identity)
    await nursery.start(orderer.run)
    await orderer.broadcast(update_of(bundle, client, [orderer_admin], count=2))
    await store.reached(2)
    began = trio.current_time()
    for _ in range(4):
        await orderer.broadcast(envelope_of(client))
    blocks = await store.reached(4)
    assert [len(data_of(block)) for block in blocks[2:]] == [2, 2]
    assert trio.current_time() == began


@pytest.mark.parametrize("data", [b"\xff", b"", encode(Envelope(payload=b"\x0f"))])
async def test_what_cannot_be_read_is_a_bad_request(orderer: SoloOrderer, data: bytes) -> None:
    assert (await refused(orderer, data)).status == Status.BAD_REQUEST


@pytest.mark.parametrize("kind", [HeaderType.CONFIG, HeaderType.ORDERER_TRANSACTION])
async def test_what_only_orderers_make_is_a_bad_request(
    orderer: SoloOrderer, client: SigningIdentity, kind: HeaderType
) -> None:
    problem = await refused(orderer, envelope_of(client, kind=kind))
    assert problem.status == Status.BAD_REQUEST
    assert "cannot be processed directly" in problem.info


async def test_another_channel_is_a_bad_request(
    orderer: SoloOrderer, client: SigningIdentity
) -> None:
    problem = await refused(orderer, envelope_of(client, channel_id="other"))
    assert problem.status == Status.BAD_REQUEST


async def test_a_message_beyond_the_limit_is_a_bad_request(
    orderer: SoloOrderer, client: SigningIdentity
) -> None:
    problem = await refused(orderer, envelope_of(client, bytes(10 << 20)))
    assert problem.status == Status.BAD_REQUEST
    assert "exceeds maximum allowed" in problem.info


async def test_strangers_and_broken_signatures_are_forbidden(
    orderer: SoloOrderer, client: SigningIdentity, store: MemoryStore
) -> None:
    stranger = SigningIdentity.self_signed("Org1MSP")
    assert (await refused(orderer, envelope_of(stranger))).status == Status.FORBIDDEN
    good = decode(Envelope, envelope_of(client))
    broken = Envelope(payload=good.payload + b"\x12\x00", signature=good.signature)
    assert (await refused(orderer, encode(broken))).status == Status.FORBIDDEN
    assert len(store.blocks) == 1


async def test_an_expired_certificate_is_a_bad_request(
    orderer: SoloOrderer, client: SigningIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=365 * 50)

    monkeypatch.setattr("peer.ordering.filters.datetime", Later)
    problem = await refused(orderer, envelope_of(client))
    assert (problem.status, problem.info) == (
        Status.BAD_REQUEST,
        "broadcast client identity expired",
    )


async def test_before_it_runs_it_is_unavailable(
    bundle: Bundle, store: MemoryStore, orderer_identity: SigningIdentity, client: SigningIdentity
) -> None:
    idle = SoloOrderer(bundle, store, orderer_identity)
    assert (await refused(idle, envelope_of(client))).status == Status.SERVICE_UNAVAILABLE


async def test_an_update_becomes_a_block_of_its_own_after_what_is_pending(
    orderer: SoloOrderer,
    store: MemoryStore,
    bundle: Bundle,
    client: SigningIdentity,
    orderer_admin: SigningIdentity,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await orderer.broadcast(envelope_of(client, b"before"))
    await orderer.broadcast(update_of(bundle, client, [orderer_admin], count=1))
    blocks = await store.reached(3)
    assert data_of(blocks[1]) == [b"before"]
    assert is_config_block(blocks[2])
    assert last_config_index(blocks[2]) == 2
    [data] = data_of(blocks[2])
    envelope = decode(Envelope, blocks[2].data.data[0])
    assert configtx.validate(bundle, envelope) == decode(ConfigEnvelope, data).config
    began = trio.current_time()
    await orderer.broadcast(envelope_of(client, b"after"))
    blocks = await store.reached(4)
    assert trio.current_time() == began, "one message is a batch now"
    assert last_config_index(blocks[3]) == 2
    after = bundle.updated(configtx.validate(bundle, envelope))
    verify_block(after, blocks[3], 3, header_hash(header_of(blocks[2])))


async def test_an_update_without_the_signatures_it_needs_is_a_bad_request(
    orderer: SoloOrderer, bundle: Bundle, client: SigningIdentity, store: MemoryStore
) -> None:
    problem = await refused(orderer, update_of(bundle, client, [client], count=1))
    assert problem.status == Status.BAD_REQUEST
    assert "error applying config update" in problem.info


async def test_of_two_updates_in_line_the_second_is_dropped(
    orderer: SoloOrderer,
    store: MemoryStore,
    bundle: Bundle,
    client: SigningIdentity,
    orderer_admin: SigningIdentity,
    autojump_clock: trio.testing.MockClock,
) -> None:
    for count in (7, 8):
        await orderer.broadcast(update_of(bundle, client, [orderer_admin], count=count))
    await orderer.broadcast(envelope_of(client, b"after"))
    blocks = await store.reached(3)
    assert is_config_block(blocks[1])
    assert data_of(blocks[2]) == [b"after"]


async def test_without_room_nothing_is_lost_and_nothing_more_is_taken(
    orderer: SoloOrderer,
    store: MemoryStore,
    client: SigningIdentity,
    autojump_clock: trio.testing.MockClock,
) -> None:
    store.failures = [LedgerFull("store", "no space left")] * 2
    await orderer.broadcast(envelope_of(client, b"one"))
    await trio.sleep(2.5)
    assert not store.failures[1:]
    problem = await refused(orderer, envelope_of(client, b"two"))
    assert problem.status == Status.SERVICE_UNAVAILABLE
    blocks = await store.reached(2)
    assert data_of(blocks[1]) == [b"one"]
    await orderer.broadcast(envelope_of(client, b"three"))
    assert data_of((await store.reached(3))[2]) == [b"three"]


async def test_a_store_that_breaks_ends_the_orderer(
    bundle: Bundle,
    store: MemoryStore,
    orderer_identity: SigningIdentity,
    client: SigningIdentity,
    autojump_clock: trio.testing.MockClock,
) -> None:
    store.failures = [LedgerStorageError("store", "broken")]
    orderer = SoloOrderer(bundle, store, orderer_identity)
    with pytest.RaisesGroup(LedgerStorageError):
        async with trio.open_nursery() as nursery:
            await nursery.start(orderer.run)
            await orderer.broadcast(envelope_of(client))
    assert (await refused(orderer, envelope_of(client))).status == Status.SERVICE_UNAVAILABLE


async def test_it_continues_after_the_last_block(
    bundle: Bundle,
    store: MemoryStore,
    orderer_identity: SigningIdentity,
    client: SigningIdentity,
    autojump_clock: trio.testing.MockClock,
) -> None:
    for number in (1, 2):
        orderer = SoloOrderer(bundle, store, orderer_identity)
        async with trio.open_nursery() as nursery:
            await nursery.start(orderer.run)
            await orderer.broadcast(envelope_of(client))
            await store.reached(number + 1)
            nursery.cancel_scope.cancel()
    former = header_of(store.blocks[1])
    verify_block(bundle, store.blocks[2], 2, header_hash(former))


async def test_another_encoding_is_ordered_in_the_one_that_peers_take(
    orderer: SoloOrderer,
    store: MemoryStore,
    client: SigningIdentity,
    bundle: Bundle,
    autojump_clock: trio.testing.MockClock,
) -> None:
    sent = decode(Envelope, envelope_of(client, b"turned"))
    payload, signature = (
        encode(Envelope(payload=sent.payload)),
        encode(Envelope(signature=sent.signature)),
    )
    await orderer.broadcast(signature + payload)
    blocks = await store.reached(2)
    assert data_of(blocks[1]) == [b"turned"]
    verify_block(bundle, blocks[1], 1, header_hash(header_of(blocks[0])))


async def test_a_clock_out_of_range_harms_nobody(
    orderer: SoloOrderer,
    store: MemoryStore,
    client: SigningIdentity,
    bundle: Bundle,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await orderer.broadcast(envelope_of(client, b"late", seconds=10**14))
    blocks = await store.reached(2)
    verify_block(bundle, blocks[1], 1, header_hash(header_of(blocks[0])))


async def test_whoever_sent_what_is_dropped_hears_of_it(
    bundle: Bundle,
    store: MemoryStore,
    orderer_identity: SigningIdentity,
    client: SigningIdentity,
    orderer_admin: SigningIdentity,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    dropped: list[BroadcastRefused] = []
    orderer = SoloOrderer(
        bundle, store, orderer_identity, lambda tx_id, reason: dropped.append(reason)
    )
    await nursery.start(orderer.run)
    for count in (7, 8):
        await orderer.broadcast(update_of(bundle, client, [orderer_admin], count=count))
    await orderer.broadcast(envelope_of(client))
    await store.reached(3)
    [reason] = dropped
    assert reason.status == Status.BAD_REQUEST


async def put_in_line(orderer: SoloOrderer, data: bytes, order: list[bytes]) -> None:
    await orderer.broadcast(data)
    order.append(data)


@pytest.mark.parametrize("limit", ["QUEUE_LENGTH", "QUEUE_BYTES"])
async def test_a_full_line_is_waited_for_in_turn(
    orderer: SoloOrderer,
    store: MemoryStore,
    client: SigningIdentity,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    limit: str,
) -> None:
    """A small message does not overtake a large one that there is no room for yet."""
    monkeypatch.setattr(solo, limit, {"QUEUE_LENGTH": 1, "QUEUE_BYTES": 10_000}[limit])
    taken: list[bytes] = []
    async with store.standstill():
        await orderer.broadcast(envelope_of(client, bytes(3 << 20)))  # fills a block by itself
        await trio.testing.wait_all_tasks_blocked()
        large = [envelope_of(client, bytes([number]) * 8000) for number in range(2)]
        small = envelope_of(client, b"small")
        for data in (*large, small):
            nursery.start_soon(put_in_line, orderer, data, taken)
            await trio.testing.wait_all_tasks_blocked()
        assert taken == large[:1]
    blocks = await store.reached(3)
    assert taken == [*large, small]
    assert data_of(blocks[2]) == [bytes(8000), b"\x01" * 8000, b"small"]


async def test_one_message_larger_than_the_line_is_in_it_alone(
    orderer: SoloOrderer,
    store: MemoryStore,
    client: SigningIdentity,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    monkeypatch.setattr(solo, "QUEUE_BYTES", 10)
    await orderer.broadcast(envelope_of(client, bytes(5000)))
    assert data_of((await store.reached(2))[1]) == [bytes(5000)]


async def test_a_line_that_does_not_move_is_left_in_time(
    orderer: SoloOrderer,
    store: MemoryStore,
    client: SigningIdentity,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    monkeypatch.setattr(solo, "QUEUE_LENGTH", 1)
    async with store.standstill():
        await orderer.broadcast(envelope_of(client, bytes(3 << 20)))
        await trio.testing.wait_all_tasks_blocked()
        await orderer.broadcast(envelope_of(client, b"in line"))
        began = trio.current_time()
        problem = await refused(orderer, envelope_of(client, b"left"))
        assert trio.current_time() - began == solo.QUEUE_WAIT_S
        assert (problem.status, problem.info) == (
            Status.SERVICE_UNAVAILABLE,
            "the line has been full for 30 s",
        )
    assert data_of((await store.reached(3))[2]) == [b"in line"]


async def test_whoever_waits_in_vain_for_the_line_hears_of_the_end(
    bundle: Bundle,
    store: MemoryStore,
    orderer_identity: SigningIdentity,
    client: SigningIdentity,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    monkeypatch.setattr(solo, "QUEUE_LENGTH", 1)
    orderer = SoloOrderer(bundle, store, orderer_identity)
    problems: list[BroadcastRefused] = []

    async def left() -> None:
        problems.append(await refused(orderer, envelope_of(client)))

    async with trio.open_nursery() as running, store.standstill():
        await running.start(orderer.run)
        await orderer.broadcast(envelope_of(client, bytes(3 << 20)))
        await trio.testing.wait_all_tasks_blocked()
        await orderer.broadcast(envelope_of(client))
        nursery.start_soon(left)
        await trio.testing.wait_all_tasks_blocked()
        running.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    [problem] = problems
    assert problem.info == "the orderer is closing"
