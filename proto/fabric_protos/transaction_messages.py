"""The messages of one transaction: of its `ChaincodeMessage`s, only type and payload differ.

Room:      fabric_protos   (imports stream, wire; used by peer.chaincode and shim)
Loop:      none
Lifetime:  transaction
Fabric:    none
"""

from __future__ import annotations

from .stream import ChaincodeMessage
from .wire import ONE_BYTE, varint_bytes


class TransactionMessages:
    """Writes what `ChaincodeMessage.encode` would, in one step.

    Args:
        channel_id, txid: of the transaction.

    Raises:
        EncodeError: they are no strings of UTF-8.
    """

    __slots__ = ("_end",)

    def __init__(self, channel_id: str, txid: str) -> None:
        self._end = ChaincodeMessage(txid=txid, channel_id=channel_id).encode()

    def encode(self, kind: int, payload: bytes) -> bytes:
        """Return a message without timestamp, proposal and event.

        Args:
            kind: a `ChaincodeMessageType`.
        """
        size = len(payload)
        if not size:
            return _TYPE + ONE_BYTE[kind] + self._end
        length = ONE_BYTE[size] if size < 0x80 else varint_bytes(size)
        return b"".join((_TYPE, ONE_BYTE[kind], _PAYLOAD, length, payload, self._end))


_TYPE, _PAYLOAD = b"\x08", b"\x1a"
