"""Which blocks a request gets, in what order the checks come, and how an answer ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from fabric_protos.codec import encode
from fabric_protos.common import (
    Block,
    BlockData,
    BlockHeader,
    BlockMetadata,
    Envelope,
    Header,
    HeaderType,
    Payload,
    Status,
)
from fabric_protos.orderer import (
    SeekInfo,
    SeekInfoSeekBehavior,
    SeekInfoSeekContentType,
    SeekNewest,
    SeekNextCommit,
    SeekOldest,
    SeekPosition,
    SeekSpecified,
)
from fabric_protos.stream import ChannelHeader, SignatureHeader, Timestamp
from peer.errors import IdentityRefused, PolicyNotSatisfied
from peer.events.deliver import Deliverer
from peer.ledger.blocks import header_of
from peer.metrics import DeliverMeters, Registry

NEWEST = SeekPosition(newest=SeekNewest())
OLDEST = SeekPosition(oldest=SeekOldest())
NEXT = SeekPosition(next_commit=SeekNextCommit())
FAIL = SeekInfoSeekBehavior.FAIL_IF_NOT_READY


def at(number: int) -> SeekPosition:
    return SeekPosition(specified=SeekSpecified(number=number))


class Blocks:
    """Blocks that are there, and one more whenever `grow` is called."""

    def __init__(self, height: int, first: int = 0) -> None:
        self.height = height
        self.first = first
        self._grown = trio.Condition()

    async def block(self, number: int) -> Block:
        assert self.first <= number < self.height
        return Block(header=BlockHeader(number=number))

    async def reached(self, height: int) -> None:
        async with self._grown:
            while self.height < height:
                await self._grown.wait()

    async def grow(self) -> None:
        async with self._grown:
            self.height += 1
            self._grown.notify_all()


class Later(datetime):
    """A clock an hour ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + timedelta(hours=1)


class FakeBundle:
    """A configuration whose one policy is a function, with an identity that may expire."""

    def __init__(self) -> None:
        self.sequence = 0
        self.allows = True
        self.evaluations: list[Any] = []
        self.msps = self

    def deserialize(self, identity: bytes) -> Any:
        if identity == b"nobody":
            raise IdentityRefused("Org1MSP", "nobody")
        return SimpleNamespace(expires_at=datetime.now(UTC) + timedelta(minutes=30))

    def policy(self, path: str) -> Any:
        assert path == "/Channel/Readers"
        return self

    def evaluate(self, signatures: Any) -> None:
        self.evaluations.append(signatures)
        if not self.allows:
            raise PolicyNotSatisfied("not a reader")


class Scene:
    """One channel of blocks and a client that asks for them."""

    def __init__(self, height: int = 5, first: int = 0) -> None:
        self.blocks = Blocks(height, first)
        self.bundle = FakeBundle()
        self.got: list[int] = []
        self.counted = Registry()
        self.deliverer = Deliverer(
            find={"ch": self}.get,
            policy=lambda bundle: "/Channel/Readers",
            data_type="filtered_block",
            meters=DeliverMeters(self.counted),
        )

    async def send(self, block: Block) -> None:
        self.got.append(header_of(block).number)

    async def ask(self, request: Envelope, **options: Any) -> Status:
        return await self.deliverer.serve(request, options.pop("send", self.send), **options)


def request(
    start: SeekPosition | None = OLDEST,
    stop: SeekPosition | None = NEWEST,
    *,
    behavior: SeekInfoSeekBehavior = SeekInfoSeekBehavior.BLOCK_UNTIL_READY,
    channel_id: str = "ch",
    clock: float | None = 0,
    creator: bytes = b"somebody",
    tls_hash: bytes = b"",
    content: SeekInfoSeekContentType = SeekInfoSeekContentType.BLOCK,
) -> Envelope:
    stamp = None if clock is None else Timestamp(seconds=int(time.time() + clock))
    channel = ChannelHeader(
        type=HeaderType.DELIVER_SEEK_INFO,
        timestamp=stamp,
        channel_id=channel_id,
        tls_cert_hash=tls_hash,
    )
    header = Header(
        channel_header=channel.encode(),
        signature_header=SignatureHeader(creator=creator, nonce=b"n").encode(),
    )
    seek = SeekInfo(start=start, stop=stop, behavior=behavior, content_type=content)
    return Envelope(payload=encode(Payload(header=header, data=encode(seek))), signature=b"s")


@pytest.mark.parametrize(
    ("start", "stop", "numbers"),
    [
        (OLDEST, NEWEST, [0, 1, 2, 3, 4]),
        (NEWEST, NEWEST, [4]),
        (OLDEST, OLDEST, [0]),
        (at(2), at(3), [2, 3]),
        (at(2), NEWEST, [2, 3, 4]),
        (at(4), at(4), [4]),
    ],
)
async def test_blocks_that_are_there_come_and_success_ends(
    start: SeekPosition, stop: SeekPosition, numbers: list[int]
) -> None:
    scene = Scene()
    assert await scene.ask(request(start, stop)) == Status.SUCCESS
    assert scene.got == numbers


@pytest.mark.parametrize(
    ("data_type", "is_left_out"),
    [("block", True), ("filtered_block", False), ("block_and_pvtdata", False)],
)
async def test_who_asks_for_headers_gets_no_data(
    monkeypatch: pytest.MonkeyPatch, data_type: str, is_left_out: bool
) -> None:
    scene = Scene(height=2)
    scene.deliverer = replace(scene.deliverer, data_type=data_type)
    config = ChannelHeader(type=HeaderType.CONFIG, channel_id="ch")
    header = Header(channel_header=config.encode(), signature_header=b"")
    kept = [
        Block(
            header=BlockHeader(number=number),
            data=BlockData(data=[data]),
            metadata=BlockMetadata(metadata=[b"signatures"]),
        )
        for number, data in enumerate(
            [encode(Envelope(payload=encode(Payload(header=header)))), b"transaction"]
        )
    ]

    async def block(number: int) -> Block:
        return kept[number]

    got: list[Block] = []

    async def send(block: Block) -> None:
        got.append(block)

    monkeypatch.setattr(scene.blocks, "block", block)
    headers = request(content=SeekInfoSeekContentType.HEADER_WITH_SIG)
    assert await scene.ask(headers, send=send) == Status.SUCCESS
    bare = Block(header=kept[1].header, metadata=kept[1].metadata)
    assert got == [kept[0], bare if is_left_out else kept[1]]
    assert kept[1].data is not None  # others may have the same object
    got.clear()
    assert await scene.ask(request(), send=send) == Status.SUCCESS
    assert got == kept


@pytest.mark.parametrize("start", [at(5), NEXT])
async def test_the_next_block_is_waited_for(start: SeekPosition, nursery: trio.Nursery) -> None:
    scene = Scene()
    ended: list[Status] = []

    async def ask() -> None:
        ended.append(await scene.ask(request(start, at(6))))

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    assert scene.got == []
    await scene.blocks.grow()
    await trio.testing.wait_all_tasks_blocked()
    assert scene.got == [5]
    await scene.blocks.grow()
    await trio.testing.wait_all_tasks_blocked()
    assert (scene.got, ended) == ([5, 6], [Status.SUCCESS])


async def test_what_is_not_ready_fails_where_that_was_asked() -> None:
    scene = Scene()
    assert await scene.ask(request(at(4), at(7), behavior=FAIL)) == Status.NOT_FOUND
    assert scene.got == [4]


@pytest.mark.parametrize("stop", [NEXT, SeekPosition()])
async def test_an_open_end_never_ends(stop: SeekPosition, nursery: trio.Nursery) -> None:
    scene = Scene()
    with trio.CancelScope() as scope:
        nursery.start_soon(scene.ask, request(at(4), stop))
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await scene.blocks.grow()
        await trio.testing.wait_all_tasks_blocked()
    assert not scope.cancelled_caught
    assert scene.got == [4, 5, 6, 7]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (lambda: Envelope(payload=b"\xff"), Status.BAD_REQUEST),
        (lambda: Envelope(payload=b""), Status.BAD_REQUEST),
        (lambda: request(clock=None), Status.BAD_REQUEST),
        (lambda: request(clock=-3600), Status.BAD_REQUEST),
        (lambda: request(clock=3600), Status.BAD_REQUEST),
        (lambda: request(channel_id="other"), Status.NOT_FOUND),
        (lambda: request(creator=b"nobody"), Status.FORBIDDEN),
        (lambda: request(None), Status.BAD_REQUEST),
        (lambda: request(stop=None), Status.BAD_REQUEST),
        (lambda: request(at(3), at(2)), Status.BAD_REQUEST),
        (lambda: request(at(6), at(9)), Status.NOT_FOUND),
        (lambda: request(SeekPosition()), Status.NOT_FOUND),
    ],
)
async def test_a_wrong_request_gets_its_status_and_nothing_else(
    wrong: Callable[[], Envelope], status: Status
) -> None:
    scene = Scene()
    assert await scene.ask(wrong()) == status
    assert scene.got == []


async def test_blocks_before_a_snapshot_are_not_found() -> None:
    scene = Scene(height=9, first=7)
    assert await scene.ask(request(at(6), NEWEST)) == Status.NOT_FOUND
    assert await scene.ask(request(OLDEST, NEWEST)) == Status.SUCCESS
    assert scene.got == [7, 8]


async def test_whoever_may_not_read_learns_nothing_of_a_bad_request() -> None:
    scene = Scene()
    scene.bundle.allows = False
    assert await scene.ask(request(at(3), at(2))) == Status.FORBIDDEN


async def test_a_request_is_bound_to_its_tls_certificate() -> None:
    scene = Scene()
    assert await scene.ask(request(), tls_hash=b"h") == Status.BAD_REQUEST
    assert await scene.ask(request(tls_hash=b"h"), tls_hash=b"h") == Status.SUCCESS


async def test_the_signature_covers_the_payload_as_received() -> None:
    scene = Scene()
    asked = request()
    await scene.ask(asked)
    [[signed]] = scene.bundle.evaluations
    assert signed == (asked.payload, b"somebody", b"s")


@pytest.mark.parametrize("change", ["expiry", "policy"])
async def test_rights_that_end_end_the_answer(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()

    async def send(block: Block) -> None:
        await scene.send(block)
        if header_of(block).number == 2:
            changes[change]()

    def refuse() -> None:
        scene.bundle.allows, scene.bundle.sequence = False, 1

    def expire() -> None:
        monkeypatch.setattr("peer.events.deliver.datetime", Later)

    changes: dict[str, Callable[[], None]] = {"policy": refuse, "expiry": expire}
    assert await scene.ask(request(), send=send) == Status.FORBIDDEN
    assert scene.got == [0, 1, 2]


async def test_the_policy_is_asked_once_for_each_configuration() -> None:
    scene = Scene()
    await scene.ask(request())
    assert len(scene.bundle.evaluations) == 1


async def test_a_client_that_does_not_read_holds_one_block(nursery: trio.Nursery) -> None:
    scene = Scene()
    taken = 0

    async def send(block: Block) -> None:
        nonlocal taken
        taken += 1
        await trio.sleep_forever()

    with trio.move_on_after(0.05):
        await scene.ask(request(), send=send)
    assert taken == 1


# Counting


async def test_what_is_asked_for_and_sent_is_counted() -> None:
    scene = Scene(height=3)
    which = {"channel": "ch", "filtered": "true", "data_type": "filtered_block"}

    def counted(name: str, **more: str) -> float | None:
        return scene.counted.value(f"deliver_{name}", **which, **more)

    await scene.ask(request(OLDEST, at(1)))
    assert counted("requests_received") == 1
    assert counted("blocks_sent") == 2
    assert counted("requests_completed", success="true") == 1
    await scene.ask(request(OLDEST, at(7), behavior=FAIL))
    assert counted("blocks_sent") == 5
    assert counted("requests_completed", success="false") == 1
    await scene.ask(request(OLDEST, NEWEST, channel_id="nowhere"))
    assert counted("requests_received") == 2, "a channel nobody has is no label"
