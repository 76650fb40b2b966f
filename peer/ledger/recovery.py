"""Open the files of a channel and make them agree again after the peer ended anyhow.

Room:      peer.ledger   (used by kvledger)
Loop:      none; runs in a worker thread
Lifetime:  the opening of a ledger
Fabric:    core/ledger/kvledger/{kv_ledger,rebuild_dbs}.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import trio

from fabric_protos.codec import DecodeError
from peer.errors import BlockError, LedgerCorrupt, LedgerStorageError
from peer.ledger import durable
from peer.ledger.api import CollectionPolicies, DefinedCollections, ValidationCode
from peer.ledger.birth import read_birth
from peer.ledger.blockfile import BEGINNING, BlockFiles, Position, Record
from peer.ledger.blocks import envelopes_of, flags_of
from peer.ledger.commit import NO_BLOCK, BlockCommit, Chain, Tip
from peer.ledger.home import BLOCKS, DATABASE, PRIVATE
from peer.ledger.private import PrivateStore
from peer.ledger.store import Store
from peer.ledger.transactions import PrivateSets
from peer.ledger.transient import TransientStore

log = logging.getLogger(__name__)


def open_chain(
    home: Path,
    stack: ExitStack,
    *,
    history: bool,
    policies: CollectionPolicies,
    defined: DefinedCollections,
    owes_documents: bool,
    max_file_bytes: int,
) -> Chain:
    """Open everything in a channel's directory, and catch up with the block files.

    Closing is left on the stack.

    Raises:
        LedgerCorrupt: a file is damaged, or the databases know blocks the block files do not have.
        LedgerStorageError: a file cannot be used.

    Cancellation: between two blocks; the next opening goes on from there.
    """
    blocks = home / BLOCKS
    try:
        blocks.mkdir(mode=0o700, exist_ok=True)
        durable.sync_directory(home.parent)
    except OSError as exc:
        raise LedgerStorageError(str(blocks), str(exc)) from exc
    files = BlockFiles(blocks, max_file_bytes=max_file_bytes)
    stack.callback(files.close)
    store = Store(home / DATABASE)
    stack.callback(store.close)
    store.owe_documents(owes_documents)
    private = PrivateStore(home / PRIVATE)
    stack.callback(private.close)
    transient = TransientStore(home / "transient.sqlite")
    stack.callback(transient.close)
    birth = read_birth(home) or NO_BLOCK
    chain = Chain(files, store, private, transient, history, policies, defined, birth)
    end = _catch_up(chain)
    if torn := files.torn_bytes(end):
        log.warning("%s: cut off %d bytes of a block that was not completed", blocks, torn)
    files.resume(end)
    private.settle(chain.tip.number, since=-1)
    return chain


def _catch_up(chain: Chain) -> Position:
    """Bring the databases to the last whole block; return its end."""
    end = _last_known(chain)
    store, first = chain.store, chain.store.height
    for record in chain.files.scan(end):
        trio.from_thread.check_cancelled()
        if store.checkpoint_is_due():
            store.checkpoint()
        _repeat(chain, record)
        end = record.end
    if store.height > first:
        log.info("%s: caught up from block %d to %d", store.path, first, store.height - 1)
    return end


def _last_known(chain: Chain) -> Position:
    """Return where the last block ends that the databases know, and make it the tip."""
    store, birth = chain.store, chain.birth
    if store.height <= birth.number:
        reason = (
            "it has not got what the ledger began with, a snapshot, and cannot be made from the "
            "block files; remove the channel with `node unjoin` and join it again"
        )
        raise LedgerCorrupt(str(store.path), reason)
    if store.height == birth.number + 1:
        chain.tip = birth
        return BEGINNING
    known = store.find_block(store.height - 1)
    assert known is not None, "the height is that of the last block"
    try:
        record = chain.files.read(known.position)
    except LedgerStorageError as exc:
        blocks = sum(1 for _ in chain.files.scan())
        reason = (
            f"the state database [height={store.height}] is ahead of the block store "
            f"[height={blocks}]; put the missing block files back, or rebuild the databases"
        )
        raise LedgerCorrupt(str(store.path), reason) from exc
    chain.tip = Tip.of(record.block)
    if chain.tip.hash != known.hash:
        reason = "it does not belong to the block files; rebuild the databases"
        raise LedgerCorrupt(str(store.path), reason)
    return record.end


def _repeat(chain: Chain, record: Record) -> None:
    """Commit a stored block to the databases once more, with its recorded verdicts."""
    block, store = record.block, chain.store
    snapshot = store.snapshot()
    try:
        commit = BlockCommit(chain, block, snapshot)
        held: defaultdict[int, PrivateSets] = defaultdict(dict)
        for tx, namespace, collection, rwset in chain.private.data(store.height):
            held[tx][namespace, collection] = rwset
        codes = map(ValidationCode, flags_of(block))
        for tx, (envelope, code) in enumerate(zip(envelopes_of(block), codes, strict=True)):
            commit.repeat(envelope, code, held[tx])
        commit.write_again(record.start)
    except (BlockError, DecodeError, ValueError) as exc:
        path = str(chain.files.path)
        raise LedgerCorrupt(path, f"block {store.height}: {exc}") from exc
    finally:
        snapshot.release()
        store.renew()
    store.height += 1
    chain.tip = Tip.of(block)
