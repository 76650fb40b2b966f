"""Random blocks against a ledger that is a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.ledger import open_ledger
from peer.ledger.api import (
    Ledger,
    Timestamp,
    TxSimulator,
    ValidationCode,
)
from tests.unordered import CommittingTransaction, commit_unordered

KEYS = ["\0c\0", "a", "a\0", "ab", "b", "é", "\uffff", "\U00010000"]


class Get(NamedTuple):
    key: str


class Put(NamedTuple):
    key: str
    value: bytes


class Mark(NamedTuple):
    key: str
    metadata: dict[str, bytes]


class Range(NamedTuple):
    start: str
    end: str
    count: int


Operation = Get | Put | Mark | Range

keys = st.sampled_from(KEYS)
bounds = st.sampled_from(["", *KEYS])
operations = st.one_of(
    st.builds(Get, keys),
    st.builds(Put, keys, st.sampled_from([b"", b"1", b"2"])),
    st.builds(Mark, keys, st.dictionaries(st.sampled_from("mn"), st.binary(max_size=2))),
    st.builds(Range, bounds, bounds, st.integers(1, 9)),
)


@dataclass
class Planned:
    """A transaction, simulated on the state `age` blocks before its own."""

    operations: Sequence[Operation]
    age: int


transactions = st.builds(Planned, st.lists(operations, max_size=5), st.integers(0, 2))
chains = st.lists(st.lists(transactions, min_size=1, max_size=4), min_size=1, max_size=5)


class Value(NamedTuple):
    value: bytes
    metadata: dict[str, bytes]
    version: tuple[int, int]


State = dict[str, Value]


@dataclass
class Observed:
    """What a transaction saw, and will need to see again."""

    reads: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    ranges: list[tuple[str, str | None, list[tuple[str, tuple[int, int]]]]] = field(
        default_factory=list
    )
    writes: dict[str, bytes] = field(default_factory=dict)
    marks: dict[str, dict[str, bytes]] = field(default_factory=dict)


def in_range(state: State, start: str, end: str) -> list[str]:
    return sorted(k for k in state if start <= k and (not end or k < end))


async def simulate(simulator: TxSimulator, state: State, plan: Planned) -> Observed:
    """Do the operations on both; what is read must be the same."""
    seen = Observed()
    for operation in plan.operations:
        match operation:
            case Get(key):
                held = state.get(key)
                assert simulator.get_state("cc", key) == (held and held.value)
                assert simulator.get_state_metadata("cc", key) == (held.metadata if held else {})
                seen.reads[key] = held.version if held else None
            case Put(key, value):
                simulator.set_state("cc", key, value)
                seen.writes[key] = value
            case Mark(key, metadata):
                simulator.set_state_metadata("cc", key, metadata)
                seen.marks[key] = metadata
            case Range(start, end, count):
                found = in_range(state, start, end)
                taken = found[:count]
                records = await simulator.get_state_range("cc", start, end).take(count)
                assert [(r.key, r.value) for r in records] == [(k, state[k].value) for k in taken]
                last = None if len(found) < count else taken[-1]
                reach = end if last is None else last + "\0"
                seen.ranges.append((start, reach, [(k, state[k].version) for k in taken]))
    return seen


def judge(seen: Observed, state: State, touched: set[str]) -> ValidationCode:
    for key, version in seen.reads.items():
        held = state.get(key)
        if key in touched or version != (held.version if held else None):
            return ValidationCode.MVCC_READ_CONFLICT
    for start, end, expected in seen.ranges:
        if [(k, state[k].version) for k in in_range(state, start, end or "")] != expected:
            return ValidationCode.PHANTOM_READ_CONFLICT
    return ValidationCode.VALID


def apply(seen: Observed, state: State, version: tuple[int, int]) -> set[str]:
    before = dict(state)
    for key, value in seen.writes.items():
        held = before.get(key)
        metadata = seen.marks.get(key, held.metadata if held else {})
        if value:
            state[key] = Value(value, metadata, version)
        else:
            state.pop(key, None)
    marked = {key for key in seen.marks if key in before and key not in seen.writes}
    for key in marked:
        state[key] = Value(before[key].value, seen.marks[key], version)
    return marked | set(seen.writes)


async def check(ledger: Ledger, chain: list[list[Planned]]) -> None:
    state: State = {}
    history: dict[str, list[tuple[str, bytes]]] = {key: [] for key in KEYS}
    # One more snapshot than transactions may be old.
    snapshots: list[tuple[State, list[TxSimulator]]] = []
    for number, block in enumerate(chain):
        width = max(len(later) for later in chain)
        snapshots.append((dict(state), [ledger.new_tx_simulator("tx") for _ in range(3 * width)]))
        committing, expected, touched = [], [], set[str]()
        for index, plan in enumerate(block):
            old, simulators = snapshots[max(0, number - plan.age)]
            simulator = simulators.pop()
            seen = await simulate(simulator, old, plan)
            tx_id = f"{number}.{index}"
            committing.append(
                CommittingTransaction(
                    tx_id=tx_id,
                    timestamp=Timestamp(number, index),
                    results=simulator.get_tx_simulation_results(),
                )
            )
            code = judge(seen, state, touched)
            expected.append(code)
            if code is ValidationCode.VALID:
                touched |= apply(seen, state, (number, index))
                for key, value in seen.writes.items():
                    history[key].insert(0, (tx_id, value))
        assert await commit_unordered(ledger, committing) == expected
        await same(ledger, state, history)
    for _, simulators in snapshots:
        for simulator in simulators:
            simulator.done()


async def same(ledger: Ledger, state: State, history: dict[str, list[tuple[str, bytes]]]) -> None:
    executor = ledger.new_query_executor()
    records = await executor.get_state_range("cc", "", "").take(99)
    assert [(r.key, r.value) for r in records] == [(k, state[k].value) for k in sorted(state)]
    for key, held in state.items():
        assert executor.get_state_metadata("cc", key) == held.metadata
    executor.done()
    past = ledger.new_history_query_executor()
    for key, changes in history.items():
        found = await past.get_history_for_key("cc", key).take(99)
        assert [(m.tx_id, m.value) for m in found] == changes


@settings(max_examples=60, deadline=None)
@given(chains)
def test_the_ledger_is_a_dictionary_with_verdicts(chain: list[list[Planned]]) -> None:
    async def main() -> None:
        with TemporaryDirectory() as directory:
            async with open_ledger(Path(directory), "ch") as ledger:
                await check(ledger, chain)

    trio.run(main)
