"""What the rest of the peer may ask of a ledger.

Room:      peer.ledger   (imports peer.errors; imported by chaincode, endorser, app)
Loop:      Trio
Lifetime:  a simulator lives for one execution; the ledger as long as the peer
Fabric:    core/ledger/ledger_interface.go (release-2.5)

Point reads and writes are synchronous: the stream's handler answers them inline. What may take long
(ranges, queries, history) is asynchronous and runs in a task of the transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeVar


class Version(NamedTuple):
    """Height of the transaction that wrote a value."""

    block: int
    tx: int


class KV(NamedTuple):
    """One record of a range or rich query."""

    namespace: str
    key: str
    value: bytes


class Timestamp(NamedTuple):
    """A client's clock, as its proposal carries it; nothing of it is rounded away."""

    seconds: int
    nanos: int = 0


class KeyModification(NamedTuple):
    """One entry of a key's history."""

    tx_id: str
    value: bytes
    timestamp: Timestamp
    is_delete: bool


Record = TypeVar("Record", covariant=True)


class ResultsIterator(Protocol[Record]):
    """Results of one query, pulled as they are needed."""

    async def take(self, count: int) -> Sequence[Record]:
        """Return the next `count` results; fewer only when there are no more.

        Each result taken counts as read, whether or not the chaincode looks at it, and the end
        counts as seen only when fewer than `count` were left.
        """
        ...

    def bookmark(self) -> str:
        """Return where the next page would start, empty at the end."""
        ...

    def close(self) -> None:
        """Give the query's resources back. Idempotent."""
        ...


class QueryExecutor(Protocol):
    """Reads of one snapshot. A missing key reads as None."""

    def get_state(self, namespace: str, key: str) -> bytes | None: ...

    def get_state_multiple(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]: ...

    def get_state_metadata(self, namespace: str, key: str) -> Mapping[str, bytes]: ...

    def get_state_range(
        self, namespace: str, start_key: str, end_key: str
    ) -> ResultsIterator[KV]: ...

    def get_state_range_page(
        self, namespace: str, start_key: str, end_key: str, bookmark: str
    ) -> ResultsIterator[KV]:
        """Like `get_state_range`, for a page: forbids writes in the same simulation."""
        ...

    async def execute_query(
        self, namespace: str, query: str, *, bookmark: str = "", page_size: int = 0
    ) -> ResultsIterator[KV]:
        """Run a rich query; a page size or bookmark makes it a paginated one."""
        ...

    def get_private_data(self, namespace: str, collection: str, key: str) -> bytes | None: ...

    def get_private_data_multiple(
        self, namespace: str, collection: str, keys: Sequence[str]
    ) -> list[bytes | None]: ...

    def get_private_data_hash(self, namespace: str, collection: str, key: str) -> bytes | None: ...

    def get_private_data_metadata(
        self, namespace: str, collection: str, key: str
    ) -> Mapping[str, bytes]: ...

    def get_private_data_range(
        self, namespace: str, collection: str, start_key: str, end_key: str
    ) -> ResultsIterator[KV]: ...

    async def execute_query_on_private_data(
        self, namespace: str, collection: str, query: str
    ) -> ResultsIterator[KV]: ...

    def done(self) -> None:
        """Give the snapshot back. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class SimulationResults:
    """What a simulation read and wrote.

    Attributes:
        public: marshalled ``rwset.TxReadWriteSet``, the bytes that are endorsed and committed.
        private: marshalled ``rwset.TxPvtReadWriteSet``, empty when no private data was written.
    """

    public: bytes
    private: bytes = b""


class TxSimulator(QueryExecutor, Protocol):
    """Reads of one snapshot plus recorded writes; reads never see the writes."""

    def set_state(self, namespace: str, key: str, value: bytes) -> None: ...

    def delete_state(self, namespace: str, key: str) -> None: ...

    def set_state_metadata(
        self, namespace: str, key: str, metadata: Mapping[str, bytes]
    ) -> None: ...

    def set_private_data(self, namespace: str, collection: str, key: str, value: bytes) -> None: ...

    def delete_private_data(self, namespace: str, collection: str, key: str) -> None: ...

    def purge_private_data(self, namespace: str, collection: str, key: str) -> None: ...

    def set_private_data_metadata(
        self, namespace: str, collection: str, key: str, metadata: Mapping[str, bytes]
    ) -> None: ...

    def get_tx_simulation_results(self) -> SimulationResults:
        """Return the read-write sets. May be called once; ends the simulation."""
        ...


class HistoryQueryExecutor(Protocol):
    """Past values of a key, newest first."""

    def get_history_for_key(self, namespace: str, key: str) -> ResultsIterator[KeyModification]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittingTransaction:
    """One simulated transaction on its way into the state."""

    tx_id: str
    timestamp: Timestamp
    results: SimulationResults


class ValidationCode(IntEnum):
    """The verdicts this ledger reaches by itself (``protos.TxValidationCode``).

    INVALID_OTHER_REASON stands for results that are no read-write set.
    """

    VALID = 0
    DUPLICATE_TXID = 9
    MVCC_READ_CONFLICT = 11
    PHANTOM_READ_CONFLICT = 12
    INVALID_OTHER_REASON = 255


class Ledger(Protocol):
    """One channel's ledger."""

    @property
    def height(self) -> int:
        """Number of blocks committed."""
        ...

    @property
    def has_history(self) -> bool:
        """Past values are kept."""
        ...

    def new_tx_simulator(self, tx_id: str) -> TxSimulator: ...

    def new_query_executor(self) -> QueryExecutor: ...

    def new_history_query_executor(self) -> HistoryQueryExecutor:
        """
        Raises:
            LedgerError: ``history database is not enabled``.
        """
        ...

    async def commit(self, transactions: Sequence[CommittingTransaction]) -> list[ValidationCode]:
        """Commit the transactions as the next block and return each one's verdict.

        The writes of valid transactions are visible to every simulator opened afterwards, and
        durable when this returns. Commits never wait for a running simulation.

        Raises:
            LedgerStorageError: the block was not written; height and state are as before.

        Cancellation: before the writing begins nothing is committed; from then on it is finished
            and the verdicts are returned.
        """
        ...

    def collection_names(self, namespace: str) -> frozenset[str]:
        """Names of the private data collections defined for a chaincode."""
        ...
