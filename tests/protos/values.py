"""Random messages of google's protobuf, and both sides' messages as comparable trees.

Room:      tests.protos   (imports tests.protos.schema, hypothesis)
Loop:      none
Lifetime:  none
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from tests.protos.schema import TIMESTAMP, is_map, python_name

F = FieldDescriptor
DEPTH = 2
I32 = st.integers(-(1 << 31), (1 << 31) - 1)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    F.TYPE_BOOL: st.booleans(),
    F.TYPE_BYTES: st.binary(max_size=8) | st.sampled_from([b"\x80" * 127, b"x" * 128]),
    F.TYPE_DOUBLE: st.floats(),
    F.TYPE_ENUM: st.integers(0, 30) | I32,
    F.TYPE_FIXED32: U32,
    F.TYPE_FIXED64: U64,
    F.TYPE_FLOAT: st.floats(width=32),
    F.TYPE_INT32: I32,
    F.TYPE_INT64: I64,
    F.TYPE_SFIXED32: I32,
    F.TYPE_SFIXED64: I64,
    F.TYPE_SINT32: I32,
    F.TYPE_SINT64: I64,
    F.TYPE_STRING: st.text(max_size=5) | st.sampled_from(["é" * 64, "z" * 127]),
    F.TYPE_UINT32: U32,
    F.TYPE_UINT64: U64,
}
TIMES = st.fixed_dictionaries(
    {},
    optional={
        "seconds": st.integers(-62_135_596_800, 253_402_300_799),
        "nanos": st.integers(0, 999_999).map(lambda micros: micros * 1000),
    },
)
"""Timestamps a `datetime` can hold without loss."""


@cache
def contents(descriptor: Descriptor, depth: int = DEPTH) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for some of a message's fields by name, nested *depth* levels at most."""
    if descriptor.full_name == TIMESTAMP and depth < DEPTH:
        return TIMES
    return st.fixed_dictionaries(
        {},
        optional={
            field.name: _field(field, depth)
            for field in descriptor.fields
            if depth or not field.message_type
        },
    )


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if is_map(field):
        key, value = (
            _one(field.message_type.fields_by_name[name], depth) for name in ("key", "value")
        )
        return st.dictionaries(key, value, max_size=2)
    one = _one(field, depth)
    return st.lists(one, max_size=2) if field.is_repeated else one


def _one(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type:
        return contents(field.message_type, depth - 1)
    return SCALARS[field.type]


@cache
def has_map(descriptor: Descriptor) -> bool:
    """Tell whether a message of this type may hold a map, itself or in a sub-message."""
    seen, waiting = {descriptor.full_name}, [descriptor]
    while waiting:
        for field in waiting.pop().fields:
            if is_map(field):
                return True
            if field.message_type and field.message_type.full_name not in seen:
                seen.add(field.message_type.full_name)
                waiting.append(field.message_type)
    return False


def fill(message: Any, content: dict[str, Any]) -> Any:
    """Set the fields of one of google's messages; the last member of a oneof wins."""
    for name, value in content.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        target = getattr(message, name)
        if is_map(field):
            for key, item in value.items():
                if field.message_type.fields_by_name["value"].message_type:
                    fill(target[key], item)
                else:
                    target[key] = item
        elif field.message_type and field.is_repeated:
            for item in value:
                fill(target.add(), item)
        elif field.message_type:
            target.SetInParent()
            fill(target, value)
        elif field.is_repeated:
            target.extend(value)
        else:
            setattr(message, name, value)
    return message


def google_tree(message: Any, *, micros: bool) -> dict[str, Any]:
    """Return a message of google's by our field names.

    Args:
        micros: a timestamp is cut to microseconds, as a `datetime` does.
    """
    tree: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if is_map(field):
            kind = field.message_type.fields_by_name["value"]
            shown: Any = {key: _google_one(kind, value[key], micros) for key in value}
        elif field.is_repeated:
            shown = [_google_one(field, item, micros) for item in value]
        elif field.has_presence and not message.HasField(field.name):
            shown = None
        else:
            shown = _google_one(field, value, micros)
        tree[python_name(field)] = shown
    return tree


def _google_one(field: FieldDescriptor, value: Any, micros: bool) -> Any:
    if not field.message_type:
        return _scalar(value)
    if field.message_type.full_name == TIMESTAMP and micros:
        return _time(value.seconds, value.nanos // 1000)
    return google_tree(value, micros=micros)


def our_tree(message: Any, descriptor: Descriptor) -> dict[str, Any]:
    """Return a message of ours in the form of `google_tree`."""
    tree: dict[str, Any] = {}
    for field in descriptor.fields:
        value = getattr(message, python_name(field))
        if is_map(field):
            kind = field.message_type.fields_by_name["value"]
            value = {key: _our_one(kind, item) for key, item in value.items()}
        elif field.is_repeated:
            value = [_our_one(field, item) for item in value]
        elif value is not None:
            value = _our_one(field, value)
        tree[python_name(field)] = value
    return tree


def _our_one(field: FieldDescriptor, value: Any) -> Any:
    if not field.message_type:
        return _scalar(value)
    if isinstance(value, datetime):
        since = value - datetime(1970, 1, 1, tzinfo=UTC)
        return _time(*divmod(since // timedelta(microseconds=1), 1_000_000))
    return our_tree(value, field.message_type)


def _time(seconds: int, micros: int) -> tuple[str, int, int]:
    return "time", seconds, micros


def _scalar(value: Any) -> Any:
    """Make -0.0 differ from 0.0, and True from 1; let NaN equal itself."""
    return repr(value) if isinstance(value, float | bool) else value
