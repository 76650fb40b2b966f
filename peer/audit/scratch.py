"""Commit the blocks of a chain once more, in a directory of our own.

Room:      peer.audit   (imports peer.channel, peer.ledger, peer.lifecycle, peer.validation)
Loop:      Trio
Lifetime:  the audit of one chain
Fabric:    none
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from fabric_protos.common import Block
from peer.channel.channel import Channel
from peer.channel.configblock import bundle_of
from peer.ledger import open_ledger, public_state
from peer.ledger.api import CollectionPolicy, CommittedBlock, Ledger, ValidationCode
from peer.ledger.blocks import commit_hash_of
from peer.ledger.offline import StateRow
from peer.lifecycle import state
from peer.validation.committer import Committer

LEDGER = "audited"
"""Name of the ledger in the scratch directory; a damaged chain may have none that can be used."""


class Outcome(NamedTuple):
    """What came of a block here."""

    codes: Sequence[ValidationCode]
    commit_hash: bytes


class Scratch:
    """A ledger to commit blocks to; made by `open_scratch`."""

    def __init__(self, ledger: Ledger, channel_id: str) -> None:
        self._ledger = ledger
        self._channel_id = channel_id
        self._committer: Committer | None = None

    async def repeat(self, block: Block, verdicts: Sequence[ValidationCode]) -> Outcome:
        """Commit a block with the verdicts it had; conflicts are looked for all the same.

        Raises:
            LedgerError: it cannot follow.
        """
        return _outcome(await self._ledger.commit(block, verdicts))

    async def replay(self, block: Block) -> Outcome:
        """Commit a block as this peer would have.

        Raises:
            ChannelError, LedgerError: it would not have.
        """
        if self._committer is None:
            bundle = bundle_of(self._channel_id, block)
            done = await self._ledger.commit(block, [ValidationCode.VALID])
            self._committer = Committer(Channel(self._ledger, bundle))
        else:
            done = await self._committer.commit_block(block)
        return _outcome(done)


@asynccontextmanager
async def open_scratch(directory: Path, channel_id: str) -> AsyncIterator[Scratch]:
    """Open an empty ledger that is a member of no collection, and knows when data expire.

    Raises:
        LedgerStorageError: the directory cannot be used.
    """
    opened: list[Ledger] = []

    def policy(namespace: str, collection: str) -> CollectionPolicy:
        return CollectionPolicy(_block_to_live(opened[0], namespace, collection), is_member=False)

    async with open_ledger(directory, LEDGER, history=False, policies=policy) as ledger:
        opened.append(ledger)
        yield Scratch(ledger, channel_id)


def final_state(directory: Path) -> Iterator[StateRow]:
    """Yield the state that the blocks of a chain left in a scratch directory.

    Raises:
        LedgerStorageError: it cannot be read.
    """
    return public_state(directory, LEDGER)


def _block_to_live(ledger: Ledger, namespace: str, collection: str) -> int:
    """Return after how many blocks a collection's data go, as the last block left it defined."""
    reader = ledger.new_query_executor()
    try:
        definition = state.read_definition(reader, namespace)
        package = (
            state.read_legacy_collections(reader, namespace)
            if definition is None
            else definition.collections
        )
    finally:
        reader.done()
    found = state.find_collection(package, collection)
    return 0 if found is None else found.block_to_live


def _outcome(done: CommittedBlock) -> Outcome:
    return Outcome(done.codes, commit_hash_of(done.block))
