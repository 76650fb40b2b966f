"""Executions in progress on one stream.

Room:      peer.chaincode   (imports peer.ledger.api, fabric_protos; used by handler and requests)
Loop:      Trio
Lifetime:  transaction: from the message that starts it to COMPLETED, timeout or the stream's end
Fabric:    core/chaincode/transaction_contexts.go, transaction_context.go (release-2.5)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import trio

from fabric_protos.stream import ChaincodeMessage, SignedProposal
from fabric_protos.transaction_messages import TransactionMessages
from peer.chaincode.iterators import QueryIterator
from peer.errors import (
    DuplicateTransaction,
    ExecuteError,
    ExecuteTimeout,
    LedgerError,
    StreamTerminated,
    TxKey,
)
from peer.ledger.api import HistoryQueryExecutor, TxSimulator

INIT_WITH_PRIVATE_DATA = "private data APIs are not allowed in chaincode Init()"


class Permissions(NamedTuple):
    """What the creator of a proposal may do with one private data collection."""

    read: bool
    write: bool


class CollectionStore(Protocol):
    """Knows the private data collections and who may use them."""

    def permissions(self, params: TransactionParams, collection: str) -> Permissions:
        """Tell what the creator of a transaction may do with a collection of its namespace.

        The definition is read through the transaction's simulator, so it is part of what is
        endorsed.

        Raises:
            LedgerError: there is no such collection.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionParams:
    """What one execution runs with.

    Attributes:
        namespace: name of the chaincode, the prefix of everything it reads and writes. One process
            may serve several names, so this belongs to the execution and not to the stream.
        simulator: None for a call without a channel, which can read and write nothing.
        history: None when the history database is off.
        collections: None where there is no channel.
        decorations: set for the outermost call only.
    """

    channel_id: str
    tx_id: str
    namespace: str
    signed_proposal: SignedProposal | None = None
    simulator: TxSimulator | None = None
    history: HistoryQueryExecutor | None = None
    collections: CollectionStore | None = None
    decorations: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def key(self) -> TxKey:
        """What identifies this execution on one stream."""
        return TxKey(self.channel_id, self.tx_id)


Request = tuple[Callable[..., Awaitable[None]], tuple[object, ...]]
"""A function and its arguments."""


class TransactionContext:
    """One running execution and everything the chaincode asked for in it.

    Attributes:
        key: what identifies it on its stream.
        messages: writes what is sent to the chaincode.
        busy: a request is being worked on; the protocol allows one at a time.
        is_ending: its requests are being ended, and none can begin any more.
        iterators: open queries by id.

    Args:
        limit_s: seconds it may take.
        is_debugged: asked when they are over; if so, it gets as many again.
    """

    def __init__(
        self,
        params: TransactionParams,
        *,
        is_init: bool,
        limit_s: float,
        is_debugged: Callable[[], bool],
    ) -> None:
        self.key = params.key
        self.messages = TransactionMessages(*self.key)
        self.params = params
        self.is_init = is_init
        self._limit_s = limit_s
        self._is_debugged = is_debugged
        self._ends = trio.current_time() + limit_s
        self.busy = False
        self.is_ending = False
        self._caller = copy_context()
        self.iterators: dict[str, QueryIterator[Any]] = {}
        self.received = defaultdict[int, int](int)
        self.failed = defaultdict[int, int](int)
        self._permissions: dict[str, Permissions] = {}
        self._first: Request | None = None
        self._requests: trio.Nursery | None = None
        self._news = trio.Event()
        self._outcome: ChaincodeMessage | ExecuteError | None = None

    def settle(self, outcome: ChaincodeMessage | ExecuteError) -> None:
        """Hand the outcome to the waiting execution; only the first one counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._news.set()

    async def outcome(self) -> ChaincodeMessage | ExecuteError:
        """Wait for COMPLETED, ERROR or the reason why neither will come, such as the time limit.

        Requests that take time run meanwhile; none does any more when this ends, in any way. A
        nursery costs as much as all the rest of a wait, so there is one from the first of them on.
        """
        try:
            await self._wait()
        finally:
            # Cancelled, too: one that came just then is started all the same, to be answered.
            if self._first is not None:
                await self._run_requests(self._first)
        assert self._outcome is not None
        return self._outcome

    async def _run_requests(self, first: Request) -> None:
        async with trio.open_nursery() as self._requests:
            work, args = first
            self.spawn(work, *args)
            try:
                if self._outcome is None:
                    self._news = trio.Event()
                    await self._wait()
            finally:
                self.is_ending = True
            self._requests.cancel_scope.cancel()

    async def _wait(self) -> None:
        """Wait for news; the time limit is the cancellation of this wait."""
        while True:
            with trio.CancelScope(deadline=self._ends):
                await self._news.wait()
                return
            if not self._is_debugged():
                self.settle(ExecuteTimeout(self.key, self._limit_s))
                return
            self._ends = trio.current_time() + self._limit_s

    def spawn(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a request that takes time; it ends with this execution at the latest.

        It sees the context variables of the execution, not those of whoever delivered the message.
        """
        if self._requests is not None:
            self._caller.run(self._requests.start_soon, work, *args)
            return
        assert self._first is None, "there is one request at a time"
        self._first = work, args
        self._news.set()

    @property
    def simulator(self) -> TxSimulator:
        """The simulator of this execution.

        Raises:
            LedgerError: the call has no channel.
        """
        if self.params.simulator is None:
            raise LedgerError("no ledger context")
        return self.params.simulator

    def check_read(self, collection: str) -> None:
        """Refuse a private read that the collection's definition does not allow."""
        if not self._permitted(collection).read:
            raise LedgerError(self._denied("read", collection))

    def check_write(self, collection: str) -> None:
        """Refuse a private write that the collection's definition does not allow."""
        if not self._permitted(collection).write:
            raise LedgerError(self._denied("write", collection))

    def check_outside_init(self) -> None:
        """Refuse private data inside Init."""
        if self.is_init:
            raise LedgerError(INIT_WITH_PRIVATE_DATA)

    def _permitted(self, collection: str) -> Permissions:
        self.check_outside_init()
        known = self._permissions.get(collection)
        if known is None:
            params = self.params
            if params.collections is None:
                raise LedgerError("no ledger context")
            known = params.collections.permissions(params, collection)
            self._permissions[collection] = known
        return known

    def _denied(self, access: str, collection: str) -> str:
        return (
            f"tx creator does not have {access} access permission on privatedata in "
            f"chaincodeName:{self.params.namespace} collectionName: {collection}"
        )


class TransactionContexts:
    """The executions of one stream, by channel and transaction id.

    Args:
        on_end: hears of each execution that is over; must not wait.
        is_debugged: see `TransactionContext`.
    """

    def __init__(
        self, on_end: Callable[[TransactionContext], None], is_debugged: Callable[[], bool]
    ) -> None:
        self._contexts: dict[tuple[str, str], TransactionContext] = {}
        self._on_end = on_end
        self._is_debugged = is_debugged
        self._idle = trio.lowlevel.ParkingLot()

    def get(self, channel_id: str, tx_id: str) -> TransactionContext | None:
        """Return the running execution, or None when it ended or never was."""
        return self._contexts.get((channel_id, tx_id))  # equal to a `TxKey`, and made faster

    def open(
        self, params: TransactionParams, *, is_init: bool, limit_s: float
    ) -> TransactionContext:
        """Return the context of an execution that begins; it ends with `close`.

        Raises:
            DuplicateTransaction: the same transaction already runs here; a chaincode that calls
                itself on its own channel ends up in this.
        """
        context = TransactionContext(
            params, is_init=is_init, limit_s=limit_s, is_debugged=self._is_debugged
        )
        key = context.key
        if self._contexts.setdefault(key, context) is not context:
            raise DuplicateTransaction(key, f"txid: {key.tx_id}({key.channel_id}) exists")
        return context

    def close(self, context: TransactionContext) -> None:
        """End an execution, of which no request runs any more."""
        del self._contexts[context.key]
        for iterator in context.iterators.values():
            iterator.close()
        self._on_end(context)
        if not self._contexts:
            self._idle.unpark_all()

    async def wait_idle(self) -> None:
        """Return when nothing executes."""
        await trio.lowlevel.checkpoint()
        while self._contexts:
            await self._idle.park()

    def settle_all(self, reason: str) -> None:
        """Fail every execution at once: the stream is gone."""
        for context in self._contexts.values():
            context.settle(StreamTerminated(context.key, reason))
