"""The chaincode's side of an in-process stream.

Room:      peer.scc   (imports peer.chaincode.stream, fabric_protos; used by app)
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
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    Response,
)
from peer.chaincode.stream import MessageStream, StreamClosed
from peer.chaincode.support import SYSTEM_SUFFIX
from peer.errors import PeerError

log = logging.getLogger("peer.scc")
Type = ChaincodeMessageType


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemCall:
    """One call of a system chaincode."""

    channel_id: str
    tx_id: str
    args: Sequence[bytes]


class SystemChaincode(Protocol):
    """A chaincode that is part of the peer."""

    @property
    def name(self) -> str:
        """The name it is invoked under."""
        ...

    async def invoke(self, call: SystemCall) -> Response:
        """Answer one call. A `PeerError` becomes a response of status 500."""
        ...


async def serve(chaincode: SystemChaincode, stream: MessageStream) -> None:
    """Register `chaincode` and answer its calls until the stream ends."""
    async with trio.open_nursery() as calls:

        def on_message(data: bytes) -> None:
            message = ChaincodeMessage.decode(data)
            if message.type in (Type.TRANSACTION, Type.INIT):
                calls.start_soon(_answer, chaincode, stream, message)

        name = ChaincodeId(name=chaincode.name + SYSTEM_SUFFIX)
        stream.send(ChaincodeMessage(type=Type.REGISTER, payload=name.encode()).encode())
        await stream.run(on_message)
        calls.cancel_scope.cancel()


async def _answer(
    chaincode: SystemChaincode, stream: MessageStream, message: ChaincodeMessage
) -> None:
    try:
        payload = ChaincodeInput.decode(message.payload)
        call = SystemCall(channel_id=message.channel_id, tx_id=message.txid, args=payload.args)
        response = await chaincode.invoke(call)
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
    )
    with suppress(StreamClosed):  # the peer is closing
        stream.send(answer.encode())
