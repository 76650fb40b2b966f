"""The chaincode's side of one stream: handshake, dispatch, answers.

Room:      shim   (imports fabric_protos.stream; used by client, server and in-process starts)
Loop:      asyncio; plain functions run in worker threads
Lifetime:  stream; a transaction is nested in it
Fabric:    `Handler`, shim/handler.go (fabric-chaincode-go)

Messages are handled in the callback that delivers them, which never waits: an answer wakes the call
that asked, INIT and TRANSACTION start a task or a job.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    ChaincodeAdditionalParams,
    ChaincodeId,
    ChaincodeMessage,
    ChaincodeMessageType,
)

from .chaincode import Chaincode
from .errors import StreamClosed
from .execution import Function, execute, execute_sync
from .requests import Limits
from .transaction import AsyncTransaction, SyncTransaction, Transaction

if TYPE_CHECKING:
    from .transport import Duplex
    from .workers import Workers

Key = tuple[str, str]

log = logging.getLogger("shim")

LEAST_CHUNK = 100
LEAVE_LIMIT_S = 1.0
STOP_LIMIT_S = 8.0
"""Docker kills ten seconds after SIGTERM."""


class State(Enum):
    """How far the handshake is."""

    CREATED = "created"
    ESTABLISHED = "established"
    READY = "ready"


class Handler:
    """Run a chaincode on one stream.

    Args:
        chaincode: what to run; its methods decide between event loop and threads.
        ccid: the id to register under.
        stream: the open stream.
        workers: threads for plain functions, shared between streams.
    """

    def __init__(
        self, chaincode: Chaincode, ccid: str, stream: Duplex, workers: Workers | None = None
    ) -> None:
        self._ccid = ccid
        self._stream = stream
        self._workers = workers
        self._own_workers: Workers | None = None
        self._starts: dict[int, Callable[[Key, ChaincodeMessage], None]] = {
            ChaincodeMessageType.INIT: self._start_of(chaincode.init),
            ChaincodeMessageType.TRANSACTION: self._start_of(chaincode.invoke),
        }
        self._limits = Limits()
        self._transactions: dict[tuple[str, str], Transaction] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._idle = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.state = State.CREATED

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Register, then serve transactions until the stream ends or *stop* is set.

        After *stop*, running transactions have `STOP_LIMIT_S` to finish and new ones are refused.

        Raises:
            StreamClosed: the stream broke, or the peer refused the registration.

        Cancellation: ends the stream and the transactions.
        """
        register = ChaincodeMessage(
            type=ChaincodeMessageType.REGISTER, payload=ChaincodeId(name=self._ccid).encode()
        )
        self._stream.send(register.encode())
        stopper = None if stop is None else self._loop.create_task(self._stop_after(stop))
        reason = "the stream has ended"
        try:
            await self._stream.run(self.on_message)
        except StreamClosed as exc:
            reason = str(exc)
            raise
        finally:
            if stopper is not None:
                stopper.cancel()
            await self._leave(reason)

    def on_message(self, data: bytes) -> None:
        """Handle one message of the peer.

        Raises:
            StreamClosed: the message is unreadable, or breaks the handshake.
        """
        try:
            message = ChaincodeMessage.decode(data)
        except DecodeError as exc:
            raise StreamClosed(f"the peer sent an unreadable message: {exc}") from exc
        kind = message.type
        if kind == ChaincodeMessageType.KEEPALIVE:
            self._send_or_drop(data)
        elif self.state is not State.READY:
            self._shake_hands(message)
        elif kind in (ChaincodeMessageType.RESPONSE, ChaincodeMessageType.ERROR):
            transaction = self._transactions.get((message.channel_id, message.txid))
            if transaction is not None:
                transaction.on_answer(message)
            else:
                log.warning("answer for tx=%s, which is not running", message.txid)
        elif kind in self._starts:
            self._begin(message)
        else:
            self._refuse_kind(message)

    # Handshake

    def _shake_hands(self, message: ChaincodeMessage) -> None:
        if self.state is State.CREATED and message.type == ChaincodeMessageType.REGISTERED:
            self.state = State.ESTABLISHED
        elif self.state is State.ESTABLISHED and message.type == ChaincodeMessageType.READY:
            self._limits = limits_of(message.payload)
            self.state = State.READY
            log.info("ready as %s", self._ccid)
        else:
            text = self._refuse_kind(message)
            if message.type == ChaincodeMessageType.ERROR:
                text = f"the peer refused: {message.payload.decode(errors='replace')}"
            raise StreamClosed(text)

    def _refuse_kind(self, message: ChaincodeMessage) -> str:
        text = (
            f"[{message.txid[:8]}] Chaincode handler cannot handle message "
            f"({name_of(message.type)}) while in state: {self.state.value}"
        )
        log.warning("%s", text)
        repeated = (ChaincodeMessageType.REGISTERED, ChaincodeMessageType.READY)
        if self.state is not State.READY or (message.txid and message.type not in repeated):
            self._answer_error(message, text)
        return text

    # Transactions

    def _begin(self, message: ChaincodeMessage) -> None:
        key = (message.channel_id, message.txid)
        try:
            if key in self._transactions:
                raise ValueError(f"txid: {message.txid}({message.channel_id}) exists")
            if self._stopping:
                raise ValueError("the chaincode is shutting down")
            self._starts[message.type](key, message)
        except ValueError as exc:  # as of malformed messages
            log.warning("tx=%s cannot begin: %s", message.txid, exc)
            self._answer_error(message, str(exc))

    def _start_of(self, function: Function) -> Callable[[Key, ChaincodeMessage], None]:
        return partial(self._start if iscoroutinefunction(function) else self._submit, function)

    def _start(self, function: Function, key: Key, message: ChaincodeMessage) -> None:
        transaction = AsyncTransaction(message, self._limits, self._stream.send)
        self._transactions[key] = transaction
        task = self._loop.create_task(self._execute(key, transaction, function))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, key: Key, transaction: AsyncTransaction, function: Function) -> None:
        self._finish(key, await execute(transaction, function))

    def _submit(self, function: Function, key: Key, message: ChaincodeMessage) -> None:
        from .workers import Overloaded, Workers

        if self._workers is None:
            self._workers = self._own_workers = Workers()
        transaction = SyncTransaction(message, self._limits, self._stream.send)
        try:
            self._workers.submit(partial(self._execute_sync, key, transaction, function))
        except Overloaded:
            raise ValueError("Failed to submit task for processing") from None
        self._transactions[key] = transaction

    def _execute_sync(self, key: Key, transaction: SyncTransaction, function: Function) -> None:
        data = execute_sync(transaction, function)
        with suppress(RuntimeError):  # the loop is closed: nobody waits for the answer
            self._loop.call_soon_threadsafe(self._finish, key, data)

    def _finish(self, key: Key, data: bytes) -> None:
        del self._transactions[key]
        self._send_or_drop(data)
        if not self._transactions:
            self._idle.set()

    # Sending

    def _send_or_drop(self, data: bytes) -> None:
        try:
            self._stream.send(data)
        except StreamClosed as exc:
            log.debug("dropped %d bytes: %s", len(data), exc)

    def _answer_error(self, message: ChaincodeMessage, text: str) -> None:
        answer = ChaincodeMessage(
            type=ChaincodeMessageType.ERROR,
            payload=text.encode(errors="replace"),
            txid=message.txid,
            channel_id=message.channel_id,
        )
        self._send_or_drop(answer.encode())

    # The end

    async def _stop_after(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True
        if self._transactions:
            log.info("stopping: %d transactions are running", len(self._transactions))
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_LIMIT_S):
                    await self._idle.wait()
        self._stream.close()

    async def _leave(self, reason: str) -> None:
        for transaction in self._transactions.values():
            transaction.fail(reason)
        if self._own_workers is not None:
            self._own_workers.close()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=LEAVE_LIMIT_S)
        finally:
            for task in self._tasks:
                task.cancel()


def limits_of(payload: bytes) -> Limits:
    """Read what READY offers; a payload that cannot be read offers nothing."""
    try:
        offer = ChaincodeAdditionalParams.decode(payload)
    except DecodeError as exc:
        log.warning("READY cannot be read: %s", exc)
        return Limits()
    return Limits(
        max(offer.max_size_write_batch, LEAST_CHUNK) if offer.use_write_batch else 0,
        max(offer.max_size_get_multiple_keys, LEAST_CHUNK) if offer.use_get_multiple_keys else 0,
    )


def name_of(kind: int) -> str:
    """Name a message type, also an unknown one."""
    try:
        return ChaincodeMessageType(kind).name
    except ValueError:
        return str(kind)
