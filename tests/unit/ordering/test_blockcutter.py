"""When batches are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.ordering.blockcutter import BlockCutter, Limits, Message

LIMITS = Limits(max_message_count=3, preferred_max_bytes=100)


def cut(sizes: list[int], limits: Limits = LIMITS) -> tuple[list[list[int]], list[int]]:
    """Return the batches that messages of these sizes make, and what is pending, as sizes."""
    cutter = BlockCutter()
    batches = [
        [sizes[int(envelope)] for envelope in batch]
        for index, size in enumerate(sizes)
        for batch in cutter.ordered(Message(str(index).encode(), size), limits)
    ]
    pending = cutter.cut()
    assert not cutter.is_pending
    return batches, [sizes[int(envelope)] for envelope in pending]


@pytest.mark.parametrize(
    ("sizes", "batches", "pending"),
    [
        ([10], [], [10]),
        ([10, 10, 10], [[10, 10, 10]], []),
        ([60, 40], [], [60, 40]),  # exactly full is not too much
        ([60, 41], [[60]], [41]),
        ([101], [[101]], []),
        ([10, 101], [[10], [101]], []),
        ([101, 10], [[101]], [10]),
        ([50, 60, 60], [[50], [60]], [60]),
    ],
)
def test_a_batch_is_cut_when(
    sizes: list[int], batches: list[list[int]], pending: list[int]
) -> None:
    assert cut(sizes) == (batches, pending)


def test_a_count_of_one_leaves_nothing_pending() -> None:
    assert cut([10, 10], Limits(1, 100)) == ([[10], [10]], [])


@given(
    sizes=st.lists(st.integers(0, 150)),
    count=st.integers(1, 5),
    preferred=st.integers(1, 120),
)
def test_every_message_goes_into_one_batch_in_order_and_no_batch_is_too_large(
    sizes: list[int], count: int, preferred: int
) -> None:
    batches, pending = cut(sizes, Limits(count, preferred))
    assert [size for batch in [*batches, pending] for size in batch] == sizes
    assert all(batches)
    for batch in [*batches, pending]:
        assert len(batch) <= count
        assert sum(batch) <= preferred or len(batch) == 1
    assert len(pending) < count
