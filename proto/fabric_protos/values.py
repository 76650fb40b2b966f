"""The values that only betterproto2's messages hold: datetimes, floats, members of enums.

Room:      fabric_protos   (imports fabric_protos.stream and errors; used by generated messages)
Loop:      none
Lifetime:  none

betterproto2 holds timestamps as `datetime`, which cuts nanoseconds to microseconds. Functions that
make bytes of a value take as second argument the ``Class.field`` an error has to name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TypeVar

from .errors import DecodeError, EncodeError
from .stream import Timestamp

E = TypeVar("E", bound=IntEnum)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Members(dict[int, E]):
    """The members of an enum by number; an unknown number makes a nameless member."""

    def __init__(self, enum: type[E]) -> None:
        super().__init__((member.value, member) for member in enum)
        self._enum = enum

    def __missing__(self, number: int) -> E:
        return self._enum(number)


def members(enum: type[E]) -> Callable[[int], E]:
    """Return what makes a member of a number, quicker than the enum's own call."""
    return _Members(enum).__getitem__


def read_datetime(
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


def datetime_bytes(value: datetime, field: str) -> bytes:
    if value.utcoffset() is None:
        raise EncodeError(f"{field} has no time zone")
    return _timestamp(value).encode()


def _timestamp(value: datetime) -> Timestamp:
    since = value - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def read_float32(data: bytes) -> float:
    return _read_float("<f", data)


def read_float64(data: bytes) -> float:
    return _read_float("<d", data)


def _read_float(layout: str, data: bytes) -> float:
    try:
        value: float = struct.unpack(layout, data)[0]
    except struct.error:
        raise DecodeError("a floating-point number is cut short") from None
    return value


def float32(value: float, field: str) -> bytes:
    return _float_bytes("<f", value, field)


def float64(value: float, field: str) -> bytes:
    return _float_bytes("<d", value, field)


def _float_bytes(layout: str, value: float, field: str) -> bytes:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise EncodeError(f"{field} takes float, not {type(value).__name__}")
    try:
        return struct.pack(layout, float(value))
    except OverflowError:
        raise EncodeError(f"{field} is too large for its type") from None


def is_negative_zero(value: object) -> bool:
    """Tell -0.0, which protobuf writes, from 0.0, which it leaves out."""
    return isinstance(value, float) and math.copysign(1.0, value) < 0
