"""The records of a query, of which there may be thousands: cut out without an object for each.

Room:      fabric_protos   (imports stream, wire; used by shim)
Loop:      none
Lifetime:  none
Fabric:    none

What peers write is cut here. Anything else is left to the readers of `stream`, which know what is
wrong with it.
"""

from __future__ import annotations

from .errors import DecodeError
from .stream import Kv, QueryResponse
from .wire import MAX_FIELDS, varint


def cut_results(data: bytes) -> tuple[list[bytes], QueryResponse]:
    """Return the records of a `QueryResponse`, and what else is in it.

    Raises:
        DecodeError: it is none.
    """
    found: list[bytes] = []
    pos, end = 0, len(data)
    try:
        while pos < end <= MAX_FIELDS and data[pos] == 0x0A:
            size, start = data[pos + 1], pos + 2
            if size > 0x7F:
                size, start = varint(size, data, start)
            stop = start + size
            inner, first = data[start + 1], start + 2
            if inner > 0x7F:
                inner, first = varint(inner, data, first)
            if data[start] != 0x0A or first + inner != stop or stop > end:
                break
            found.append(data[first:stop])
            pos = stop
    except (IndexError, DecodeError):
        pass  # the reader gets no further, either
    rest = QueryResponse.decode(data[pos:])
    return found + [each.result_bytes for each in rest.results], rest


def key_and_value(data: bytes) -> tuple[str, bytes]:
    """Return what a `Kv` holds, but for the namespace.

    Raises:
        DecodeError: it is none.
    """
    try:
        size, namespace = data[1], 2
        if size > 0x7F:
            size, namespace = varint(size, data, 2)
        second = namespace + size
        size, key = data[second + 1], second + 2
        if size > 0x7F:
            size, key = varint(size, data, key)
        third = key + size
        size, value = data[third + 1], third + 2
        if size > 0x7F:
            size, value = varint(size, data, value)
        is_plain = data[0] == 0x0A and data[second] == 0x12 and data[third] == 0x1A
        if is_plain and value + size == len(data) and data[namespace:second].isascii():
            return data[key:third].decode(), data[value:]
    except (IndexError, UnicodeDecodeError, DecodeError):
        pass  # the reader tells
    record = Kv.decode(data)
    return record.key, record.value
