"""The chaincode's side of an in-process stream.

Room:      peer.scc   (imports peer.chaincode.stream, fabric_protos; used by the system
           chaincodes and assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/scc/scc.go `DeploySysCC`, the shim's `StartInProc` (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    Response,
)
from peer.chaincode.stream import MessageStream, StreamClosed
from peer.chaincode.support import SYSTEM_SUFFIX, Executions
from peer.chaincode.transactions import TransactionParams
from peer.errors import PeerError

log = logging.getLogger("peer.scc")
Type = ChaincodeMessageType


@dataclass(slots=True, kw_only=True)
class SystemCall:
    """One call of a system chaincode.

    Attributes:
        params: what it runs with; its simulator is the chaincode's state, without the wire.
        event: for the chaincode to set; nobody hears of it where the status is an error.
    """

    params: TransactionParams
    args: Sequence[bytes]
    event: ChaincodeEvent | None = None

    @property
    def channel_id(self) -> str:
        """The channel it was called on, empty if none."""
        return self.params.channel_id

    @property
    def tx_id(self) -> str:
        """The transaction's id."""
        return self.params.tx_id


class SystemChaincode(Protocol):
    """A chaincode that is part of the peer."""

    @property
    def name(self) -> str:
        """The name it is invoked under."""
        ...

    async def invoke(self, call: SystemCall) -> Response:
        """Answer one call. A `PeerError` becomes a response of status 500."""
        ...


async def serve(chaincode: SystemChaincode, stream: MessageStream, executions: Executions) -> None:
    """Register `chaincode` and answer its calls until the stream ends."""
    async with trio.open_nursery() as calls:

        def on_message(data: bytes) -> None:
            message = ChaincodeMessage.decode(data)
            if message.type in (Type.TRANSACTION, Type.INIT):
                params = executions(message.channel_id, message.txid)
                if params is not None:
                    calls.start_soon(_answer, chaincode, stream, message, params)

        name = ChaincodeId(name=chaincode.name + SYSTEM_SUFFIX)
        stream.send(ChaincodeMessage(type=Type.REGISTER, payload=name.encode()).encode())
        await stream.run(on_message)
        calls.cancel_scope.cancel()


async def _answer(
    chaincode: SystemChaincode,
    stream: MessageStream,
    message: ChaincodeMessage,
    params: TransactionParams,
) -> None:
    event = None
    try:
        call = SystemCall(params=params, args=ChaincodeInput.decode(message.payload).args)
        response = await chaincode.invoke(call)
        event = call.event
    except (PeerError, DecodeError) as exc:
        response = Response(status=500, message=str(exc))
    except Exception:
        log.exception("system chaincode %s failed", chaincode.name)
        response = Response(status=500, message="internal error")
    answer = ChaincodeMessage(
        type=Type.COMPLETED,
        payload=response.encode(),
        txid=message.txid,
        channel_id=message.channel_id,
        chaincode_event=event,
    )
    with suppress(StreamClosed):  # the peer is closing
        stream.send(answer.encode())
