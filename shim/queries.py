"""The opening requests of iterators and pages.

Room:      shim   (imports fabric_protos.stream; loaded by the first query)
Loop:      none
Lifetime:  transaction
Fabric:    shim/stub.go (fabric-chaincode-go)
"""

from __future__ import annotations

from collections.abc import Iterable

from fabric_protos.stream import (
    ChaincodeMessageType,
    GetHistoryForKey,
    GetQueryResult,
    GetStateByRange,
)

from .keys import MAX_RUNE, NAMESPACE, partial_key_range, simple_key_range
from .requests import Request


def key_range(start: str, end: str, collection: str = "", metadata: bytes = b"") -> Request:
    """Ask for simple keys from *start* up to, not including, *end*."""
    return _range(*simple_key_range(start, end), collection, metadata)


def partial_key(
    object_type: str, attributes: Iterable[str], collection: str = "", metadata: bytes = b""
) -> Request:
    """Ask for the composite keys that begin with these parts."""
    return _range(*partial_key_range(object_type, attributes), collection, metadata)


def all_composite_keys(metadata: bytes) -> Request:
    """Ask for every composite key."""
    return _range(NAMESPACE, NAMESPACE + MAX_RUNE, "", metadata)


def rich_query(query: str, collection: str = "", metadata: bytes = b"") -> Request:
    """Ask in the state database's own language."""
    payload = GetQueryResult(query=query, collection=collection, metadata=metadata).encode()
    return ChaincodeMessageType.GET_QUERY_RESULT, payload


def history(key: str) -> Request:
    """Ask for every version of a key."""
    return ChaincodeMessageType.GET_HISTORY_FOR_KEY, GetHistoryForKey(key=key).encode()


def _range(start: str, end: str, collection: str, metadata: bytes) -> Request:
    payload = GetStateByRange(
        start_key=start, end_key=end, collection=collection, metadata=metadata
    ).encode()
    return ChaincodeMessageType.GET_STATE_BY_RANGE, payload
