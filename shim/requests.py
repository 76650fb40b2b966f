"""Everything a transaction can ask of the peer, without any I/O.

Room:      shim   (imports fabric_protos)
Loop:      none: each operation is a generator that yields requests and is sent the answers
Lifetime:  transaction
Fabric:    shim/stub.go and shim/handler.go (fabric-chaincode-go)

An `Operation` yields ``(message type, payload)`` and receives the payload of the answer; a refusal
is thrown in as `PeerError`. So the rules are written once, and the blocking and the asynchronous
stub only differ in who drives the generator. What cannot be sent, such as a key with a lone
surrogate, raises `EncodeError`, a `ValueError` that names the field.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    ChaincodeSpec,
    DelState,
    GetState,
    GetStateMetadata,
    GetStateMultiple,
    GetStateMultipleResult,
    PutState,
    PutStateMetadata,
    StateMetadata,
    StateMetadataResult,
)
from fabric_protos.stream import Response as ResponseMessage
from fabric_protos.wire import delimited, delimited_two, utf8, varint_bytes

from .errors import PeerError
from .response import ERROR, Response

T = TypeVar("T")
Request = tuple[int, bytes]
Operation = Generator[Request, bytes, T]

VALIDATION_PARAMETER = "VALIDATION_PARAMETER"
"""Metadata key of key-level endorsement policies."""


class Limits:
    """What READY said the peer can do; 0 stands for not at all.

    Attributes:
        batch_size: most records of one write batch.
        keys_size: most keys of one multiple read.
    """

    __slots__ = ("batch_size", "keys_size")

    def __init__(self, batch_size: int = 0, keys_size: int = 0) -> None:
        self.batch_size = batch_size
        self.keys_size = keys_size


def as_bytes(value: bytes | bytearray | memoryview | str) -> bytes:
    """Encode text as UTF-8, pass bytes through.

    Raises:
        TypeError: neither; a number must not become that many zero bytes.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"expected bytes or text, not {type(value).__name__}")


def need_collection(collection: str) -> None:
    """Refuse the empty name, which on the wire means public state."""
    if not collection:
        raise ValueError("collection must not be an empty string")


def get_state(key: str, collection: str = "") -> Operation[bytes | None]:
    """Read one value; None when there is none."""
    payload = GetState(key=key, collection=collection).encode()
    return (yield ChaincodeMessageType.GET_STATE, payload) or None


def get_hash(key: str, collection: str) -> Operation[bytes | None]:
    """Read the SHA-256 of a private value."""
    payload = GetState(key=key, collection=collection).encode()
    return (yield ChaincodeMessageType.GET_PRIVATE_DATA_HASH, payload) or None


def get_multiple(
    keys: Sequence[str], limits: Limits, collection: str = ""
) -> Operation[list[bytes | None]]:
    """Read many values, in the order of their keys."""
    values: list[bytes | None] = []
    if not limits.keys_size:
        for key in keys:
            value = yield from get_state(key, collection)
            values.append(value)
        return values
    for start in range(0, len(keys), limits.keys_size):
        chunk = list(keys[start : start + limits.keys_size])
        payload = GetStateMultiple(keys=chunk, collection=collection).encode()
        answer = yield ChaincodeMessageType.GET_STATE_MULTIPLE, payload
        found = GetStateMultipleResult.decode(answer).values
        if len(found) != len(chunk):
            raise PeerError(f"the peer answered {len(found)} values for {len(chunk)} keys")
        values.extend(value or None for value in found)
    return values


def get_validation_parameter(key: str, collection: str = "") -> Operation[bytes | None]:
    """Read the endorsement policy of a key."""
    payload = GetStateMetadata(key=key, collection=collection).encode()
    answer = yield ChaincodeMessageType.GET_STATE_METADATA, payload
    for entry in StateMetadataResult.decode(answer).entries:
        if entry.metakey == VALIDATION_PARAMETER:
            return entry.value or None
    return None


def invoke_chaincode(
    name: str, args: Iterable[bytes | str], channel: str = ""
) -> Operation[Response]:
    """Call another chaincode; every failure of the callee is a response."""
    spec = ChaincodeSpec(
        chaincode_id=ChaincodeId(name=f"{name}/{channel}" if channel else name),
        input=ChaincodeInput(args=[as_bytes(arg) for arg in args]),
    )
    payload = spec.encode()
    try:
        answer = yield ChaincodeMessageType.INVOKE_CHAINCODE, payload
        message = ChaincodeMessage.decode(answer)
        if message.type == ChaincodeMessageType.COMPLETED:
            response = ResponseMessage.decode(message.payload)
            return Response(response.status, response.message, response.payload)
        text = message.payload.decode(errors="replace")
    except PeerError as exc:
        text = exc.text
    except DecodeError as exc:
        text = f"the answer of {name} cannot be read: {exc}"
    return Response(ERROR, text, text)


def ask(request: Request) -> Operation[bytes]:
    """Send one request and return its answer."""
    return (yield request)


class Writes:
    """The writes of one transaction: sent at once, or collected while a batch is open.

    Each write returns the request to send, or None when it was collected. Within a batch the last
    write per key wins; the policy of a key is a slot of its own. Records keep the order of their
    first write, so every endorser sends the same bytes.
    """

    __slots__ = ("_limits", "_records")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._records: dict[tuple[str, str, bool], bytes] | None = None

    def put(self, key: str, value: bytes, collection: str = "") -> Request | None:
        """Set a value; an empty one deletes the key."""
        if not key:
            raise ValueError("key must not be an empty string")
        kind = ChaincodeMessageType.PUT_STATE
        if self._records is not None:
            self._collect(kind, key, collection, value)
            return None
        return kind, PutState(key=key, value=value, collection=collection).encode()

    def delete(self, key: str, collection: str = "") -> Request | None:
        """Delete a key."""
        return self._delete(ChaincodeMessageType.DEL_STATE, key, collection)

    def purge(self, key: str, collection: str) -> Request | None:
        """Delete a private key and its history of values."""
        return self._delete(ChaincodeMessageType.PURGE_PRIVATE_DATA, key, collection)

    def set_validation_parameter(
        self, key: str, policy: bytes, collection: str = ""
    ) -> Request | None:
        """Set the endorsement policy of a key."""
        metadata = StateMetadata(metakey=VALIDATION_PARAMETER, value=policy)
        kind = ChaincodeMessageType.PUT_STATE_METADATA
        if self._records is not None:
            self._collect(kind, key, collection, metadata=metadata.encode())
            return None
        return kind, PutStateMetadata(key=key, collection=collection, metadata=metadata).encode()

    def start_batch(self) -> bool:
        """Collect writes from now on; False when the peer offers none or one is open already."""
        if not self._limits.batch_size or self._records is not None:
            return False
        self._records = {}
        return True

    def finish_batch(self) -> Operation[None]:
        """Send what was collected and go back to writing at once."""
        records, self._records = list((self._records or {}).values()), None
        size = self._limits.batch_size
        for start in range(0, len(records), size or 1):
            payload = b"".join(records[start : start + size])
            yield ChaincodeMessageType.WRITE_BATCH_STATE, payload

    def _delete(self, kind: int, key: str, collection: str) -> Request | None:
        if self._records is not None:
            self._collect(kind, key, collection)
            return None
        return kind, DelState(key=key, collection=collection).encode()

    def _collect(
        self, kind: int, key: str, collection: str, value: bytes = b"", metadata: bytes = b""
    ) -> None:
        """Keep a ``WriteRecord`` as ``WriteBatchState`` has it; many objects would cost more."""
        assert self._records is not None
        raw = utf8(key, "WriteRecord.key")
        record = delimited_two(b"\x0a", raw, b"\x12", value)
        if collection:
            record += delimited(b"\x1a", utf8(collection, "WriteRecord.collection"))
        if metadata:
            record += delimited(b"\x22", metadata)
        record += b"\x28" + varint_bytes(kind)
        self._records[collection, key, bool(metadata)] = delimited(b"\x0a", record)
