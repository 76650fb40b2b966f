"""Rich queries over 100,000 documents, with indexes and without.

Room:      benchmarks   (drives peer.ledger.open_ledger: no chaincode, no stream)
Loop:      Trio
Lifetime:  one process
Fabric:    none

Two namespaces hold the same documents; one has an index on each of two fields. Every query and
every commit is made of both in turn.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import trio
from measure import YARDSTICK, Row, Samples, main, pin

from peer.ledger import open_ledger
from peer.ledger.api import Ledger, Timestamp, ValidationCode
from tests.unordered import CommittingTransaction, commit_unordered

PLAIN, INDEXED = "plain", "indexed"
INDEXES = [
    json.dumps({"index": {"fields": [field]}, "ddoc": field, "name": field}).encode()
    for field in ("owner", "size")
]
BLOCK = 1000
QUERIES: Mapping[str, object] = {
    "100 of them by a string": {"selector": {"owner": "owner7"}},
    "13 of them by a number": {"selector": {"size": 7}},
    "130 of them, sorted": {"selector": {"size": {"$lt": 10}}, "sort": ["size"]},
    "all but a few": {"selector": {"size": {"$gte": 10}}},
    "a page of 10 of all but a few": {"selector": {"size": {"$gte": 10}}},
}


def rows(quick: bool) -> list[Row]:
    """Measure queries, commits, and what building the indexes takes."""
    pin()
    count = 5_000 if quick else 100_000
    samples = trio.run(measure, count, 2 if quick else 5)
    found = [samples.row(f"two indexes over {count:,} documents", "s", scale=1)]
    for name in (*QUERIES, f"block of {BLOCK:,} writes"):
        plain, indexed = f"{name}, without", f"{name}, with indexes"
        found += [
            samples.row(plain, "ms", scale=1e3),
            samples.row(indexed, "ms", scale=1e3, to=plain),
        ]
    return [*found, samples.row(YARDSTICK, "µs")]


async def measure(count: int, rounds: int) -> Samples:
    """Return samples over so many documents in each namespace."""
    samples = Samples()
    with tempfile.TemporaryDirectory() as directory:
        async with open_ledger(Path(directory), "benchmark") as ledger:
            for namespace in (PLAIN, INDEXED):
                for first in range(0, count, BLOCK):
                    await write(ledger, namespace, first)
            began = time.perf_counter()
            await ledger.set_indexes(INDEXED, {"": INDEXES})
            samples.add(f"two indexes over {count:,} documents", time.perf_counter() - began)
            for turn in range(rounds):
                samples.yardstick()
                for namespace, how in ((PLAIN, "without"), (INDEXED, "with indexes")):
                    for name, query in QUERIES.items():
                        size = 10 if "page" in name else 0
                        took = await run(ledger, namespace, query, size)
                        samples.add(f"{name}, {how}", took)
                    took = await write(ledger, namespace, turn * BLOCK)
                    samples.add(f"block of {BLOCK:,} writes, {how}", took)
    return samples


async def run(ledger: Ledger, namespace: str, query: object, page_size: int) -> float:
    """Take a query's results, all of them or a page; return the seconds this took."""
    executor = ledger.new_query_executor()
    try:
        began = time.perf_counter()
        results = await executor.execute_query(namespace, json.dumps(query), page_size=page_size)
        await results.take(page_size or 100_000)
        return time.perf_counter() - began
    finally:
        executor.done()


async def write(ledger: Ledger, namespace: str, first: int) -> float:
    """Commit a block of documents; return the seconds the commit took."""
    simulator = ledger.new_tx_simulator("")
    for number in range(first, first + BLOCK):
        document = {"owner": f"owner{number % 1000}", "size": number % 7919, "colour": "red"}
        simulator.set_state(namespace, f"k{number:07}", json.dumps(document).encode())
    results = simulator.get_tx_simulation_results()
    transaction = CommittingTransaction(
        tx_id=f"tx{ledger.height}", timestamp=Timestamp(1), results=results
    )
    began = time.perf_counter()
    if await commit_unordered(ledger, [transaction]) != [ValidationCode.VALID]:
        raise RuntimeError("a block was not committed as it was made")
    return time.perf_counter() - began


if __name__ == "__main__":
    main(rows)
