"""Records of a query, cut out: the same as the readers of their messages give."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabric_protos import records, wire
from fabric_protos.errors import DecodeError
from fabric_protos.records import cut_results, key_and_value
from fabric_protos.stream import Kv, QueryResponse, QueryResultBytes

T = TypeVar("T")

KV = st.builds(Kv, namespace=st.text(), key=st.text(), value=st.binary()) | st.builds(
    lambda size: Kv(namespace="n" * size, key="k" * size, value=b"v" * size),
    st.sampled_from([1, 127, 128, 300, 20_000]),
)
RESULTS = st.lists(st.builds(QueryResultBytes, result_bytes=st.binary(max_size=200)), max_size=8)
RESPONSES = st.builds(
    QueryResponse, results=RESULTS, has_more=st.booleans(), id=st.text(), metadata=st.binary()
)


def marshalled(
    messages: st.SearchStrategy[Kv] | st.SearchStrategy[QueryResponse],
) -> st.SearchStrategy[bytes]:
    """What peers write, and what has been damaged on the way."""
    whole = messages.map(lambda message: message.encode())
    places = st.floats(0, 1, exclude_max=True)
    return (
        whole
        | st.builds(lambda data, at: data[: int(at * len(data))], whole, places)
        | st.builds(_changed, whole, places, st.integers(0, 255))
        | st.builds(bytes.__add__, whole, whole)
        | st.binary(max_size=20)
    )


def _changed(data: bytes, place: float, byte: int) -> bytes:
    at = int(place * len(data))
    return data[:at] + bytes([byte]) + data[at + 1 :]


def outcome(read: Callable[[bytes], T], data: bytes) -> T | str:
    try:
        return read(data)
    except DecodeError as exc:
        return type(exc).__name__


def read_kv(data: bytes) -> tuple[str, bytes]:
    record = Kv.decode(data)
    return record.key, record.value


def read_results(data: bytes) -> tuple[list[bytes], bool, str, bytes]:
    response = QueryResponse.decode(data)
    found = [each.result_bytes for each in response.results]
    return found, response.has_more, response.id, response.metadata


def cut(data: bytes) -> tuple[list[bytes], bool, str, bytes]:
    found, response = cut_results(data)
    return found, response.has_more, response.id, response.metadata


@given(marshalled(KV))
@example(b"\x0a\x01\xff\x12\x01k\x1a\x01v")
@example(b"\x0a\x01n\x12\x01\xff\x1a\x01v")
@example(b"\x0a\x01n\x12\x01k\x1a\x00")
def test_keys_and_values(data: bytes) -> None:
    assert outcome(key_and_value, data) == outcome(read_kv, data)


@given(marshalled(RESPONSES))
@example(b"\x0a\x04\x0a\x02rr\x0a\x00\x0a\x05\x0a\x01r\x10\x01\x10\x01")
def test_results(data: bytes) -> None:
    assert outcome(cut, data) == outcome(read_results, data)


def test_too_many_results(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (records, wire):
        monkeypatch.setattr(module, "MAX_FIELDS", 100)
    assert outcome(cut, b"\x0a\x02\x0a\x00" * 51) == "DecodeError"
