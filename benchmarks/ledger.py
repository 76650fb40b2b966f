"""A ledger that grows: what a transaction of a block costs, and a start after many blocks.

Room:      benchmarks   (drives peer.ledger.open_ledger: no chaincode, no stream, no signatures)
Loop:      Trio
Lifetime:  one process
Fabric:    none

Blocks hold 500 transactions that each read a key and write it. Ledgers of several sizes are open
at the same time, and a block is committed to each in turn.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import trio
from measure import CPU, YARDSTICK, Meter, Row, Samples, main, memory, pin

from peer.ledger import open_ledger
from peer.ledger.api import Ledger, Timestamp, ValidationCode
from tests.unordered import CommittingTransaction, commit_unordered

NAMESPACE = "cc"
BLOCK = 500
FILL = 5_000
"""Keys that one transaction writes while a ledger is filled."""
VALUE = bytes(100)


def rows(quick: bool) -> list[Row]:
    """Measure commits at several sizes, and opening a ledger of many blocks."""
    pin()
    sizes = (1_000, 20_000) if quick else (1_000, 100_000, 1_000_000)
    blocks = 100 if quick else 10_000
    samples = trio.run(measure, sizes, blocks, 3 if quick else 11)
    smallest = f"{_name(sizes[0])}, wall"
    found = []
    for size in sizes:
        name = _name(size)
        to = smallest if size != sizes[0] else ""
        found += [
            samples.row(f"{name}, wall", "µs", to=to),
            samples.row(f"{name}, peer", CPU),
        ]
    return [
        *found,
        samples.row(f"opening a ledger of {blocks:,} blocks", "ms", scale=1e3),
        samples.row("memory with all of them open", "MiB RSS", scale=1),
        samples.row(YARDSTICK, CPU),
    ]


async def measure(sizes: Iterable[int], blocks: int, rounds: int) -> Samples:
    """Return samples of so many rounds, each a block on every ledger and a ledger opened again."""
    samples = Samples()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        async with AsyncExitStack() as stack:
            ledgers: dict[int, Ledger] = {}
            for size in sizes:
                ledger = await stack.enter_async_context(open_ledger(home, f"keys-{size}"))
                for first in range(0, size, FILL):
                    await _fill(ledger, range(first, min(first + FILL, size)))
                ledgers[size] = ledger
            async with open_ledger(home, "blocks") as ledger:
                for number in range(blocks):
                    await _fill(ledger, [number])
            for _ in range(rounds):
                samples.yardstick()
                for size, ledger in ledgers.items():
                    transactions = _update(ledger, chance.sample(range(size), BLOCK))
                    meter = Meter(os.getpid())
                    codes = await commit_unordered(ledger, transactions)
                    wall, cpu = meter.lap()
                    if set(codes) != {ValidationCode.VALID}:
                        raise RuntimeError(f"{size} keys: {set(codes)}")
                    samples.add(f"{_name(size)}, wall", wall / BLOCK)
                    samples.add(f"{_name(size)}, peer", cpu / BLOCK)
                began = time.perf_counter()
                async with open_ledger(home, "blocks"):
                    took = time.perf_counter() - began
                samples.add(f"opening a ledger of {blocks:,} blocks", took)
            samples.add("memory with all of them open", memory(os.getpid())[0])
    return samples


async def _fill(ledger: Ledger, numbers: Iterable[int]) -> None:
    """Commit a block of one transaction that writes some keys."""
    tx_id = os.urandom(32).hex()
    simulator = ledger.new_tx_simulator(tx_id)
    try:
        for number in numbers:
            simulator.set_state(NAMESPACE, _key(number), VALUE)
        results = simulator.get_tx_simulation_results()
    finally:
        simulator.done()
    clock = Timestamp(seconds=1)
    transaction = CommittingTransaction(tx_id=tx_id, timestamp=clock, results=results)
    await commit_unordered(ledger, [transaction])


def _update(ledger: Ledger, numbers: Iterable[int]) -> list[CommittingTransaction]:
    """Return a transaction for each key, simulated on the ledger as it is."""
    made = []
    for number in numbers:
        tx_id = os.urandom(32).hex()
        simulator = ledger.new_tx_simulator(tx_id)
        try:
            simulator.get_state(NAMESPACE, _key(number))
            simulator.set_state(NAMESPACE, _key(number), VALUE)
            results = simulator.get_tx_simulation_results()
        finally:
            simulator.done()
        clock = Timestamp(seconds=1)
        made.append(CommittingTransaction(tx_id=tx_id, timestamp=clock, results=results))
    return made


def _key(number: int) -> str:
    return f"key{number:09}"


def _name(size: int) -> str:
    return f"a transaction of a block, {size:,} keys"


if __name__ == "__main__":
    main(rows)
