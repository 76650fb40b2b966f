"""What the rest of the peer may ask of a ledger.

Room:      peer.ledger   (imports fabric_protos; imported by every room that uses a ledger)
Loop:      Trio
Lifetime:  a simulator lives for one execution; the ledger as long as the peer
Fabric:    core/ledger/ledger_interface.go (release-2.5)

Point reads and writes are synchronous: the stream's handler answers them inline. What may take long
(ranges, queries, history) is asynchronous and runs in a task of the transaction.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from fabric_protos.common import Block, BlockchainInfo

if TYPE_CHECKING:
    from peer.ledger.transactions import Contents


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
        """Run a rich query; a page size or bookmark makes it a paginated one.

        Raises:
            QueryError: it is malformed; results may raise it, too.
        """
        ...

    def get_private_data(self, namespace: str, collection: str, key: str) -> bytes | None: ...

    def get_private_data_multiple(
        self, namespace: str, collection: str, keys: Sequence[str]
    ) -> list[bytes | None]: ...

    def get_private_data_hash(self, namespace: str, collection: str, key: str) -> bytes | None: ...

    def get_private_data_metadata(
        self, namespace: str, collection: str, key: str
    ) -> Mapping[str, bytes]: ...

    def has_metadata(self, namespace: str, collection: str = "") -> bool:
        """Tell whether any key of a namespace, or of a collection, has metadata."""
        ...

    def get_private_data_metadata_by_hash(
        self, namespace: str, collection: str, key_hash: bytes
    ) -> Mapping[str, bytes]:
        """Return the metadata of a key of which only the hash is known."""
        ...

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
        namespaces: those of `public`, sorted.
        written: namespace and collection, which is empty for public keys, to the committed
            metadata of the keys that were written there, what several have alike once.
        private_reads: namespaces and collections of which values were read, not just hashes.
    """

    public: bytes
    private: bytes = b""
    namespaces: Sequence[str] = ()
    written: Mapping[tuple[str, str], Sequence[Mapping[str, bytes]]] = field(default_factory=dict)
    private_reads: frozenset[tuple[str, str]] = frozenset()


class TxSimulator(QueryExecutor, Protocol):
    """Reads of one snapshot plus recorded writes; reads never see the writes."""

    def set_state(self, namespace: str, key: str, value: bytes) -> None: ...

    def set_states(self, namespace: str, values: Mapping[str, bytes]) -> None: ...

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


class ValidationCode(IntEnum):
    """Verdicts on transactions (``protos.TxValidationCode``), a byte each in a block's metadata.

    The ledger itself reaches `MVCC_READ_CONFLICT`, `PHANTOM_READ_CONFLICT`, `NIL_TXACTION` where a
    transaction has no action, and `INVALID_OTHER_REASON` where it holds no read-write set.
    """

    VALID = 0
    NIL_ENVELOPE = 1
    BAD_PAYLOAD = 2
    BAD_COMMON_HEADER = 3
    BAD_CREATOR_SIGNATURE = 4
    INVALID_ENDORSER_TRANSACTION = 5
    INVALID_CONFIG_TRANSACTION = 6
    UNSUPPORTED_TX_PAYLOAD = 7
    BAD_PROPOSAL_TXID = 8
    DUPLICATE_TXID = 9
    ENDORSEMENT_POLICY_FAILURE = 10
    MVCC_READ_CONFLICT = 11
    PHANTOM_READ_CONFLICT = 12
    UNKNOWN_TX_TYPE = 13
    TARGET_CHAIN_NOT_FOUND = 14
    MARSHAL_TX_ERROR = 15
    NIL_TXACTION = 16
    EXPIRED_CHAINCODE = 17
    CHAINCODE_VERSION_CONFLICT = 18
    BAD_HEADER_EXTENSION = 19
    BAD_CHANNEL_HEADER = 20
    BAD_RESPONSE_PAYLOAD = 21
    BAD_RWSET = 22
    ILLEGAL_WRITESET = 23
    INVALID_WRITESET = 24
    INVALID_CHAINCODE = 25
    NOT_VALIDATED = 254
    INVALID_OTHER_REASON = 255


class TransactionKind(NamedTuple):
    """What a transaction is, as far as the ledger had to look.

    Attributes:
        type: of ``HeaderType``, -1 where it cannot be read or was invalid before.
        chaincode: ``name:version`` as endorsed, empty where there is none.
    """

    type: int = -1
    chaincode: str = ""


class CommitTimes(NamedTuple):
    """Seconds that parts of a commit took: checking, private data, block file, databases."""

    processing_s: float
    private_s: float
    storage_s: float
    state_s: float


class CommittedBlock(NamedTuple):
    """A block as it was stored, with its verdicts and commit hash in the metadata.

    Attributes:
        codes, tx_ids, kinds: one for each transaction; an id is empty where it cannot be read.
        namespaces: those that its valid transactions wrote to.
        times: how long it took.
        events: index of an endorsed transaction to its marshalled ``ChaincodeEvent``, empty if
            there is none; only of those that had been read when the block came.
    """

    block: Block
    codes: Sequence[ValidationCode]
    tx_ids: Sequence[str]
    kinds: Sequence[TransactionKind]
    namespaces: frozenset[str]
    times: CommitTimes
    events: Mapping[int, bytes]


class CommittedTransaction(NamedTuple):
    """A transaction of a block, valid or not."""

    envelope: bytes
    code: ValidationCode
    version: Version


class FoundTransaction(NamedTuple):
    """Verdict and place of a transaction."""

    code: ValidationCode
    version: Version


class MissingSet(NamedTuple):
    """A private write set this peer should have and has not."""

    block: int
    tx: int
    namespace: str
    collection: str


class CollectionPolicy(NamedTuple):
    """What a collection's definition means for this peer.

    Attributes:
        block_to_live: after so many further blocks values and hashes are deleted; 0 is never.
        is_member: this peer keeps the collection's values.
    """

    block_to_live: int = 0
    is_member: bool = True


CollectionPolicies = Callable[[str, str], CollectionPolicy]
"""Maps namespace and collection to the policy that holds when a block is committed."""


class StateReader(Protocol):
    """Reads public state."""

    def get_state(self, namespace: str, key: str) -> bytes | None: ...


DefinedCollections = Callable[[Iterable[tuple[str, str]], StateReader], Mapping[str, bytes]]
"""Given namespaces and keys that a block wrote, and the state after it, returns which chaincodes
got collections defined: by name a marshalled ``protos.CollectionConfigPackage``."""


class Snapshots(Protocol):
    """What is asked for and done about snapshots of one ledger."""

    def pending(self) -> list[int]:
        """Return the blocks at which snapshots are asked for, in order; one that is being
        generated is among them."""
        ...

    async def submit(self, number: int) -> None:
        """Ask for a snapshot once a block is the last one; 0 is the one that is.

        Raises:
            SnapshotRequestRefused: the block has been followed by another, or there is such a
                request or snapshot already.
            LedgerStorageError: the request cannot be kept.

        Cancellation: the request is kept or it is not.
        """
        ...

    async def cancel(self, number: int) -> None:
        """Take a request back.

        Raises:
            SnapshotRequestRefused: there is none, or it is being generated.
            LedgerStorageError: as of `submit`.
        """
        ...

    async def run(self) -> None:
        """Generate what is asked for, until cancelled."""
        ...


class Ledger(Protocol):
    """One channel's ledger."""

    @property
    def snapshots(self) -> Snapshots:
        """Its snapshots."""
        ...

    @property
    def first_block(self) -> int:
        """Number of the oldest block; above 0 where the ledger began with a snapshot.

        Asking for an older block, or for a transaction of one, raises `BeforeSnapshot`.
        """
        ...

    @property
    def height(self) -> int:
        """Number of blocks committed."""
        ...

    @property
    def newest(self) -> CommittedBlock | None:
        """The last block as it was committed; None if it was before the ledger was opened."""
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

    async def commit(
        self,
        block: Block,
        verdicts: Sequence[ValidationCode],
        private: Mapping[int, bytes] = MappingProxyType({}),
        known: Mapping[int, Contents] = MappingProxyType({}),
    ) -> CommittedBlock:
        """Commit the next block.

        The writes of valid transactions are visible to every simulator opened afterwards, and
        durable when this returns. Commits never wait for a running simulation.

        Args:
            block: its header must follow the last block's and cover its data.
            verdicts: one for each transaction, from checks made before; only those that are VALID
                so far are checked for conflicts. A configuration that is VALID takes effect.
            private: index of a transaction to its marshalled ``rwset.TxPvtReadWriteSet``, for
                what came with the block. The rest is looked for among what was endorsed here;
                what is nowhere is recorded as missing.
            known: index of a transaction to its contents, for those that have been read already.

        Raises:
            BlockError: it is not the next block.
            LedgerStorageError: the block was not written; height and state are as before.

        Cancellation: before the writing begins nothing is committed; from then on it is finished
            and the block is returned.
        """
        ...

    async def set_indexes(self, chaincode: str, definitions: Mapping[str, Sequence[bytes]]) -> None:
        """Make these the indexes of a chaincode's JSON objects, in the place of those it has.

        Building one over many objects takes a while, and commits wait for it.

        Args:
            definitions: collection to contents of index files; the empty name is public data.
                What cannot be used of them is logged and left out.

        Raises:
            LedgerStorageError: nothing was changed.

        Cancellation: before anything is changed; then it is finished.
        """
        ...

    async def keep_private_data(self, tx_id: str, private: bytes) -> None:
        """Keep the ``rwset.TxPvtReadWriteSet`` of an endorsed transaction for its block."""
        ...

    async def private_data(self, number: int) -> Mapping[int, bytes]:
        """Return what this peer holds of a block's private data: tx to ``TxPvtReadWriteSet``."""
        ...

    async def missing_private_data(self) -> list[MissingSet]:
        """Return what this peer should have of committed private data and has not."""
        ...

    def blockchain_info(self) -> BlockchainInfo:
        """Return height, hash of the last block and of the one before."""
        ...

    def has_transaction(self, tx_id: str) -> bool:
        """Tell whether a block holds a transaction of this id, valid or not."""
        ...

    def find_transaction(self, tx_id: str) -> FoundTransaction | None:
        """Return verdict and place of the first transaction of this id, without reading it."""
        ...

    async def block_by_number(self, number: int) -> Block | None:
        """Return a block with its verdicts; None when there is none yet."""
        ...

    async def block_by_hash(self, header_hash: bytes) -> Block | None: ...

    async def block_by_tx_id(self, tx_id: str) -> Block | None:
        """Return the first block that holds a transaction of this id."""
        ...

    async def transaction_by_id(self, tx_id: str) -> CommittedTransaction | None:
        """Return the first transaction of this id."""
        ...

    def channel_config(self) -> bytes | None:
        """Return the ``common.ConfigEnvelope`` that holds; None before the first block."""
        ...

    async def last_config_block(self) -> Block | None:
        """Return the block with the configuration that holds; None without any."""
        ...

    def blocks(self, start: int) -> AsyncGenerator[Block, None]:
        """Yield every block from a number on, those to come included. Ends only by an error.

        Raises:
            LedgerStorageError: a block cannot be read, or the ledger was closed.

        Cancellation: iterate again from the number after the last block received.
        """
        ...

    async def reached(self, height: int) -> None:
        """Return once the height is at least this.

        Raises:
            LedgerStorageError: the ledger was closed.
        """
        ...

    def collection_names(self, namespace: str) -> frozenset[str]:
        """Names of the private data collections defined for a chaincode."""
        ...
