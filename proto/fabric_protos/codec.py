"""A strict, fast codec for the betterproto2 messages of this package.

Room:      fabric_protos   (imports betterproto2 and fabric_protos.wire)
Loop:      none; safe to use from several threads
Lifetime:  none

betterproto2's own ``parse`` and ``bytes()`` accept truncated input, take any wire type for any
field and replace repeated sub-messages; this codec refuses, or merges, as the protobuf
specification asks. The reader and the writer of each class are methods of it, which
`fabric_protos.methods` wrote when the class was generated.

Encoding is canonical: fields in ascending order, map entries by key, defaults left out. Unknown
fields are kept and written back behind the known ones, except those inside a timestamp, see
`fabric_protos.values`.
"""

from __future__ import annotations

from typing import TypeVar

import betterproto2

from . import wire
from .errors import DecodeError as DecodeError
from .errors import EncodeError as EncodeError

M = TypeVar("M", bound=betterproto2.Message)


def decode(cls: type[M], data: bytes) -> M:
    """Read one message.

    Raises:
        DecodeError: *data* is no *cls*: cut short, a known field of a wrong wire type, a group, an
            impossible field number or varint, a string that is not UTF-8, a timestamp `datetime`
            cannot hold, more than `wire.MAX_DEPTH` levels of nesting, or than `wire.MAX_FIELDS`
            fields.
    """
    size = len(data)
    if size > wire.MAX_FIELDS:
        wire.count_fields(data, cls._nested)  # type: ignore[attr-defined]  # generated, like _read
    message: M = cls._read(data, 0, size, wire.MAX_DEPTH)  # type: ignore[attr-defined]
    return message


def encode(message: betterproto2.Message) -> bytes:
    """Write one message.

    Raises:
        EncodeError: a field holds a wrong type, a number out of range, a lone surrogate or a
            `datetime` without time zone; or the message is nested deeper than Python's stack.
    """
    try:
        written: bytes = message._write()  # type: ignore[attr-defined]  # generated, too
    except RecursionError:
        raise EncodeError(f"{type(message).__name__} is nested too deep") from None
    return written
