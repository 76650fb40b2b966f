"""A real ledger on disk, and short words to drive it."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fabric_protos.codec import decode
from fabric_protos.common import Block
from fabric_protos.kvrwset import KvrwSet
from fabric_protos.rwset import TxReadWriteSet
from peer.ledger import open_ledger
from peer.ledger.api import (
    Ledger,
    SimulationResults,
    Timestamp,
    TxSimulator,
    ValidationCode,
)
from peer.ledger.blockfile import BlockFiles
from tests.shared_fixtures import shared_fixture
from tests.unordered import CommittingTransaction, commit_unordered, make_block

NS = "cc"
COLLECTIONS = {NS: {"secrets", "others"}}


class Channel:
    """A ledger whose transactions are numbered by themselves."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._next_tx = ledger.height

    def simulate(self) -> TxSimulator:
        return self.ledger.new_tx_simulator("tx")

    async def commit(self, *transactions: TxSimulator | SimulationResults) -> list[ValidationCode]:
        return await commit_unordered(
            self.ledger, [self.transaction(item) for item in transactions]
        )

    def transaction(self, item: TxSimulator | SimulationResults) -> CommittingTransaction:
        results = item if isinstance(item, SimulationResults) else item.get_tx_simulation_results()
        self._next_tx += 1
        return CommittingTransaction(
            tx_id=f"tx{self._next_tx}", timestamp=Timestamp(self._next_tx, 7), results=results
        )

    def block(self, *transactions: CommittingTransaction) -> Block:
        """Make the next block."""
        info = self.ledger.blockchain_info()
        return make_block(info.height, info.current_block_hash, transactions)

    async def put(self, **values: bytes) -> None:
        """Commit a block of one transaction that writes values without reading."""
        simulator = self.simulate()
        for key, value in values.items():
            simulator.set_state(NS, key, value)
        assert await self.commit(simulator) == [ValidationCode.VALID]

    def get(self, key: str) -> bytes | None:
        """Read one committed value."""
        executor = self.ledger.new_query_executor()
        try:
            return executor.get_state(NS, key)
        finally:
            executor.done()


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[Channel]:
    async with open_ledger(tmp_path, "ch", collections=COLLECTIONS.get) as ledger:
        yield Channel(ledger)


@pytest.fixture
def wrap() -> Callable[[Ledger], Channel]:
    """For tests that open the ledger themselves."""
    return Channel


@pytest.fixture
def public_set() -> Callable[[TxSimulator], KvrwSet]:
    """Take a simulation's results and return the public set of its only namespace."""

    def public_set(simulator: TxSimulator) -> KvrwSet:
        results = decode(TxReadWriteSet, simulator.get_tx_simulation_results().public)
        (namespace,) = results.ns_rwset
        return decode(KvrwSet, namespace.rwset)

    return public_set


@pytest.fixture(scope="session")
def real_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger directory of a real peer: 20 blocks of the channel ``testchannel``."""
    directory = tmp_path_factory.mktemp("fabric")
    with zipfile.ZipFile(shared_fixture("fabric-v20-ledger/ledgersData.zip")) as archive:
        archive.extractall(directory)
    return directory / "ledgersData"


@pytest.fixture(scope="session")
def real_blocks(real_ledger: Path) -> list[Block]:
    """The blocks of that ledger, verdicts and commit hashes included."""
    files = BlockFiles(real_ledger / "chains" / "chains" / "testchannel")
    return [record.block for record in files.scan()]
