"""How fast connections are let in."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from peer.rpc.accepted import BURST, PER_S, Pace


async def let_in(pace: Pace, how_many: int) -> float:
    """Return how long so many connections have waited."""
    began = trio.current_time()
    for _ in range(how_many):
        await pace.turn()
    return trio.current_time() - began


async def test_a_few_come_at_once_and_the_others_one_by_one(autojump_clock: MockClock) -> None:
    pace = Pace()
    assert await let_in(pace, BURST) == 0
    assert await let_in(pace, 50) == pytest.approx(50 / PER_S)


async def test_after_a_pause_a_few_come_at_once_again(autojump_clock: MockClock) -> None:
    pace = Pace()
    await let_in(pace, BURST)
    await trio.sleep(3 / PER_S)
    assert await let_in(pace, 3) == pytest.approx(0, abs=1e-9)
    assert await let_in(pace, 1) == pytest.approx(1 / PER_S)
    await trio.sleep(1000)
    assert await let_in(pace, BURST + 1) == pytest.approx(1 / PER_S)


async def test_what_was_as_bad_as_many_connections_counts_as_many(
    autojump_clock: MockClock,
) -> None:
    pace = Pace()
    pace.charge(BURST + 20)
    assert await let_in(pace, 1) == pytest.approx(21 / PER_S)
