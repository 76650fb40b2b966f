"""One chaincode's stream: registration, executions, requests.

Room:      peer.chaincode   (imports stream, registry, requests, transactions; used by support)
Loop:      Trio; messages are handled where they arrive, without a task of their own
Lifetime:  stream
Fabric:    `Handler`, core/chaincode/handler.go (release-2.5, 3.1)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Protocol

import trio

from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    ChaincodeAdditionalParams,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
)
from fabric_protos.transaction_messages import TransactionMessages
from peer.chaincode.registry import HandlerRegistry
from peer.chaincode.requests import INLINE, LongRequests
from peer.chaincode.stream import (
    MAX_MESSAGE_BYTES,
    MessageStream,
    PeerEnd,
    StreamClosed,
    StreamRefused,
)
from peer.chaincode.transactions import (
    TransactionContext,
    TransactionContexts,
    TransactionParams,
)
from peer.errors import (
    ExecuteError,
    PeerError,
    RegistrationRefused,
    StreamTerminated,
)
from peer.metrics import ChaincodeMeters

log = logging.getLogger("peer.chaincode")
Type = ChaincodeMessageType
_TYPE_NAMES: dict[int, str] = {kind: kind.name for kind in Type}

Trace = Callable[[str, bool, ChaincodeMessage], None]
"""Called with (ccid, came from the chaincode, message) for every message of a stream."""


class MessageTooLarge(Exception):
    """No library takes it: sent, it would end the stream and every execution on it."""


class HandlerState(Enum):
    """Where a stream stands. ESTABLISHED lasts only from REGISTERED to READY."""

    CREATED = "created"
    ESTABLISHED = "established"
    READY = "ready"


READY = HandlerState.READY  # asked for with every message, and a member of an enum takes a call


class Gate(Protocol):
    """Decides who may register on one stream, and hears how it went."""

    async def recognise(self, far_end: PeerEnd) -> None:
        """
        Raises:
            RegistrationRefused: whoever is there was not launched to register here.
        """
        ...

    def admit(self, ccid: str) -> None:
        """
        Raises:
            RegistrationRefused: not under this name.
        """
        ...

    def ended(self, reason: str) -> None:
        """Hear that a recognised stream is over."""
        ...


class Handler:
    """The peer's side of one stream.

    Args:
        gate: who may register here.
        long_requests: the requests that run in a task of their transaction.
        ready_params: payload of READY, what the peer offers beyond the base protocol.
        keepalive_s: seconds between KEEPALIVE messages, 0 for none.
        meters: what executions asked for is counted there, once they are over.
        is_debugged: see `ExecutionSettings`.
        trace: sees every message; None costs nothing.
    """

    def __init__(
        self,
        stream: MessageStream,
        *,
        gate: Gate,
        registry: HandlerRegistry,
        long_requests: LongRequests,
        ready_params: ChaincodeAdditionalParams,
        meters: ChaincodeMeters,
        keepalive_s: float = 0.0,
        is_debugged: Callable[[], bool] = lambda: False,
        trace: Trace | None = None,
    ) -> None:
        self.ccid = ""
        self._stream = stream
        self._gate = gate
        self._registry = registry
        self._long = long_requests.by_type
        self._ready_params = ready_params
        self._keepalive_s = keepalive_s
        self._trace = trace
        self._state = HandlerState.CREATED
        self._meters = meters
        self._contexts = TransactionContexts(self._count, is_debugged)

    @property
    def is_ready(self) -> bool:
        """READY has been sent and the stream has not ended."""
        return self._state is READY

    def params(self, channel_id: str, tx_id: str) -> TransactionParams | None:
        """Return what a running execution was given; None once it has ended."""
        context = self._contexts.get(channel_id, tx_id)
        return None if context is None else context.params

    async def wait_idle(self) -> None:
        """Return when nothing executes here; each execution has its time limit."""
        await self._contexts.wait_idle()

    async def process_stream(self) -> None:
        """Serve the stream until it ends.

        Raises:
            StreamRefused: not let in, or the protocol was broken; the transport tells it.

        Cancellation: ends the stream; executions on it fail at once.
        Source: Handler.ProcessStream, core/chaincode/handler.go (release-2.5).
        """
        try:
            await self._gate.recognise(self._stream.far_end)
        except RegistrationRefused as exc:
            log.warning("stream refused: %s", exc.reason)
            raise StreamRefused("PERMISSION_DENIED", exc.reason) from exc
        reason = "the peer ended it"
        refusal: StreamRefused | None = None
        try:
            async with trio.open_nursery() as nursery:
                if self._keepalive_s > 0:
                    nursery.start_soon(self._send_keepalives)
                try:
                    await self._stream.run(self._on_message)
                    reason = "the chaincode closed it"
                except StreamClosed as exc:
                    reason = str(exc)
                except StreamRefused as exc:
                    reason, refusal = str(exc), exc
                nursery.cancel_scope.cancel()
        finally:
            self._state = HandlerState.CREATED
            self._contexts.settle_all(f"chaincode stream terminated: {reason}")
            self._registry.deregister(self)
            self._gate.ended(reason)
            log.info("stream of %s ended: %s", self.ccid or "an unregistered chaincode", reason)
        if refusal is not None:
            raise refusal

    async def execute(
        self, message_type: int, params: TransactionParams, payload: ChaincodeInput, limit_s: float
    ) -> ChaincodeMessage:
        """Run one INIT or TRANSACTION and return the chaincode's COMPLETED or ERROR.

        Args:
            limit_s: seconds the chaincode may take.

        Raises:
            ExecuteError: proposal and arguments make a message over `MAX_MESSAGE_BYTES`.
            ExecuteTimeout: no answer in time; the chaincode is not told and keeps running.
            StreamTerminated: the stream ended first.
            DuplicateTransaction: this transaction is running here already.

        Cancellation: like a timeout, the chaincode's open and later requests are answered with
        ERROR.
        Source: Handler.Execute, core/chaincode/handler.go (release-2.5).
        """
        is_init = message_type == Type.INIT
        context = self._contexts.open(params, is_init=is_init, limit_s=limit_s)
        key = context.key
        try:
            try:
                self._send(
                    ChaincodeMessage(
                        type=message_type,
                        payload=payload.encode(),
                        txid=key.tx_id,
                        channel_id=key.channel_id,
                        proposal=params.signed_proposal,
                    ).encode()
                )
            except StreamClosed as exc:
                context.settle(StreamTerminated(key, f"chaincode stream terminated: {exc}"))
            except MessageTooLarge as exc:
                context.settle(ExecuteError(key, str(exc)))
            outcome = await context.outcome()
        finally:
            self._contexts.close(context)
        if isinstance(outcome, ExecuteError):
            raise outcome
        return outcome

    def _on_message(self, data: bytes) -> None:
        try:
            message = ChaincodeMessage.decode(data)
        except DecodeError as exc:
            raise StreamRefused("INVALID_ARGUMENT", f"not a ChaincodeMessage: {exc}") from exc
        if self._trace is not None:
            self._trace(self.ccid, True, message)
        kind = message.type
        if self._state is not READY:
            self._handle_early(message)
        elif kind in INLINE or kind in self._long:
            self._handle_request(message)
        elif kind == Type.COMPLETED or kind == Type.ERROR:
            context = self._contexts.get(message.channel_id, message.txid)
            if context is not None:  # None is the normal fate of an answer after a timeout
                context.settle(message)
        elif kind != Type.KEEPALIVE:
            self._handle_unexpected(message)

    def _handle_early(self, message: ChaincodeMessage) -> None:
        if message.type == Type.REGISTER:
            self._handle_register(message)
        elif message.type != Type.KEEPALIVE:
            self._handle_unexpected(message)

    def _handle_register(self, message: ChaincodeMessage) -> None:
        """Let the chaincode in; REGISTERED and READY leave with nothing between them."""
        try:
            ccid = ChaincodeId.decode(message.payload).name
        except DecodeError as exc:
            raise StreamRefused("INVALID_ARGUMENT", f"REGISTER without ChaincodeID: {exc}") from exc
        if not ccid:
            raise StreamRefused(
                "INVALID_ARGUMENT",
                "error in handling register chaincode, chaincodeID name is empty",
            )
        try:
            self._gate.admit(ccid)
        except RegistrationRefused as exc:
            raise StreamRefused("PERMISSION_DENIED", exc.reason) from exc
        try:
            self._registry.register(self, ccid)
        except RegistrationRefused as exc:
            raise StreamRefused("ALREADY_EXISTS", exc.reason) from exc
        self.ccid = ccid
        self._send(ChaincodeMessage(type=Type.REGISTERED).encode())
        self._state = HandlerState.ESTABLISHED
        params = self._ready_params.encode()
        self._send(ChaincodeMessage(type=Type.READY, payload=params).encode())
        self._state = READY
        log.info("chaincode %s is ready", ccid)
        self._registry.ready(ccid)

    def _handle_unexpected(self, message: ChaincodeMessage) -> None:
        known = message.type in _TYPE_NAMES
        name = _TYPE_NAMES.get(message.type, str(message.type))
        text = (
            f"[{message.txid}] Fabric side handler cannot handle message ({name}) "
            f"while in {self._state.value} state"
        )
        if known or not message.txid or not self.is_ready:
            raise StreamRefused("FAILED_PRECONDITION", text)
        # A request of a later protocol fails its own transaction and leaves the others alone.
        self._refuse(message, text.encode())

    def _handle_request(self, message: ChaincodeMessage) -> None:
        """Answer at once what never waits, and give the rest a task of its transaction."""
        context = self._contexts.get(message.channel_id, message.txid)
        if context is None or context.is_ending:
            self._refuse(message, _failure(message, "no ledger context"))
            return
        context.received[message.type] += 1
        if context.busy:
            context.failed[message.type] += 1
            log.error("tx %s sent a request while another one is pending", message.txid)
            cause = "another request pending for this transaction"
            self._refuse(message, _failure(message, cause))
            return
        inline = INLINE.get(message.type)
        if inline is None:
            context.busy = True
            context.spawn(self._handle_in_task, context, message)
            return
        try:
            payload = inline(context, message.payload)
        except Exception as exc:
            context.failed[message.type] += 1
            self._refuse(message, _failure(message, exc))
        else:
            self._answer(context, message, payload)

    async def _handle_in_task(self, context: TransactionContext, message: ChaincodeMessage) -> None:
        """Answer in any case: cut off by the end of the execution, the library still waits."""
        began, is_answer = trio.current_time(), False
        payload = _failure(message, "no ledger context")
        try:
            payload = await self._long[message.type](context, message.payload)
            is_answer = True
        except Exception as exc:
            payload = _failure(message, exc)
        finally:
            # Before the answer: the chaincode's next request may follow within microseconds.
            context.busy = False
            context.failed[message.type] += not is_answer
            took_s = trio.current_time() - began
            kind = _TYPE_NAMES[message.type]
            self._meters.request_took(took_s, kind, message.channel_id, self.ccid, is_answer)
            with suppress(StreamClosed):  # the reader gets the same news
                if is_answer:
                    self._answer(context, message, payload)
                else:
                    self._refuse(message, payload)

    def _answer(
        self, context: TransactionContext, request: ChaincodeMessage, payload: bytes
    ) -> None:
        try:
            self._send(context.messages.encode(Type.RESPONSE, payload))
        except MessageTooLarge as exc:
            self._refuse(request, _failure(request, str(exc)))

    def _refuse(self, request: ChaincodeMessage, text: bytes) -> None:
        messages = TransactionMessages(request.channel_id, request.txid)
        self._send(messages.encode(Type.ERROR, text))

    def _send(self, data: bytes) -> None:
        if len(data) > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"the message has {len(data)} bytes, the limit is {MAX_MESSAGE_BYTES}"
            )
        if self._trace is not None:
            self._trace(self.ccid, False, ChaincodeMessage.decode(data))
        self._stream.send(data)

    def _count(self, context: TransactionContext) -> None:
        channel_id = context.params.channel_id
        for kind, count in context.received.items():
            failed = context.failed.get(kind, 0)
            self._meters.execution_ended(self.ccid, channel_id, _TYPE_NAMES[kind], count, failed)

    async def _send_keepalives(self) -> None:
        while True:
            await trio.sleep(self._keepalive_s)
            with suppress(StreamClosed):  # the reader gets the same news
                self._send(ChaincodeMessage(type=Type.KEEPALIVE).encode())


def _failure(message: ChaincodeMessage, cause: Exception | str) -> bytes:
    """Return the text of an ERROR; chaincodes show it to their clients."""
    if isinstance(cause, Exception) and not isinstance(cause, (PeerError, DecodeError)):
        log.error("request of tx %s failed", message.txid, exc_info=cause)
    name = _TYPE_NAMES[message.type]
    return f"{name} failed: transaction ID: {message.txid}: {cause}".encode()
