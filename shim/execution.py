"""Run a chaincode's function and turn whatever comes out of it into the final message.

Room:      shim   (imports fabric_protos.stream; used by handler)
Loop:      asyncio for `execute`, a worker thread for `execute_sync`
Lifetime:  transaction
Fabric:    `handleTransaction` and `handleInit`, shim/handler.go (fabric-chaincode-go)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from inspect import iscoroutine
from typing import Any

from fabric_protos.stream import ChaincodeMessageType
from fabric_protos.stream import Response as ResponseMessage

from .errors import ChaincodeError, PeerError, ShimError
from .requests import Operation
from .response import ERROR, Response, success
from .stub import ChaincodeStub
from .transaction import AsyncTransaction, SyncTransaction, Transaction

Function = Callable[[Any], Any]

log = logging.getLogger("shim")

LONGEST_TEXT = 1000


async def execute(transaction: AsyncTransaction, function: Function) -> bytes:
    """Run a coroutine function; return COMPLETED or ERROR, marshalled.

    Cancellation: passed on when the stream is over; else it is the function's own failure.
    """
    refusal = ""
    try:
        response = as_response(await function(ChaincodeStub(transaction)))
        refusal = await transaction.run(_last_writes(transaction, response))
    except Exception as exc:
        response = _failure(transaction, exc)
    except asyncio.CancelledError:
        if transaction.over:
            raise
        response = Response(ERROR, "the chaincode cancelled its transaction")
    await transaction.end()
    return final_message(transaction, response, refusal)


def execute_sync(transaction: SyncTransaction, function: Function) -> bytes:
    """Run a plain function in this thread; return COMPLETED or ERROR, marshalled."""
    from .sync_stub import SyncChaincodeStub

    refusal = ""
    try:
        response = as_response(function(SyncChaincodeStub(transaction)))
        refusal = transaction.run(_last_writes(transaction, response))
    except (Exception, SystemExit) as exc:
        response = _failure(transaction, exc)
    transaction.end()
    return final_message(transaction, response, refusal)


def as_response(result: Any) -> Response:
    """Read what a function returned.

    Raises:
        TypeError: it is no response.
    """
    if isinstance(result, Response):
        if not result.status:
            raise TypeError("the chaincode has not called success or error: its status is 0")
        return result
    if isinstance(result, bytes | str):
        return success(result)
    if result is None:
        return success()
    if iscoroutine(result):
        result.close()
        raise TypeError("a plain function returned a coroutine; write it as async def")
    raise TypeError(
        f"the chaincode has not called success or error: it returned {type(result).__name__}"
    )


def final_message(transaction: Transaction, response: Response, refusal: str = "") -> bytes:
    """Marshal the answer: COMPLETED, or ERROR where an initialisation or the last writes failed.

    A response that cannot be sent becomes an error response.
    """
    if not refusal and _is_refused_init(transaction, response):
        refusal = response.message
    try:
        if refusal:
            text = refusal.encode(errors="replace")
            return transaction.encode(ChaincodeMessageType.ERROR, text, transaction.event)
        return _completed(transaction, response)
    except ValueError as exc:
        log.error("%s: the response cannot be sent: %s", transaction, exc)
        transaction.event = None
        return _completed(transaction, Response(ERROR, f"the response cannot be sent: {exc}"))


def _completed(transaction: Transaction, response: Response) -> bytes:
    payload = ResponseMessage(
        status=response.status, message=response.message, payload=response.payload
    ).encode()
    return transaction.encode(ChaincodeMessageType.COMPLETED, payload, transaction.event)


def _is_refused_init(transaction: Transaction, response: Response) -> bool:
    return transaction.message_type == ChaincodeMessageType.INIT and response.status >= ERROR


def _last_writes(transaction: Transaction, response: Response) -> Operation[str]:
    """Send the batch that was left open and return the refusal, if any; a failed initialisation
    writes nothing."""
    if not _is_refused_init(transaction, response):
        try:
            yield from transaction.writes.finish_batch()
        except PeerError as exc:
            return f"failed send batch: {exc.text}"
    return ""


def _failure(transaction: Transaction, exc: BaseException) -> Response:
    if isinstance(exc, ChaincodeError):
        log.info("%s: refused with status %s", transaction, exc.status)
        return Response(exc.status, exc.message, exc.payload)
    log.error("%s: %s", transaction, type(exc).__name__, exc_info=exc)
    text = str(exc) if isinstance(exc, ShimError) else f"{type(exc).__name__}: {exc}"
    return Response(ERROR, text[:LONGEST_TEXT])
