"""Open a channel's ledger, simulate on it and commit to it.

Room:      peer.ledger   (re-exported by the package; opened by app)
Loop:      Trio; files are opened, synced and closed in a worker thread
Lifetime:  as long as the peer is joined to the channel
Fabric:    core/ledger/kvledger/kv_ledger.go (release-2.5)
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from peer.errors import LedgerError
from peer.ledger.api import CommittingTransaction, Ledger, ValidationCode
from peer.ledger.history import HistoryQueryExecutor
from peer.ledger.simulator import QueryExecutor, TxSimulator
from peer.ledger.store import Store, locked
from peer.ledger.validation import BlockValidation

FILE_NAME = "ledger.sqlite"
LOCK_NAME = "lock"
# Fabric's rule, common/configtx/validator.go; it also keeps a channel id a plain file name.
CHANNEL_ID = re.compile(r"[a-z][a-z0-9.-]{0,248}")


class KVLedger:
    """One channel's ledger; opened with `open_ledger`."""

    def __init__(
        self, store: Store, *, history: bool, collections: Mapping[str, Collection[str]]
    ) -> None:
        self._store = store
        self._keeps_history = history
        self._collections = collections
        self._committer = trio.Lock()

    @property
    def height(self) -> int:
        """Number of blocks committed."""
        return self._store.height

    @property
    def has_history(self) -> bool:
        """Past values are kept."""
        return self._keeps_history

    def new_tx_simulator(self, tx_id: str) -> TxSimulator:
        """Begin a simulation on the state of the last commit; end it with its `done`."""
        return TxSimulator(tx_id, self._store.snapshot(), self.collection_names)

    def new_query_executor(self) -> QueryExecutor:
        """Begin reading the state of the last commit; end it with its `done`."""
        return QueryExecutor(self._store.snapshot(), self.collection_names)

    def new_history_query_executor(self) -> HistoryQueryExecutor:
        """Return access to past values.

        Raises:
            LedgerError: the ledger was opened without history.
        """
        if not self._keeps_history:
            raise LedgerError("history database is not enabled")
        return HistoryQueryExecutor(self._store)

    def collection_names(self, namespace: str) -> frozenset[str]:
        """Names of the private data collections defined for a chaincode."""
        return frozenset(self._collections.get(namespace, ()))

    async def commit(self, transactions: Sequence[CommittingTransaction]) -> list[ValidationCode]:
        """Commit the transactions as the next block and return each one's verdict.

        One block is committed at a time; a second caller waits. The writes of valid transactions
        are visible to every simulation begun after this returns, and on disk.

        Raises:
            LedgerFull: there is no room; the height is unchanged and the block can be tried again.
            LedgerStorageError: the block could not be written; likewise.

        Cancellation: until the block is written nothing happens; once the writing has begun it is
        finished and the verdicts are returned.
        """
        store = self._store
        async with self._committer:
            if store.checkpoint_is_due():
                await trio.to_thread.run_sync(store.checkpoint)
                # Whoever reads from here on needs the log no more, so the next write can reuse it.
                store.renew()
            snapshot = store.snapshot()
            try:
                validation = BlockValidation(store, snapshot, history=self._keeps_history)
                codes = [await validation.add(transaction) for transaction in transactions]
                rows = validation.rows()
            finally:
                snapshot.release()
            store.renew()
            await trio.to_thread.run_sync(store.write_block, rows)
            store.renew()
            store.height = rows.number + 1
        return codes


@asynccontextmanager
async def open_ledger(
    directory: Path,
    channel_id: str,
    *,
    history: bool = True,
    collections: Mapping[str, Collection[str]] | None = None,
) -> AsyncIterator[Ledger]:
    """Open a channel's ledger, creating it empty where there is none.

        async with open_ledger(path, "mychannel") as ledger:
            simulator = ledger.new_tx_simulator(tx_id)
            ...

    Args:
        directory: where ledgers live; this one gets the sub-directory `channel_id`.
        channel_id: lower-case letters, digits, dots and dashes, at most 249.
        history: keep past values. Blocks committed without it have none later.
        collections: chaincode name to the names of its private data collections. The mapping is
            asked at every use, so its owner may change it. Implicit collections of organisations
            exist without being named.

    Raises:
        LedgerLocked: another peer has this ledger open.
        LedgerCorrupt: the file is damaged, or written by another version.
        LedgerStorageError: it cannot be opened for another reason, which is named.

    Cancellation: an opening that began is finished and closed again.
    """
    if not CHANNEL_ID.fullmatch(channel_id):
        raise LedgerError(f"'{channel_id}' is not a channel id ({CHANNEL_ID.pattern})")
    home = Path(directory) / channel_id
    with locked(home / LOCK_NAME):
        store = await trio.to_thread.run_sync(Store, home / FILE_NAME)
        try:
            yield KVLedger(
                store, history=history, collections={} if collections is None else collections
            )
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(store.close)
