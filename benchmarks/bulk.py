"""Much in one transaction: many records read, many written, one large value.

Room:      benchmarks   (drives peer.open_peer, as any program that embeds a peer)
Loop:      Trio
Lifetime:  one process
Fabric:    none

Writes are invokes: their time holds the commit, and what they wrote is on disk at its end. The
floor of a range is the ledger alone, without chaincode; that of batches is one by one.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import trio
from measure import CHAINCODES, CPU, YARDSTICK, Meter, Row, Samples, main, pin

from peer import open_peer

CHANNEL = "mychannel"
RANGE = ("k0000000", "k9999999")


class Bulk(NamedTuple):
    """One kind of transaction and the number of records it reads or writes."""

    name: str
    arguments: list[str]
    records: int
    commits: bool
    floor: str = ""


def rows(quick: bool) -> list[Row]:
    """Measure bulk reads and writes."""
    pin()
    count = 500 if quick else 10_000
    one_by_one, ledger = f"{count:,} puts one by one", f"range of {count:,} keys, ledger alone"
    fill = ["fill", "0", str(count)]
    bulks = [
        Bulk(f"{count:,} puts in batches", fill, count, commits=True, floor=one_by_one),
        Bulk(one_by_one, ["puts", str(count)], count, commits=True),
        Bulk(f"range of {count:,} keys", ["range", *RANGE], count, commits=False, floor=ledger),
        Bulk("put of 1 MiB", ["put_bytes", "large", str(1 << 20)], 1, commits=True),
        Bulk("get of 1 MiB", ["get", "large"], 1, commits=False),
    ]
    samples = trio.run(measure, bulks, ledger, 2 if quick else 5)
    found = [
        row
        for bulk in bulks
        for row in (
            samples.row(bulk.name, "ms", scale=1e3, to=bulk.floor),
            samples.row(f"{bulk.name}, peer, per record", CPU),
        )
    ]
    return [*found, samples.row(ledger, "ms", scale=1e3), samples.row(YARDSTICK, CPU)]


async def measure(bulks: list[Bulk], ledger: str, rounds: int) -> Samples:
    """Return samples of each kind: the whole transaction, and the peer's CPU time per record.

    Args:
        ledger: name of the range that no chaincode asks for.
    """
    samples = Samples()
    async with open_peer() as peer:
        await peer.install(CHAINCODES / "library", name="cc")
        await peer.query(CHANNEL, "cc", ["pid"])
        for _ in range(rounds):
            samples.yardstick()
            for bulk in bulks:
                call = peer.invoke if bulk.commits else peer.query
                meter = Meter(os.getpid())
                result = await call(CHANNEL, "cc", bulk.arguments)
                wall, cpu = meter.lap()
                if result.status != 200 or result.committed is not bulk.commits:
                    raise RuntimeError(f"{bulk.name}: {result}")
                samples.add(bulk.name, wall)
                samples.add(f"{bulk.name}, peer, per record", cpu / bulk.records)
            reader = peer.ledger(CHANNEL).new_query_executor()
            try:
                meter = Meter()
                await reader.get_state_range("cc", *RANGE).take(1 << 30)
                samples.add(ledger, *meter.lap())
            finally:
                reader.done()
    return samples


if __name__ == "__main__":
    main(rows)
