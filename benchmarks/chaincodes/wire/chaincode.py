"""A chaincode that follows a script: frames by hand, requests made once for a transaction.

So the peer is what takes the time, and what a chaincode library costs is the difference. It sends
its window once and asks for no credit: with one request of a transaction out, it never has more
than some kilobytes on the way.
"""

import os
import socket
import sys

from fabric_protos.stream import (
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    GetState,
    Response,
)

Type = ChaincodeMessageType

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_HEADERS, ACK = 4, 1
FRAME_HEADER, PREFIX = 9, 5
WINDOW = 2**31 - 1
TXID = b'"@'
"""Tag and length of a transaction's id; no value that the script reads has these bytes."""
TXID_BYTES = 64


class Script:
    """Answers ``gets COUNT KEY`` and ``pid``."""

    def __init__(self) -> None:
        self._left: dict[bytes, int] = {}
        self._requests: dict[bytes, bytes] = {}

    def answer(self, message: bytes) -> bytes:
        """Return what to send after a message: a DATA frame, or nothing."""
        if message[1] != Type.RESPONSE:
            return self._begin(ChaincodeMessage.decode(message))
        start = message.index(TXID) + len(TXID)
        tx_id = message[start : start + TXID_BYTES]
        if left := self._left[tx_id]:
            self._left[tx_id] = left - 1
            return self._requests[tx_id]
        del self._left[tx_id], self._requests[tx_id]
        return completed(ChaincodeMessage.decode(message), b"")

    def _begin(self, message: ChaincodeMessage) -> bytes:
        if message.type != Type.TRANSACTION:
            return b""
        name, *args = (arg.decode() for arg in ChaincodeInput.decode(message.payload).args)
        if name != "gets":
            return completed(message, str(os.getpid()).encode())
        tx_id, payload = message.txid.encode(), GetState(key=args[1]).encode()
        self._left[tx_id] = int(args[0]) - 1
        self._requests[tx_id] = sent(message, Type.GET_STATE, payload)
        return self._requests[tx_id]


def completed(message: ChaincodeMessage, payload: bytes) -> bytes:
    return sent(message, Type.COMPLETED, Response(status=200, payload=payload).encode())


def sent(message: ChaincodeMessage, kind: ChaincodeMessageType, payload: bytes) -> bytes:
    """Return a message of the same transaction in a DATA frame."""
    return data_frame(
        ChaincodeMessage(
            type=kind, payload=payload, txid=message.txid, channel_id=message.channel_id
        )
    )


def data_frame(message: ChaincodeMessage) -> bytes:
    data = message.encode()
    return frame(DATA, 1, b"\0" + len(data).to_bytes(4, "big") + data)


def frame(kind: int, stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big")
    return head + payload


def literal(name: str, value: str) -> bytes:
    """Return a header that is in no table."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


def hello() -> bytes:
    """Return the beginning of a connection, its one call, and REGISTER."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/protos.ChaincodeSupport/Register",
        ":authority": "peer",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    name = ChaincodeId(name=os.environ["CORE_CHAINCODE_ID_NAME"])
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(SETTINGS, 0, b"\0\4" + WINDOW.to_bytes(4, "big")),
            frame(WINDOW_UPDATE, 0, (WINDOW - 65535).to_bytes(4, "big")),
            frame(HEADERS, 1, b"".join(map(literal, headers, headers.values())), END_HEADERS),
            data_frame(ChaincodeMessage(type=Type.REGISTER, payload=name.encode())),
        )
    )


def serve(sock: socket.socket) -> None:
    """Follow the script until the peer ends the stream."""
    script, buffer, body = Script(), b"", b""
    sock.sendall(hello())
    while received := sock.recv(1 << 18):
        buffer += received
        answers = []
        at, end = 0, len(buffer)
        while end - at >= FRAME_HEADER:
            start = at + FRAME_HEADER
            stop = start + int.from_bytes(buffer[at : at + 3], "big")
            if stop > end:
                break
            kind, flags, payload = buffer[at + 3], buffer[at + 4], buffer[start:stop]
            at = stop
            if kind == DATA:
                body += payload
                while len(body) >= PREFIX:
                    stop = PREFIX + int.from_bytes(body[1:PREFIX], "big")
                    if stop > len(body):
                        break
                    message, body = body[PREFIX:stop], body[stop:]
                    answers.append(script.answer(message))
            elif kind in (SETTINGS, PING) and not flags & ACK:
                answers.append(frame(kind, 0, payload if kind == PING else b"", ACK))
            elif kind in (RST_STREAM, GOAWAY):
                return
        buffer = buffer[at:]
        sock.sendall(b"".join(answers))


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[2].removeprefix("unix://"))
        serve(connection)
