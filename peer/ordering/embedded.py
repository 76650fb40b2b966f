"""Order for the peer in the same program: its ledger is the orderer's.

Room:      peer.ordering   (imports peer.channels; used by app)
Loop:      Trio
Lifetime:  as long as the peer is joined to the channel
Fabric:    none
"""

from __future__ import annotations

from fabric_protos.common import Block
from peer.channels import Joined


class CommittingStore:
    """Keeps blocks by committing them; see `solo.BlockStore`. One copy, one wait for the disk.

    A block passes the same verification as one from another machine.
    """

    def __init__(self, joined: Joined) -> None:
        self._joined = joined

    async def last_block(self) -> Block:
        """Return the last block committed."""
        ledger = self._joined.ledger
        block = await ledger.block_by_number(ledger.height - 1)
        assert block is not None, "a joined channel has its genesis block"
        return block

    async def append(self, block: Block) -> None:
        """Commit a block.

        Raises:
            BlockRefused, LedgerError: it cannot be committed.
        """
        await self._joined.committer.commit_block(block)
