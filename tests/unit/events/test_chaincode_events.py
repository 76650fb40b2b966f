"""The events of a chaincode: which, in what order, and from where on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import sha256

import pytest
import trio
import trio.testing

from fabric_protos.codec import encode
from fabric_protos.common import Block
from fabric_protos.protos import ChaincodeEvent
from peer.events.chaincode import chaincode_events
from peer.ledger.api import ValidationCode as Code
from tests.unit.validation.forging import CC, Forged, World, definition, endorsed_by, writes

ONE = endorsed_by("OR('Org1MSP.peer')")


class Source:
    """Commits transactions that set events, and remembers their ids."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ids: dict[str, str] = {}

    def transaction(
        self, name: str, *, chaincode: str = CC, payload: bytes = b"p", signers: int = 2
    ) -> Forged:
        made = self.world.forged(writes(name, namespace=chaincode), *range(signers), name=chaincode)
        tx_id = self.ids[name] = sha256(made.nonce + made.signer.creator).hexdigest()
        made.event = encode(
            ChaincodeEvent(chaincode_id=chaincode, tx_id=tx_id, event_name=name, payload=payload)
        )
        return made

    async def commit(self, *transactions: Forged) -> list[Code]:
        return await self.world.commit(*(each.made() for each in transactions))


@pytest.fixture
async def source(world: World) -> Source:
    """Block 1 defines `cc`, block 2 `other`."""
    await world.define("other", definition(ONE))
    return Source(world)


async def first(
    world: World, count: int, *, start: int | None = None, after: str = "", name: str = CC
) -> list[tuple[int, list[str]]]:
    """Return block and names of events, of so many blocks with any."""
    found: list[tuple[int, list[str]]] = []
    events = chaincode_events(world.ledger, name, start=start, after=after)
    async with aclosing(events):
        async for each in events:
            found.append((each.block, [event.event_name for event in each.events]))
            if len(found) == count:
                return found
    raise AssertionError("events do not end")


async def test_events_block_by_block_in_order(source: Source) -> None:
    world = source.world
    await source.commit(source.transaction("a"), source.transaction("b"))
    await source.commit(source.transaction("x", chaincode="other"))
    await source.commit(source.transaction("c"))
    assert await first(world, 2, start=0) == [(3, ["a", "b"]), (5, ["c"])]
    assert await first(world, 1, start=4) == [(5, ["c"])]
    assert await first(world, 1, start=0, name="other") == [(4, ["x"])]


async def test_events_keep_their_payload(source: Source) -> None:
    await source.commit(source.transaction("a", payload=b"content"))
    async with aclosing(chaincode_events(source.world.ledger, CC, start=0)) as events:
        async for each in events:
            assert each.events == [ChaincodeEvent(CC, source.ids["a"], "a", b"content")]
            break


async def test_only_valid_transactions_have_events(source: Source) -> None:
    codes = await source.commit(source.transaction("bad", signers=1), source.transaction("good"))
    assert codes == [Code.ENDORSEMENT_POLICY_FAILURE, Code.VALID]
    assert await first(source.world, 1, start=0) == [(3, ["good"])]


async def test_events_without_a_name_or_an_id_are_left_out(source: Source) -> None:
    nameless, idless = source.transaction("a"), source.transaction("b")
    nameless.event = encode(ChaincodeEvent(chaincode_id=CC, tx_id="t"))
    idless.event = encode(ChaincodeEvent(chaincode_id=CC, event_name="e"))
    await source.commit(nameless, idless)
    await source.commit(source.transaction("c"))
    assert await first(source.world, 1, start=0) == [(4, ["c"])]


async def test_from_the_next_block_on(source: Source) -> None:
    await source.commit(source.transaction("before"))
    found: list[tuple[int, list[str]]] = []

    async def listen() -> None:
        found.extend(await first(source.world, 2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        await source.commit(source.transaction("a"))
        await source.commit(source.transaction("b"))
    assert found == [(4, ["a"]), (5, ["b"])]


async def test_after_a_transaction(source: Source) -> None:
    await source.commit(*(source.transaction(name) for name in "abc"))
    await source.commit(source.transaction("d"))
    world = source.world
    # The transaction decides where to begin, whatever start says.
    for start in (None, 0, 4):
        after = source.ids["b"]
        assert await first(world, 2, start=start, after=after) == [(3, ["c"]), (4, ["d"])]
    assert await first(world, 1, after=source.ids["c"]) == [(4, ["d"])]


async def test_after_a_transaction_of_another_chaincode(source: Source) -> None:
    await source.commit(
        source.transaction("a"), source.transaction("x", chaincode="other"), source.transaction("b")
    )
    assert await first(source.world, 1, after=source.ids["x"]) == [(3, ["b"])]


@pytest.mark.parametrize("after", ["unknown", "silent", "bad"])
async def test_after_a_transaction_that_has_no_event_nothing_comes(
    source: Source, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    silent, bad = source.transaction("silent"), source.transaction("bad", signers=1)
    silent.event = b""
    await source.commit(silent, bad, source.transaction("a"))
    await source.commit(source.transaction("b"))
    ledger = source.world.ledger

    async def so_far(start: int) -> AsyncGenerator[Block, None]:
        for number in range(start, ledger.height):
            block = await ledger.block_by_number(number)
            assert block is not None
            yield block

    monkeypatch.setattr(ledger, "blocks", so_far)
    events = chaincode_events(ledger, CC, start=0, after=source.ids.get(after, after))
    assert [each async for each in events] == []
    assert len([each async for each in chaincode_events(ledger, CC, start=0)]) == 2
