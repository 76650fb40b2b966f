"""One running transaction, seen from the handler: its requests, one at a time.

Room:      shim   (imports fabric_protos; used by handler and the stubs)
Loop:      asyncio; `SyncTransaction.run` is called in worker threads
Lifetime:  transaction
Fabric:    `callPeerWithChaincodeMsg`, shim/handler.go (fabric-chaincode-go)

The peer drops a second request of a transaction while one is pending, so requests queue here. A
call that is cancelled leaves its answer on the way; the next request waits for that answer and
throws it away, else it would take it for its own.
"""

from __future__ import annotations

import asyncio
import logging
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    SignedProposal,
)
from fabric_protos.transaction_messages import TransactionMessages

from .errors import PeerError, StreamClosed
from .proposal import ProposalFields
from .requests import Limits, Operation, Request, Writes, ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue

T = TypeVar("T")
log = logging.getLogger("shim")

MAX_MESSAGE_BYTES = 100 * 1024 * 1024
ENDED = "the transaction has ended"


class Transaction:
    """What both kinds of transaction share.

    Attributes:
        message_type: INIT or TRANSACTION.
        input: arguments and decorations.
        signed_proposal: the client's, None in a call without one.
        proposal: what was read from it.
        limits: what the peer offers.
        writes: open batch, if any.
        event: the event of this transaction; the last one set wins.
        abandoned: ids of iterators to close before the next request.
        over: why no request can be sent any more; empty while it can.
    """

    __slots__ = (
        "_messages",
        "_send",
        "abandoned",
        "channel_id",
        "event",
        "input",
        "limits",
        "message_type",
        "over",
        "proposal",
        "signed_proposal",
        "tx_id",
        "writes",
    )

    def __init__(
        self, message: ChaincodeMessage, limits: Limits, send: Callable[[bytes], None]
    ) -> None:
        """Read INIT or TRANSACTION.

        Raises:
            ValueError: payload or proposal are malformed; `DecodeError` is one.
        """
        self._send = send
        self._messages = TransactionMessages(message.channel_id, message.txid)
        self.message_type = message.type
        self.channel_id = message.channel_id
        self.tx_id = message.txid
        self.input = ChaincodeInput.decode(message.payload)
        self.signed_proposal: SignedProposal | None = message.proposal
        self.proposal = None if message.proposal is None else ProposalFields(message.proposal)
        self.limits = limits
        self.writes = Writes(limits)
        self.event: ChaincodeEvent | None = None
        self.abandoned: list[str] = []
        self.over = ""

    def __str__(self) -> str:
        return f"tx={self.tx_id} channel={self.channel_id}"

    def encode(self, kind: int, payload: bytes, event: ChaincodeEvent | None = None) -> bytes:
        """Marshal a message of this transaction.

        Raises:
            ValueError: it is longer than a peer accepts.
        """
        if event is None:
            data = self._messages.encode(kind, payload)
        else:
            data = ChaincodeMessage(
                type=kind,
                payload=payload,
                txid=self.tx_id,
                chaincode_event=event,
                channel_id=self.channel_id,
            ).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            name = ChaincodeMessageType(kind).name
            raise ValueError(f"{name} has {len(data)} bytes; the limit is {MAX_MESSAGE_BYTES}")
        return data

    def on_answer(self, message: ChaincodeMessage) -> None:
        """Take the answer to the pending request. Called in the loop."""
        raise NotImplementedError

    def fail(self, reason: str) -> None:
        """Let the pending call and all later ones raise `StreamClosed`. Called in the loop."""
        raise NotImplementedError

    def _closing_first(self, operation: Operation[T]) -> Operation[T]:
        from .results import close_request

        while self.abandoned:
            try:
                yield close_request(self.abandoned.pop())
            except PeerError as exc:
                log.warning("%s: closing an iterator: %s", self, exc)
        return (yield from operation)

    def _stray(self, message: ChaincodeMessage) -> None:
        log.warning("%s: an answer came that nothing waits for (type %s)", self, message.type)


def payload_of(answer: ChaincodeMessage) -> bytes:
    """Return what the peer answered.

    Raises:
        PeerError: it answered ERROR.
    """
    if answer.type == ChaincodeMessageType.ERROR:
        raise PeerError(answer.payload.decode(errors="replace"))
    return answer.payload


class AsyncTransaction(Transaction):
    """A transaction whose chaincode runs in the event loop."""

    __slots__ = ("_answer", "_lock")

    def __init__(
        self, message: ChaincodeMessage, limits: Limits, send: Callable[[bytes], None]
    ) -> None:
        super().__init__(message, limits, send)
        self._lock = asyncio.Lock()
        self._answer: asyncio.Future[ChaincodeMessage | None] | None = None  # of the request sent

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation.

        Raises:
            PeerError: the peer refused a request.
            StreamClosed: the stream or the transaction has ended.
            ValueError: a request breaks a rule of keys, names or sizes.

        Cancellation: the peer may have served the request or not.
        """
        if self.abandoned:
            operation = self._closing_first(operation)
        try:
            kind, payload = operation.send(None)  # type: ignore[arg-type]  # starts a generator
            while True:
                try:
                    answer = await self.call(kind, payload)
                except PeerError as exc:
                    kind, payload = operation.throw(exc)
                else:
                    kind, payload = operation.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def write(self, request: Request | None) -> None:
        """Send a write, unless it was collected; see `run`."""
        if request is not None:
            await self.run(ask(request))

    async def call(self, kind: int, payload: bytes) -> bytes:
        """Send one request and return the payload of its answer; see `run`."""
        data = self.encode(kind, payload)
        async with self._lock:
            if self._answer is not None:
                await self._settle()
            if self.over:
                raise StreamClosed(self.over)
            self._send(data)
            self._answer = answer = asyncio.get_running_loop().create_future()
            message = await answer
        if message is None:
            raise StreamClosed(self.over)
        return payload_of(message)

    def on_answer(self, message: ChaincodeMessage) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            self._stray(message)
        elif not answer.cancelled():
            answer.set_result(message)

    def fail(self, reason: str) -> None:
        self.over = reason
        answer, self._answer = self._answer, None
        if answer is not None and not answer.cancelled():
            answer.set_result(None)

    async def end(self) -> None:
        """Refuse further calls and wait for the answer to what was sent."""
        self.over = self.over or ENDED
        await self._settle()

    async def _settle(self) -> None:
        while self._answer is not None:
            if self._answer.cancelled():
                self._answer = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._answer})


class SyncTransaction(Transaction):
    """A transaction whose chaincode runs in a worker thread, or in several it starts itself."""

    __slots__ = ("_answers", "_lock", "_loop", "_pending")

    def __init__(
        self, message: ChaincodeMessage, limits: Limits, send: Callable[[bytes], None]
    ) -> None:
        from queue import SimpleQueue

        super().__init__(message, limits, send)
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._answers: SimpleQueue[ChaincodeMessage | None] = SimpleQueue()
        self._pending = False  # touched in the loop only

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation; blocks. Errors as in `AsyncTransaction.run`."""
        if self.abandoned:
            operation = self._closing_first(operation)
        try:
            kind, payload = operation.send(None)  # type: ignore[arg-type]  # starts a generator
            while True:
                try:
                    answer = self.call(kind, payload)
                except PeerError as exc:
                    kind, payload = operation.throw(exc)
                else:
                    kind, payload = operation.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def write(self, request: Request | None) -> None:
        """Send a write, unless it was collected; see `run`."""
        if request is not None:
            self.run(ask(request))

    def call(self, kind: int, payload: bytes) -> bytes:
        """Send one request and return the payload of its answer; see `run`."""
        data = self.encode(kind, payload)
        with self._lock:
            if self.over:
                raise StreamClosed(self.over)
            try:
                self._loop.call_soon_threadsafe(self._request, data)
            except RuntimeError as exc:
                raise StreamClosed("the event loop is closed") from exc
            message = self._answers.get()
        if message is None:
            raise StreamClosed(self.over)
        return payload_of(message)

    def _request(self, data: bytes) -> None:
        if not self.over:
            try:
                self._send(data)
            except StreamClosed as exc:
                self.over = str(exc)
            else:
                self._pending = True
                return
        self._answers.put(None)

    def on_answer(self, message: ChaincodeMessage) -> None:
        if not self._pending:
            return self._stray(message)
        self._pending = False
        return self._answers.put(message)

    def fail(self, reason: str) -> None:
        self.over = reason
        if self._pending:
            self._pending = False
            self._answers.put(None)

    def end(self) -> None:
        """Refuse further calls and wait for the answer to what another thread has sent."""
        self.over = self.over or ENDED
        with self._lock:
            pass
