"""Open a channel's ledger, simulate on it, commit to it and read its blocks.

Room:      peer.ledger   (re-exported by the package; opened by assembly)
Loop:      Trio; files are opened, read, synced and closed in worker threads
Lifetime:  as long as the peer is joined to the channel
Fabric:    core/ledger/kvledger/kv_ledger.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType

import trio

from fabric_protos.codec import encode
from fabric_protos.common import Block, BlockchainInfo, BootstrappingSnapshotInfo
from fabric_protos.rwset import CollectionPvtReadWriteSet, NsPvtReadWriteSet, TxPvtReadWriteSet
from peer.errors import BeforeSnapshot, LedgerError, LedgerStorageError, QueryError
from peer.ledger import recovery
from peer.ledger.api import (
    CollectionPolicies,
    CollectionPolicy,
    CommittedBlock,
    CommittedTransaction,
    DefinedCollections,
    FoundTransaction,
    Ledger,
    MissingSet,
    ValidationCode,
    Version,
)
from peer.ledger.blockfile import MAX_FILE_BYTES
from peer.ledger.blocks import envelopes_of
from peer.ledger.commit import BlockCommit, Chain, Tip
from peer.ledger.database import locked
from peer.ledger.documents import Documents, DocumentServer
from peer.ledger.history import HistoryQueryExecutor
from peer.ledger.home import LOCK_NAME, ledger_home
from peer.ledger.indexes import canonical_definition
from peer.ledger.requests import SnapshotRequests
from peer.ledger.simulator import CollectionNames, QueryExecutor, TxSimulator
from peer.ledger.snapshot import Stored, private_namespace
from peer.ledger.store import BlockRow
from peer.ledger.transactions import Contents
from peer.ledger.turns import Turn
from peer.ledger.validation import CHANNEL_CONFIG_KEY

log = logging.getLogger(__name__)


class KVLedger:
    """One channel's ledger; opened with `open_ledger`."""

    def __init__(
        self,
        chain: Chain,
        collections: CollectionNames,
        server: DocumentServer | None,
        snapshots: SnapshotRequests,
    ) -> None:
        self._chain = chain
        self._store = chain.store
        self._collections = collections
        self._committer = snapshots.committer
        self.snapshots = snapshots
        self.documents = None if server is None else Documents(chain.store, server, self._committer)
        self._next_block = trio.Event()
        self._newest: CommittedBlock | None = None
        self._is_closed = False

    @property
    def height(self) -> int:
        """Number of blocks committed."""
        return self._store.height

    @property
    def first_block(self) -> int:
        """Number of the oldest block."""
        return self._chain.birth.number + 1

    @property
    def newest(self) -> CommittedBlock | None:
        """The last block as it was committed; None if it was before the ledger was opened."""
        return self._newest

    @property
    def has_history(self) -> bool:
        """Past values are kept."""
        return self._chain.keeps_history

    def new_tx_simulator(self, tx_id: str) -> TxSimulator:
        """Begin a simulation on the state of the last commit; end it with its `done`."""
        reader = None if self.documents is None else self.documents.begin()
        return TxSimulator(tx_id, self._store.snapshot(), self.collection_names, reader)

    def new_query_executor(self) -> QueryExecutor:
        """Begin reading the state of the last commit; end it with its `done`."""
        reader = None if self.documents is None else self.documents.begin()
        return QueryExecutor(self._store.snapshot(), self.collection_names, reader)

    def new_history_query_executor(self) -> HistoryQueryExecutor:
        """Return access to past values.

        Raises:
            LedgerError: the ledger was opened without history.
        """
        if not self.has_history:
            raise LedgerError("history database is not enabled")
        return HistoryQueryExecutor(self._store)

    def collection_names(self, namespace: str) -> frozenset[str]:
        """Names of the private data collections defined for a chaincode."""
        return frozenset(self._collections(namespace) or ())

    async def commit(
        self,
        block: Block,
        verdicts: Sequence[ValidationCode],
        private: Mapping[int, bytes] = MappingProxyType({}),
        known: Mapping[int, Contents] = MappingProxyType({}),
    ) -> CommittedBlock:
        """Commit the next block; see `peer.ledger.api.Ledger.commit`.

        One block is committed at a time; a second caller waits.
        """
        async with self._committer:
            return await self._commit(block, verdicts, private, known)

    async def set_indexes(self, chaincode: str, definitions: Mapping[str, Sequence[bytes]]) -> None:
        """Replace the indexes of a chaincode; see `peer.ledger.api.Ledger.set_indexes`."""
        asked = {
            private_namespace(chaincode, collection) if collection else chaincode: contents
            for collection, contents in definitions.items()
        }
        wanted: dict[str, list[str]] = {}
        if self.documents is not None:
            await self.documents.set_indexes(asked)
        else:
            wanted = {name: list(_usable(name, contents)) for name, contents in asked.items()}
        async with self._committer:
            await trio.to_thread.run_sync(self._store.set_indexes, chaincode, wanted)
            self._store.renew()

    async def keep_private_data(self, tx_id: str, private: bytes) -> None:
        """Keep the private data of an endorsed transaction until a block brings it."""
        await trio.to_thread.run_sync(self._chain.transient.persist, tx_id, self.height, private)

    async def private_data(self, number: int) -> Mapping[int, bytes]:
        """Return what this peer holds of a block's private data: tx to ``TxPvtReadWriteSet``."""
        await trio.lowlevel.checkpoint()
        found: dict[int, dict[str, list[CollectionPvtReadWriteSet]]] = {}
        held = self._chain.private.data(number) if number < self.height else ()
        for tx, namespace, collection, rwset in held:
            found.setdefault(tx, {}).setdefault(namespace, []).append(
                CollectionPvtReadWriteSet(collection_name=collection, rwset=rwset)
            )
        return {
            tx: encode(
                TxPvtReadWriteSet(
                    ns_pvt_rwset=[
                        NsPvtReadWriteSet(namespace=name, collection_pvt_rwset=collections)
                        for name, collections in namespaces.items()
                    ]
                )
            )
            for tx, namespaces in found.items()
        }

    async def missing_private_data(self) -> list[MissingSet]:
        """Return what this peer should have of committed private data and has not."""
        await trio.lowlevel.checkpoint()
        return self._chain.private.missing(self.height)

    def blockchain_info(self) -> BlockchainInfo:
        """Return height, hash of the last block and of the one before."""
        tip = self._chain.tip
        info = BlockchainInfo(
            height=self.height, current_block_hash=tip.hash, previous_block_hash=tip.previous_hash
        )
        if self.first_block:
            last = self.first_block - 1
            info.bootstrapping_snapshot_info = BootstrappingSnapshotInfo(
                last_block_in_snapshot=last
            )
        return info

    def has_transaction(self, tx_id: str) -> bool:
        """Tell whether a block holds a transaction of this id, valid or not."""
        return self._find(tx_id) is not None or self._is_inherited(tx_id)

    def find_transaction(self, tx_id: str) -> FoundTransaction | None:
        """Return verdict and place of the first transaction of this id, without reading it."""
        found = self._find(tx_id)
        if found is None:
            if self._is_inherited(tx_id):
                raise BeforeSnapshot(tx_id, self.first_block)
            return None
        version, code = found
        return FoundTransaction(ValidationCode(code), version)

    async def block_by_number(self, number: int) -> Block | None:
        """Return a block with its verdicts; None when there is none yet."""
        if 0 <= number < self.first_block:
            raise BeforeSnapshot(number, self.first_block)
        if self._newest is not None and number == self.height - 1:
            await trio.lowlevel.checkpoint()
            return self._newest.block  # as everybody who follows the channel asks for it now
        return await self._read(self._store.find_block(number))

    async def block_by_hash(self, header_hash: bytes) -> Block | None:
        """Return the block of a hash; None when there is none."""
        return await self._read(self._store.find_block_by_hash(header_hash))

    async def block_by_tx_id(self, tx_id: str) -> Block | None:
        """Return the first block that holds a transaction of this id."""
        found = self.find_transaction(tx_id)
        return await self.block_by_number(self.height if found is None else found.version.block)

    async def transaction_by_id(self, tx_id: str) -> CommittedTransaction | None:
        """Return the first transaction of this id."""
        found = self.find_transaction(tx_id)
        if found is None:
            await trio.lowlevel.checkpoint()
            return None
        code, version = found
        block = await self.block_by_number(version.block)
        assert block is not None, "a transaction is indexed with its block"
        return CommittedTransaction(envelopes_of(block)[version.tx], code, version)

    def channel_config(self) -> bytes | None:
        """Return the configuration that holds; None before the first block."""
        config = self._channel_config()
        return None if config is None else config.value

    async def last_config_block(self) -> Block | None:
        """Return the block with the configuration that holds; None without any."""
        config = self._channel_config()
        return await self.block_by_number(self.height if config is None else config.version.block)

    async def blocks(self, start: int) -> AsyncGenerator[Block, None]:
        """Yield every block from a number on, those to come included."""
        number = start
        while True:
            await self.reached(number + 1)
            block = await self.block_by_number(number)
            assert block is not None, "there are as many blocks as the height says"
            yield block
            number += 1

    async def reached(self, height: int) -> None:
        """Return once the height is at least this."""
        while self.height < height:
            if self._is_closed:
                raise LedgerStorageError(str(self._store.path), "closed")
            await self._next_block.wait()

    def close(self) -> None:
        """Wake whoever waits for blocks, to tell that none will come."""
        self._is_closed = True
        self._next_block.set()

    def _channel_config(self) -> Stored | None:
        snapshot = self._store.snapshot()
        try:
            return snapshot.get("", CHANNEL_CONFIG_KEY.encode())
        finally:
            snapshot.release()

    def _is_inherited(self, tx_id: str) -> bool:
        """Tell whether a snapshot that the ledger began with stands for a transaction."""
        return self.first_block > 0 and self._store.is_inherited(tx_id)

    def _find(self, tx_id: str) -> tuple[Version, int] | None:
        found = self._store.find_transaction(tx_id)
        # A block that has been written counts once its commit returns.
        return None if found is None or found[0].block >= self.height else found

    async def _read(self, found: BlockRow | None) -> Block | None:
        if found is None or found.number >= self.height:
            await trio.lowlevel.checkpoint()
            return None
        record = await trio.to_thread.run_sync(self._chain.files.read, found.position)
        return record.block

    async def _commit(
        self,
        block: Block,
        verdicts: Sequence[ValidationCode],
        private: Mapping[int, bytes],
        known: Mapping[int, Contents],
    ) -> CommittedBlock:
        store = self._store
        if store.checkpoint_is_due():
            await trio.to_thread.run_sync(store.checkpoint)
            # Whoever reads from here on needs the log no more, so the next write can reuse it.
            store.renew()
        snapshot = store.snapshot()
        try:
            work = BlockCommit(self._chain, block, snapshot)
            turn = Turn()
            judged = zip(envelopes_of(block), verdicts, strict=True)
            for tx, (envelope, verdict) in enumerate(judged):
                await turn.give_way()
                await work.judge(envelope, verdict, private.get(tx, b""), known.get(tx))
        finally:
            snapshot.release()
        store.renew()
        done = await trio.to_thread.run_sync(work.write)
        store.renew()
        if self.documents is not None:
            with trio.CancelScope(shield=True):
                await self.documents.follow()
        store.height += 1
        self._newest = done
        self._chain.tip = Tip.of(done.block)
        with trio.CancelScope(shield=True):
            await self.snapshots.committed()
        self._next_block.set()
        self._next_block = trio.Event()
        return done


def _usable(namespace: str, contents: Sequence[bytes]) -> Iterator[str]:
    for content in contents:
        try:
            yield canonical_definition(content)
        except QueryError as exc:
            log.warning("an index of namespace %s is not used: %s", namespace, exc)


@asynccontextmanager
async def open_ledger(
    directory: Path,
    channel_id: str,
    *,
    history: bool = True,
    collections: CollectionNames = lambda namespace: None,
    policies: CollectionPolicies = lambda namespace, collection: CollectionPolicy(),
    defined: DefinedCollections = lambda written, reader: {},
    documents: DocumentServer | None = None,
    snapshots: Path | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> AsyncIterator[Ledger]:
    """Open a channel's ledger, creating it empty where there is none.

        async with open_ledger(path, "mychannel") as ledger:
            simulator = ledger.new_tx_simulator(tx_id)
            ...

    What the databases lack, because the peer was killed or they were dropped, is made again from
    the block files first.

    Args:
        directory: where ledgers live; this one gets the sub-directory `channel_id`.
        channel_id: lower-case letters, digits, dots and dashes, at most 249.
        history: keep past values. Blocks committed without it have none later.
        collections: chaincode name to the names of its private data collections, asked at every
            use. Implicit collections of organisations exist without being named.
        policies: what the definition of a collection means for this peer, asked for every
            collection of a block. By default this peer is a member and nothing expires.
        defined: which collections a block defined; that is their history in snapshots.
        snapshots: where snapshots go, those of all channels; below the ledger if None.
        documents: a server that answers rich queries, with documents that are brought up to the
            ledger first. Without one the ledger answers them itself.
        max_file_bytes: size of a block file.

    Raises:
        LedgerLocked: another peer has this ledger open.
        LedgerCorrupt: a file is damaged, or written by another version, or the databases know
            blocks that the block files do not have.
        LedgerStorageError: it cannot be opened for another reason, which is named.
        DocumentsUnavailable, DocumentsError: the server of documents cannot be used.

    Cancellation: an opening that began is finished and closed again; catching up with the blocks
        ends between two of them.
    """
    home = ledger_home(directory, channel_id)
    with locked(home / LOCK_NAME), ExitStack() as stack:
        opening = partial(
            recovery.open_chain,
            home,
            stack,
            history=history,
            policies=policies,
            defined=defined,
            owes_documents=documents is not None,
            max_file_bytes=max_file_bytes,
        )
        try:
            chain = await trio.to_thread.run_sync(opening)
            requests = SnapshotRequests(chain, channel_id, home, snapshots or home / "snapshots")
            stack.callback(requests.close)
            await requests.open()
            ledger = KVLedger(chain, collections, documents, requests)
            try:
                if ledger.documents is not None:
                    await ledger.documents.open()
                yield ledger
            finally:
                ledger.close()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(stack.close)
