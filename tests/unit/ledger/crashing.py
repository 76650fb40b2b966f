"""A program that commits or rolls back, and kills itself at a chosen point; see test_crashes.py.

Room:      tests
Loop:      Trio, in a child of its own for every round

It reads rounds from its input, a line each: directory, point, seed, and the block to roll back to
where it shall not commit. Points are counted from the beginning: one before and one after
everything that makes something durable.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import trio

from peer.ledger import durable, open_ledger, rollback
from peer.ledger.api import (
    CollectionPolicy,
    Ledger,
    SimulationResults,
    Timestamp,
    TxSimulator,
    ValidationCode,
)
from tests.unordered import CommittingTransaction, make_block

BLOCKS = 4
MAX_FILE_BYTES = 4000
COLLECTIONS = {"cc": ("short", "long")}


def policy(namespace: str, collection: str) -> CollectionPolicy:
    return CollectionPolicy(block_to_live=2 if collection == "short" else 0)


class Kill:
    """Ends the process at a point, as a power cut would: what no sync covers may be lost."""

    def __init__(self, directory: Path, point: int, seed: int) -> None:
        self._blocks = directory.resolve() / "ch" / "blocks"
        self._log = directory.resolve() / "ch" / "ledger.sqlite-wal"
        self._left = point
        self._random = random.Random(seed)
        self._synced = {path: path.stat().st_size for path in self._blocks.glob("*")}

    def install(self) -> None:
        sync, commit = durable.sync, durable.commit

        def watched_sync(descriptor: int) -> None:
            self._pass()
            sync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self._synced[path] = path.stat().st_size
            self._pass()

        def watched_commit(connection: sqlite3.Connection) -> None:
            self._pass()
            commit(connection)
            self._pass()

        durable.sync, durable.commit = watched_sync, watched_commit

    def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            for path in self._blocks.glob("*"):
                size = path.stat().st_size
                os.truncate(path, self._random.randint(min(size, self._synced.get(path, 0)), size))
            if self._log.exists():  # synced only when it is moved into the main file
                os.truncate(self._log, self._random.randint(0, self._log.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)


def simulations(ledger: Ledger, number: int) -> Iterator[TxSimulator]:
    """Yield what block `number` holds: changes everywhere, and a transaction that conflicts."""
    first = ledger.new_tx_simulator("")
    first.set_state("cc", "last", b"%d" % number)
    first.set_state("cc", f"block{number:04}", b"x" * 200)
    first.delete_state("cc", f"block{number - 2:04}")
    first.set_private_data("cc", "short", "last", b"%d" % number)
    first.set_private_data("cc", "short", f"key{number}", b"%d" % number)
    first.set_private_data("cc", "long", f"key{number % 3}", b"%d" % number)
    yield first
    second = ledger.new_tx_simulator("")
    second.get_state("cc", "last")
    second.set_state("cc", "never", b"")
    yield second
    third = ledger.new_tx_simulator("")
    if number % 2:
        third.purge_private_data("cc", "long", f"key{(number + 1) % 3}")
    third.set_state_metadata("cc", "last", {"VALIDATION_PARAMETER": b"%d" % number})
    yield third


async def commit_next(ledger: Ledger) -> None:
    info = ledger.blockchain_info()
    transactions = []
    private: dict[int, bytes] = {}
    for tx, simulator in enumerate(simulations(ledger, info.height)):
        results = simulator.get_tx_simulation_results()
        tx_id = f"{info.height}-{tx}"
        if info.height % 2:
            private[tx] = results.private
        elif results.private:
            await ledger.keep_private_data(tx_id, results.private)
        public = SimulationResults(public=results.public)
        timestamp = Timestamp(info.height, tx)
        transactions.append(CommittingTransaction(tx_id=tx_id, timestamp=timestamp, results=public))
    block = make_block(info.height, info.current_block_hash, transactions)
    done = await ledger.commit(block, [ValidationCode.VALID] * 3, private)
    assert list(done.codes) == [
        ValidationCode.VALID,
        ValidationCode.MVCC_READ_CONFLICT,
        ValidationCode.VALID,
    ]


async def main(directory: Path) -> None:
    names: Mapping[str, tuple[str, ...]] = COLLECTIONS
    async with open_ledger(
        directory, "ch", collections=names.get, policies=policy, max_file_bytes=MAX_FILE_BYTES
    ) as ledger:
        for _ in range(BLOCKS):
            await commit_next(ledger)
            print(ledger.height, flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        directory, point, seed, *target = line.split()
        child = os.fork()
        if child == 0:
            Kill(Path(directory), int(point), int(seed)).install()
            if target:
                trio.run(rollback, Path(directory), "ch", int(target[0]))
            else:
                trio.run(main, Path(directory))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"exited {status}", flush=True)
