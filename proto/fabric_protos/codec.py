"""A strict, fast codec for the betterproto2 messages of this package.

Room:      fabric_protos   (imports betterproto2, fabric_protos.source and fabric_protos.stream)
Loop:      none; safe to use from several threads
Lifetime:  the process: what a class needs is compiled at its first use and kept

betterproto2's own ``parse`` and ``bytes()`` accept truncated input, take any wire type for any
field and replace repeated sub-messages; this codec refuses, or merges, as the protobuf
specification asks. The readers and writers are Python functions, one of each per class, compiled
from the text that `fabric_protos.source` makes of the class's metadata.

Encoding is canonical: fields in ascending order, map entries by key, defaults left out. Unknown
fields are kept and written back behind the known ones, except those inside a timestamp:
betterproto2 holds timestamps as `datetime`, which also cuts nanoseconds to microseconds.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Lock
from typing import Any, TypeVar, get_args

import betterproto2

from . import source, wire
from .errors import DecodeError as DecodeError
from .errors import EncodeError as EncodeError
from .stream import Timestamp

M = TypeVar("M", bound=betterproto2.Message)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decode(cls: type[M], data: bytes) -> M:
    """Read one message.

    Raises:
        DecodeError: *data* is no *cls*: cut short, a known field of a wrong wire type, a group, an
            impossible field number or varint, a string that is not UTF-8, a timestamp `datetime`
            cannot hold, more than `wire.MAX_DEPTH` levels of nesting, or than `wire.MAX_FIELDS`
            fields.
    """
    codec = _codecs.get(cls) or _compiled(cls)
    size = len(data)
    if size > wire.MAX_FIELDS:
        wire.count_fields(data, codec[2])
    message: M = codec[0](data, 0, size, wire.MAX_DEPTH)
    return message


def encode(message: betterproto2.Message) -> bytes:
    """Write one message.

    Raises:
        EncodeError: a field holds a wrong type, a number out of range, a lone surrogate or a
            `datetime` without time zone; or the message is nested deeper than Python's stack.
    """
    codec = _codecs.get(type(message)) or _compiled(type(message))
    try:
        return codec[1](message)
    except RecursionError:
        raise EncodeError(f"{type(message).__name__} is nested too deep") from None


def _float_reader(layout: str) -> Callable[[bytes], float]:
    unpack = struct.Struct(layout).unpack

    def read_float(data: bytes) -> float:
        try:
            value: float = unpack(data)[0]
        except struct.error:
            raise DecodeError("a floating-point number is cut short") from None
        return value

    return read_float


def _float_bytes(layout: str) -> Callable[[float, str], bytes]:
    def float_bytes(value: float, field: str) -> bytes:
        if isinstance(value, bool) or not isinstance(value, float | int):
            raise EncodeError(f"{field} takes float, not {type(value).__name__}")
        try:
            return struct.pack(layout, float(value))
        except OverflowError:
            raise EncodeError(f"{field} is too large for its type") from None

    return float_bytes


def _is_negative_zero(value: object) -> bool:
    """Tell -0.0, which protobuf writes, from 0.0, which it leaves out."""
    return isinstance(value, float) and math.copysign(1.0, value) < 0


def _read_datetime(
    data: bytes, pos: int, end: int, depth: int, m: datetime | None = None
) -> datetime:
    """Read a timestamp, into the one before where the field occurs twice."""
    earlier = None if m is None else _timestamp(m)
    stamp = Timestamp._read(data, pos, end, depth, earlier)
    if 0 <= stamp.nanos < 1_000_000_000:
        try:
            return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
        except OverflowError:
            pass
    raise DecodeError(f"a timestamp is out of range: {stamp.seconds} s and {stamp.nanos} ns")


def _datetime_bytes(value: datetime, field: str) -> bytes:
    if value.utcoffset() is None:
        raise EncodeError(f"{field} has no time zone")
    return _timestamp(value).encode()


def _timestamp(value: datetime) -> Timestamp:
    since = value - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


class _Members(dict[int, Any]):
    """The members of an enum by number; an unknown number makes a nameless member."""

    def __init__(self, enum: type[betterproto2.Enum]) -> None:
        super().__init__((member.value, member) for member in enum)
        self._enum = enum

    def __missing__(self, number: int) -> Any:
        return self._enum(number)


_Codec = tuple[Callable[..., Any], Callable[[Any], bytes], "wire.Nested"]

_codecs: dict[type, _Codec] = {}
_names: dict[type, str] = {}
_compiling = Lock()
_globals: dict[str, Any] = {name: value for name, value in vars(wire).items() if name[0] != "_"} | {
    "datetime": datetime,
    "datetime_bytes": _datetime_bytes,
    "float32": _float_bytes("<f"),
    "float64": _float_bytes("<d"),
    "is_negative_zero": _is_negative_zero,
    "read_datetime": _read_datetime,
    "read_float32": _float_reader("<f"),
    "read_float64": _float_reader("<d"),
}
"""What the compiled functions see: one namespace for all, as classes refer to each other."""


def _compiled(cls: type[betterproto2.Message]) -> _Codec:
    """Compile the codec of *cls* and of all messages it refers to."""
    with _compiling:
        done: dict[type, _Codec] = {}
        waiting = [cls]
        while waiting:
            wanted = waiting.pop()
            if wanted not in _codecs and wanted not in done:
                done[wanted] = _compile(wanted, waiting)
        _codecs.update(done)
    return _codecs[cls]


def _compile(cls: type[betterproto2.Message], referred: list[type[betterproto2.Message]]) -> _Codec:
    """Compile the codec of one class; append the messages it refers to to *referred*."""
    name = _name(cls)
    metas = _metadata(cls)
    fields = tuple(
        _field(cls, field, metas, referred)
        for field in sorted(metas, key=lambda field: metas[field].number)
    )
    message = source.Message(name=cls.__name__, cls=name, fields=fields, keeps_unknown=True)
    _define(f"read_{name}(data, pos, end, depth, m=None)", source.reader(message))
    _define(f"write_{name}(self)", source.writer(message))
    for field in fields:
        if field.type == "map":
            entry = source.Message(
                name=f"{cls.__name__}.{field.name}", cls="Entry", fields=field.entry
            )
            _define(f"{field.read}(data, pos, end, depth, m=None)", source.reader(entry))
    inside: wire.Nested = _globals[f"nested_{name}"]
    inside.update(eval(source.nested(message), _globals))
    return _globals[f"read_{name}"], _globals[f"write_{name}"], inside


def _define(signature: str, body: str) -> None:
    text = f"def {signature}:\n{source.indented(body)}"
    exec(compile(text, f"<fabric_protos.codec {signature}>", "exec"), _globals)


def _name(cls: type) -> str:
    """Name a message or enum class for the compiled text; two packages may use one name."""
    if cls not in _names:
        name = _names[cls] = f"{cls.__name__}_{len(_names)}"
        is_enum = issubclass(cls, betterproto2.Enum)
        _globals[name] = _Members(cls).__getitem__ if is_enum else cls
        _globals[f"nested_{name}"] = {}  # filled when the class is compiled
    return _names[cls]


def _metadata(cls: type[betterproto2.Message]) -> dict[str, betterproto2.FieldMetadata]:
    """Return what a class tells of its fields.

    Not by `betterproto2.ProtoClassMetadata`, which resolves all annotations once for each field.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # each class is a dataclass, their base is none
    return {field.name: betterproto2.FieldMetadata.get(field) for field in fields}


def _class(cls: type[betterproto2.Message], field: str, argument: int) -> type:
    """Return what a field is annotated with, or an argument of that: of a list, map or union."""
    annotation = cls.__annotations__[field]
    found = eval(annotation, vars(sys.modules[cls.__module__]))
    arguments: Sequence[type] = get_args(found) or (found,)
    return arguments[argument]


def _field(
    cls: type[betterproto2.Message],
    name: str,
    metas: Mapping[str, betterproto2.FieldMetadata],
    referred: list[type[betterproto2.Message]],
) -> source.Field:
    """Describe one field of a class, of all of whose fields *metas* tells."""
    meta = metas[name]
    if meta.map_meta:
        key, value = meta.map_meta
        return source.Field(
            number=meta.number,
            name=name,
            type=meta.proto_type,
            read=f"read_{_name(cls)}_{name}",
            entry=(
                _single(cls, name, key, referred, part="key"),
                _single(cls, name, value, referred, part="value"),
            ),
        )
    rivals = (
        other
        for other, its in metas.items()
        if meta.group and its.group == meta.group and other != name
    )
    single = _single(cls, name, meta, referred)
    return dataclasses.replace(single, rivals=tuple(sorted(rivals)))


def _single(
    cls: type[betterproto2.Message],
    name: str,
    meta: betterproto2.FieldMetadata,
    referred: list[type[betterproto2.Message]],
    *,
    part: str = "",
) -> source.Field:
    """Describe a field by what one of its values is, or a part of the entry of a map."""
    read = write = target = nested = ""
    python = partial(_class, cls, name, 1 if part == "value" else 0)
    if meta.unwrap:
        if python() is not datetime:
            raise TypeError(f"{cls.__name__}.{name}: no codec for {python().__name__}")
        read, write, target = "read_datetime", "datetime_bytes({value}, {where})", "datetime"
        nested = "{}"
    elif meta.proto_type == betterproto2.TYPE_MESSAGE:
        found = python()
        referred.append(found)
        target = _name(found)
        read, write = f"read_{target}", f"write_{target}({{value}})"
        nested = f"nested_{target}"
    elif meta.proto_type == betterproto2.TYPE_ENUM:
        target = _name(python())
    return source.Field(
        number=meta.number,
        name=part or name,
        type=meta.proto_type,
        repeated=bool(meta.repeated),
        optional=bool(meta.optional),
        cls=target,
        read=read,
        write=write,
        nested=nested,
    )
