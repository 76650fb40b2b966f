"""The least that can be a chaincode: grpclib and the generated messages, no chaincode library.

What the peer costs beside it is the peer's own; what the library costs is the difference.
"""

import asyncio
import os
import sys

from grpclib.client import Channel, StreamStreamMethod
from grpclib.encoding.base import CodecBase

from fabric_protos.stream import (
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    GetState,
    Response,
)

Type = ChaincodeMessageType


class Bytes(CodecBase):
    """Leaves messages as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: type[bytes]) -> bytes:
        return message

    def decode(self, data: bytes, message_type: type[bytes]) -> bytes:
        return data


async def serve(address: str) -> None:
    """Answer ``gets COUNT KEY`` and ``pid`` until the peer ends the stream."""
    left: dict[str, tuple[int, str]] = {}
    async with (
        Channel(path=address.removeprefix("unix://"), codec=Bytes()) as channel,
        StreamStreamMethod(
            channel, "/protos.ChaincodeSupport/Register", bytes, bytes
        ).open() as stream,
    ):
        name = ChaincodeId(name=os.environ["CORE_CHAINCODE_ID_NAME"])
        await stream.send_message(
            ChaincodeMessage(type=Type.REGISTER, payload=name.encode()).encode()
        )
        while (data := await stream.recv_message()) is not None:
            message = ChaincodeMessage.decode(data)
            if message.type == Type.TRANSACTION:
                args = [arg.decode() for arg in ChaincodeInput.decode(message.payload).args]
                left[message.txid] = (int(args[1]), args[2]) if args[0] == "gets" else (0, "")
            elif message.type == Type.RESPONSE:
                count, key = left[message.txid]
                left[message.txid] = (count - 1, key)
            else:
                continue
            count, key = left[message.txid]
            if count:
                kind, payload = Type.GET_STATE, GetState(key=key).encode()
            else:
                del left[message.txid]
                response = Response(status=200, payload=str(os.getpid()).encode())
                kind, payload = Type.COMPLETED, response.encode()
            answer = ChaincodeMessage(
                type=kind, payload=payload, txid=message.txid, channel_id=message.channel_id
            )
            await stream.send_message(answer.encode())


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[2]))
