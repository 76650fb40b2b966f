"""Take one block through conflict checks onto the disk.

Room:      peer.ledger   (used by kvledger and recovery)
Loop:      `BlockCommit.judge` on Trio; `write` and `write_again` in the writing thread
Lifetime:  a chain as long as the ledger is open, a `BlockCommit` for one block
Fabric:    core/ledger/kvledger/kv_ledger.go, .../txmgmt/validation/batch_preparer.go (release-2.5)

The order is private data, block, databases; the first two are durable before the next begins. So
the block file tells what is committed: what lies in the private store without a block counts for
nothing, and what the databases lack is made from the blocks when the ledger opens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from fabric_protos.codec import DecodeError, decode
from fabric_protos.common import Block, BlockData, BlockHeader
from fabric_protos.kvrwset import KvrwSet
from fabric_protos.stream import HeaderType
from peer.errors import BlockError, LedgerError, LedgerStorageError
from peer.ledger.api import (
    CollectionPolicies,
    CommittedBlock,
    CommitTimes,
    DefinedCollections,
    TransactionKind,
    ValidationCode,
    Version,
)
from peer.ledger.blockfile import BlockFiles, Position
from peer.ledger.blocks import (
    commit_hash,
    commit_hash_of,
    committed,
    data_hash,
    envelopes_of,
    flags_of,
    header_hash,
    header_of,
)
from peer.ledger.private import Expiring, PrivateBatch, PrivateSet, PrivateStore
from peer.ledger.snapshot import Snapshot, Stored, hash_namespace
from peer.ledger.store import (
    BlockRow,
    BlockRows,
    PastWrites,
    Store,
    TransactionRow,
)
from peer.ledger.transactions import (
    UNREADABLE,
    Contents,
    NamespaceSet,
    PrivateSets,
    TransactionHeader,
    read_action,
    read_header,
    read_private,
    read_sets,
    take_private,
    written_collections,
)
from peer.ledger.transient import TransientStore
from peer.ledger.validation import BlockValidation

log = logging.getLogger(__name__)

State = Mapping[str, Mapping[bytes, Stored]]
VALID = ValidationCode.VALID


class Tip(NamedTuple):
    """The last block."""

    number: int
    hash: bytes
    previous_hash: bytes
    commit_hash: bytes

    @classmethod
    def of(cls, block: Block) -> Tip:
        """Return what the next block must know of this one."""
        header = header_of(block)
        return cls(header.number, header_hash(header), header.previous_hash, commit_hash_of(block))


NO_BLOCK = Tip(-1, b"", b"", b"")


@dataclass(slots=True)
class Chain:
    """Everything a channel has on disk, and where its chain ends.

    Attributes:
        birth: the last block of the snapshot that the ledger began with, if it did.
    """

    files: BlockFiles
    store: Store
    private: PrivateStore
    transient: TransientStore
    keeps_history: bool
    policies: CollectionPolicies
    defined: DefinedCollections
    birth: Tip = NO_BLOCK
    tip: Tip = NO_BLOCK

    def check_next(self, block: Block) -> BlockHeader:
        """Return the header of the block that follows the last one.

        Raises:
            BlockError: this one does not, or its header does not cover its data.
        """
        header, tip = header_of(block), self.tip
        if header.number != tip.number + 1:
            raise BlockError(header.number, f"the next block is {tip.number + 1}")
        if header.previous_hash != tip.hash:
            raise BlockError(
                header.number,
                f"its previous hash is {header.previous_hash.hex()}, "
                f"the hash of the last block {tip.hash.hex()}",
            )
        if data_hash(block.data or BlockData()) != header.data_hash:
            raise BlockError(header.number, "its header does not cover its data")
        return header


class BlockCommit:
    """The next block, transaction by transaction, then as a whole.

    Raises:
        BlockError: the block does not follow the last one.
    """

    def __init__(self, chain: Chain, block: Block, snapshot: Snapshot) -> None:
        self._chain = chain
        self._block = block
        self._header = chain.check_next(block)
        self._validation = BlockValidation(snapshot)
        self._codes: list[ValidationCode] = []
        self._transactions: list[TransactionRow] = []
        self._kinds: list[TransactionKind] = []
        self._events: dict[int, bytes] = {}
        self._began = time.perf_counter()
        self._history: list[PastWrites] = []
        self._private = PrivateBatch()

    async def judge(
        self, envelope: bytes, verdict: ValidationCode, private: bytes, known: Contents | None
    ) -> None:
        """Check the next transaction and take its changes over if it is valid.

        Args:
            private: its ``TxPvtReadWriteSet``, as far as that came with the block.
            known: what has been read of it already.
        """
        if verdict is not VALID:
            code, contents = verdict, Contents(read_header(envelope), TransactionKind(), [])
        elif known is None:
            code, contents = _read(read_header(envelope))
        else:
            code, contents = VALID, known
            self._events[len(self._codes)] = known.event
        header, kind, sets, _ = contents
        self._kinds.append(kind)
        if code is VALID:
            code = await self._validation.check(sets)
        if code is VALID:
            self._find_private(header.tx_id, sets, private)
            self._note(sets)
        self._add(header, code, sets)

    def repeat(self, envelope: bytes, code: ValidationCode, held: PrivateSets) -> None:
        """Take the next transaction over as it was judged before.

        Args:
            held: what the private store has of it; checked when it came in.

        Raises:
            DecodeError: it cannot have been judged so.
        """
        header = read_header(envelope)
        sets: list[NamespaceSet] = []
        if code is VALID:
            readable, (_, _, sets, _) = _read(header)
            if readable is not VALID:
                raise DecodeError(f"transaction {header.tx_id} is recorded as valid")
            for key, collection in written_collections(sets):
                if key in held:
                    collection.private = decode(KvrwSet, held[key])
        self._add(header, code, sets)

    def write(self) -> CommittedBlock:
        """Write the block and return when it is durable.

        Raises:
            LedgerStorageError: it was not written, and can be committed again.
        """
        chain, number, clock = self._chain, self._header.number, [time.perf_counter()]
        block = committed(self._block, bytes(self._codes), self._commit_hash())
        self._expire()
        chain.private.commit(number, self._private)
        clock.append(time.perf_counter())
        position = chain.files.append(block)
        clock.append(time.perf_counter())
        try:
            chain.store.write_block(self._rows(position))
        except BaseException:
            chain.files.cut(position)
            raise
        clock.append(time.perf_counter())
        try:
            chain.private.settle(number, since=number - 1)
            chain.transient.purge((row.tx_id for row in self._transactions), number + 1)
        except LedgerStorageError as exc:
            log.error("block %d is committed; cleaning up after it failed: %s", number, exc)
        tx_ids = [row.tx_id for row in self._transactions]
        times = CommitTimes(*(end - start for start, end in pairwise([self._began, *clock])))
        written = self._validation.written
        return CommittedBlock(block, self._codes, tx_ids, self._kinds, written, times, self._events)

    def write_again(self, position: Position) -> None:
        """Write to the databases what follows from a block that is stored already.

        Raises:
            DecodeError: its recorded commit hash does not follow from it.
        """
        recorded = commit_hash_of(self._block)
        if recorded and self._commit_hash() != recorded:
            raise DecodeError("its commit hash does not follow from its transactions")
        self._expire()
        self._chain.store.write_block(self._rows(position))

    def _find_private(self, tx_id: str, sets: list[NamespaceSet], private: bytes) -> None:
        """Look for private data where there may be some, until nothing is missing."""
        chain, tx = self._chain, len(self._codes)
        wanted = {key for key, _ in written_collections(sets) if chain.policies(*key).is_member}
        candidates = self._candidates(tx_id, private)
        while wanted and (candidate := next(candidates, None)) is not None:
            held = {key: candidate[key] for key in wanted & candidate.keys()}
            taken = take_private(tx_id, sets, held)
            self._private.sets += (PrivateSet(tx, *key, taken[key]) for key in taken)
            wanted -= taken.keys()
        self._private.missing += ((tx, *key) for key in sorted(wanted))

    def _candidates(self, tx_id: str, private: bytes) -> Iterator[PrivateSets]:
        """Yield what came with the block, was endorsed here, and was left when it went before."""
        if private:
            yield read_private(tx_id, private)
        for endorsed in self._chain.transient.get(tx_id):
            yield read_private(tx_id, endorsed)
        tx = len(self._codes)
        left = self._chain.private.data(self._header.number)
        yield {(each.namespace, each.collection): each.rwset for each in left if each.tx == tx}

    def _note(self, sets: list[NamespaceSet]) -> None:
        """Note what a transaction does to private data of the past and the future."""
        tx, noted = len(self._codes), self._private
        for namespace in sets:
            for collection in namespace.collections:
                hashed, where = collection.hashed, (namespace.name, collection.name)
                noted.purges += (
                    (tx, *where, write.key_hash) for write in hashed.hashed_writes if write.is_purge
                )
                lifetime = self._chain.policies(*where).block_to_live
                if lifetime and (hashed.hashed_writes or hashed.metadata_writes):
                    noted.expiry.add((self._header.number + lifetime + 1, *where))

    def _add(
        self, header: TransactionHeader, code: ValidationCode, sets: list[NamespaceSet]
    ) -> None:
        version = Version(self._header.number, len(self._codes))
        if code is VALID:
            if header.type == HeaderType.CONFIG:
                self._validation.configure(header.data, version)
            history = self._validation.apply(sets, version)
            if self._chain.keeps_history:
                self._history += history
        self._codes.append(code)
        self._transactions.append(TransactionRow(header.tx_id, code, header.timestamp))

    def _commit_hash(self) -> bytes:
        """Return the commit hash; empty for the first block and wherever the one before is."""
        previous = self._chain.tip.commit_hash
        if self._header.number != 1 and not previous:
            return b""
        return commit_hash(bytes(self._codes), self._validation.updates(), previous)

    def _expire(self) -> None:
        """Delete the private keys whose time has come and that nobody wrote since."""
        chain = self._chain
        for expiring in chain.private.expiring(self._header.number):
            hashes = hash_namespace(expiring.namespace, expiring.collection)
            for key_hash in self._written_keys(expiring):
                held = chain.store.get_latest(hashes, key_hash)
                if held is not None and held.version.block == expiring.block:
                    self._validation.expire(expiring.namespace, expiring.collection, key_hash)

    def _written_keys(self, expiring: Expiring) -> Iterable[bytes]:
        """Return the hashes of the keys that an earlier block wrote to a collection."""
        store = self._chain.store
        found = store.stored_block(expiring.block)
        if found is None:
            return store.inherited_keys(*expiring)
        return _written_keys(self._chain.files.read(found.position).block, expiring)

    def _rows(self, position: Position) -> BlockRows:
        changes = self._validation.changes()
        return BlockRows(
            BlockRow(self._header.number, header_hash(self._header), position),
            self._transactions,
            changes,
            self._history,
            self._collections(changes.state),
        )

    def _collections(self, state: State) -> Mapping[str, bytes]:
        """Return the collections that the block defines."""
        written = (
            (namespace, key.decode())
            for namespace, changed in state.items()
            if "$$" not in namespace
            for key, stored in changed.items()
            if stored.value
        )
        try:
            return self._chain.defined(written, _StateAfter(self._chain.store, state))
        except LedgerStorageError:
            raise
        except LedgerError as exc:
            log.error("block %d defines collections nobody knows: %s", self._header.number, exc)
            return {}


class _StateAfter:
    """The public state that a block leads to; see `StateReader`. For the writing thread."""

    def __init__(self, store: Store, state: State) -> None:
        self._store = store
        self._state = state

    def get_state(self, namespace: str, key: str) -> bytes | None:
        encoded = key.encode()
        found = self._state.get(namespace, {}).get(encoded)
        if found is None:
            found = self._store.get_latest(namespace, encoded)
        return None if found is None else found.value or None


def _read(header: TransactionHeader) -> tuple[ValidationCode, Contents]:
    """Return the contents of a transaction, and VALID unless they cannot be read."""
    kind = TransactionKind(header.type)
    if header.type == UNREADABLE:
        return ValidationCode.INVALID_OTHER_REASON, Contents(header, kind, [])
    if header.type != HeaderType.ENDORSER_TRANSACTION:
        return VALID, Contents(header, kind, [])
    action = read_action(header.data)
    if action is None:
        return ValidationCode.NIL_TXACTION, Contents(header, kind, [])
    if (endorsed := action.chaincode_id) is not None:
        kind = TransactionKind(header.type, f"{endorsed.name}:{endorsed.version}")
    try:
        return VALID, Contents(header, kind, read_sets(action.results))
    except DecodeError as exc:
        log.warning("transaction %s is invalid: %s", header.tx_id, exc)
        return ValidationCode.INVALID_OTHER_REASON, Contents(header, kind, [])


def _written_keys(block: Block, where: Expiring) -> Iterator[bytes]:
    """Yield the hashes of the keys that a block's valid transactions wrote to a collection."""
    for envelope, flag in zip(envelopes_of(block), flags_of(block), strict=True):
        if flag != VALID:
            continue
        _, contents = _read(read_header(envelope))
        for namespace in contents.sets:
            for collection in namespace.collections:
                if (namespace.name, collection.name) == (where.namespace, where.collection):
                    hashed = collection.hashed
                    yield from (write.key_hash for write in hashed.hashed_writes)
                    yield from (write.key_hash for write in hashed.metadata_writes)
