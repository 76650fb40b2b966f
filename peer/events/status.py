"""Tell who waits for a transaction what became of it.

Room:      peer.events   (fed by the committer; used by channels)
Loop:      Trio
Lifetime:  as long as the peer is joined to the channel
Fabric:    internal/pkg/gateway/commit/{finder,notifier}.go (release-2.5)
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from peer.errors import LedgerError, PeerError
from peer.ledger.api import CommittedBlock, Ledger, ValidationCode
from peer.ledger.blocks import header_of


class CommitStatus(NamedTuple):
    """What became of a transaction: its verdict, and the number of its block."""

    code: ValidationCode
    block: int


class _Waiter:
    """Someone waiting for one transaction."""

    __slots__ = ("event", "outcome")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.outcome: CommitStatus | PeerError | None = None

    def settle(self, outcome: CommitStatus | PeerError) -> None:
        self.outcome = outcome
        self.event.set()


class CommitStatuses:
    """The verdicts of one channel, as they come."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: dict[str, set[_Waiter]] = {}
        self._is_closed = False

    def notify(self, committed: CommittedBlock) -> None:
        """Wake whoever waits for a transaction of a block; of two with one id the first counts."""
        if not self._waiting:
            return
        number = header_of(committed.block).number
        for tx_id, code in zip(committed.tx_ids, committed.codes, strict=True):
            self._settle(tx_id, CommitStatus(code, number))

    def refuse(self, tx_id: str, reason: PeerError) -> None:
        """Tell who waits for a transaction that no block will bring it."""
        self._settle(tx_id, reason)

    def fail(self, reason: PeerError) -> None:
        """Tell everybody who waits now that no block will come for a while."""
        for tx_id in list(self._waiting):
            self._settle(tx_id, reason)

    def close(self) -> None:
        """Tell everybody, now and later, that no block will come."""
        self._is_closed = True
        self.fail(_closed())

    async def wait(self, tx_id: str) -> CommitStatus:
        """Return what became of a transaction, once a block has brought it.

        One that no block ever brings is waited for without end: the caller sets the limit.

        Raises:
            PeerError: it is known that no block will bring it: the channel is closed, or is not
                ordered any more, or the ordering service dropped it.
        """
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            raise _closed()
        found = self._ledger.find_transaction(tx_id)
        if found is not None:
            await trio.lowlevel.checkpoint()
            return CommitStatus(found.code, found.version.block)
        # Nothing is awaited between the look into the ledger and this, so no block passes.
        waiter = _Waiter()
        self._waiting.setdefault(tx_id, set()).add(waiter)
        try:
            await waiter.event.wait()
            if isinstance(waiter.outcome, PeerError):
                raise waiter.outcome
            assert waiter.outcome is not None
            return waiter.outcome
        finally:
            waiters = self._waiting.get(tx_id)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiting[tx_id]

    def _settle(self, tx_id: str, outcome: CommitStatus | PeerError) -> None:
        for waiter in self._waiting.pop(tx_id, ()):
            waiter.settle(outcome)


def _closed() -> LedgerError:
    return LedgerError("the channel is closed")
