"""The blocks of one channel in files of the orderer's own.

Room:      peer.ordering   (imports peer.ledger; used by node)
Loop:      Trio; files are read and written in worker threads
Lifetime:  as long as the orderer runs
Fabric:    common/ledger/blockledger/fileledger (release-2.5)

The files are those of a ledger, without the databases: where each block begins is found by reading
all of them once, when the chain opens.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from fabric_protos.common import Block
from peer.errors import LedgerCorrupt, LedgerStorageError
from peer.ledger.blockfile import BEGINNING, BlockFiles, Position
from peer.ledger.blocks import header_hash, header_of

_OFFSET_BITS = 40


@asynccontextmanager
async def open_chain(directory: Path, genesis: Block | None = None) -> AsyncIterator[Chain]:
    """Open the chain in a directory, and cut off what a killed orderer left half written.

    Args:
        genesis: begins the chain, if there is none yet.

    Raises:
        LedgerCorrupt: the blocks there do not follow one another, or there is none and no genesis.
        LedgerStorageError: the files cannot be read or written.
    """
    chain = await trio.to_thread.run_sync(_open, directory, genesis)
    try:
        yield chain
    finally:
        chain.close()


class Chain:
    """A chain of blocks: a `solo.BlockStore`, and a source for `events.deliver`.

    Attributes:
        first: number of the first block.
    """

    first = 0

    def __init__(self, files: BlockFiles, positions: array[int], last: Block) -> None:
        self._files = files
        self._positions = positions
        self._last = last
        self._grown = trio.Event()

    @property
    def height(self) -> int:
        """Number of the block that comes next."""
        return len(self._positions)

    async def last_block(self) -> Block:
        """Return the newest block."""
        return self._last

    async def append(self, block: Block) -> None:
        """Keep a block; see `BlockStore.append`."""
        position = await trio.to_thread.run_sync(self._files.append, block)
        self._positions.append(_packed(position))
        self._last = block
        self._grown.set()
        self._grown = trio.Event()

    async def block(self, number: int) -> Block:
        """Return a block that is there.

        Raises:
            LedgerCorrupt: its file has been damaged.
        """
        if number == self.height - 1:
            await trio.lowlevel.checkpoint()
            return self._last
        position = Position(*divmod(self._positions[number], 1 << _OFFSET_BITS))
        return (await trio.to_thread.run_sync(self._files.read, position)).block

    async def reached(self, height: int) -> None:
        """Return once the height is at least this."""
        await trio.lowlevel.checkpoint()
        while self.height < height:
            await self._grown.wait()

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _open(directory: Path, genesis: Block | None) -> Chain:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise LedgerStorageError(str(directory), str(exc)) from exc
    files = BlockFiles(directory)
    positions = array("Q")
    end, last = BEGINNING, None
    for record in files.scan():
        header = header_of(record.block)
        follows = last is None or header.previous_hash == header_hash(header_of(last))
        if header.number != len(positions) or not follows:
            reason = f"block {header.number} does not follow block {len(positions) - 1}"
            raise LedgerCorrupt(str(directory), reason)
        positions.append(_packed(record.start))
        end, last = record.end, record.block
    files.resume(end)
    if last is None:
        if genesis is None:
            raise LedgerCorrupt(str(directory), "there is no block in it")
        positions.append(_packed(files.append(genesis)))
        last = genesis
    return Chain(files, positions, last)


def _packed(position: Position) -> int:
    return position.file << _OFFSET_BITS | position.offset
