"""JSON documents as CouchDB reads, orders and cuts them.

Room:      peer.ledger   (imports peer.errors; used by mango, queries and indexes)
Loop:      none
Lifetime:  none
Fabric:    CouchDB's couch_ejson_compare.erl, mango_doc.erl (3.x);
           core/ledger/kvledger/txmgmt/statedb/statecouchdb (release-2.5)

Strings compare by code points here and after the Unicode collation algorithm there.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from peer.errors import QueryError

Json = Any
"""What a JSON text decodes to; its shape is the chaincode's."""

Path = tuple[str, ...]

MAX_DEPTH = 200
"""Levels of nesting every Python reads and compares, however deep its stack is already."""

MISSING: Final = object()
"""The last name of a path, or one before, is not in its object."""
BAD_PATH: Final = object()
"""A path leads into something that has no fields, or past the end of an array."""

_SEPARATOR = re.compile(r"(?<!\\)\.")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_BY_GO = re.compile("[<>&\u2028\u2029]")


def load_object(value: bytes) -> dict[str, Json] | None:
    """Decode a value; None when it is no JSON object, or is nested deeper than `MAX_DEPTH`."""
    try:
        document = json.loads(value.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    is_suspect = value.count(b"[") + value.count(b"{") > MAX_DEPTH
    return None if is_suspect and _is_deep(document) else document


def load_verbatim(value: bytes) -> Json:
    """Decode JSON for `canonical`: numbers stay as they were written.

    Raises:
        ValueError, RecursionError: it is none, or too deep.
    """
    return json.loads(
        value.decode(), parse_int=_Number, parse_float=_Number, parse_constant=_refuse
    )


def document_at(key: bytes, value: bytes) -> dict[str, Json] | None:
    """Return what selectors look at: a stored object with its key; None for any other value."""
    document = load_object(value)
    if document is not None:
        document["_id"] = key.decode()
    return document


def collated(value: Json) -> tuple[Any, ...]:
    """Return what orders JSON values: null, false, true, numbers, strings, arrays, objects."""
    match value:
        case None:
            return (0,)
        case bool():
            return (2,) if value else (1,)
        case int() | float():
            return (3, value)
        case str():
            return (4, value)
        case list():
            return (5, [collated(element) for element in value])
        case _:
            # Fabric stores objects and sends queries with their names sorted.
            return (6, [(name, collated(inner)) for name, inner in sorted(value.items())])


def encoded(value: Json) -> bytes:
    """Return bytes that compare as `collated` values do; none is the beginning of another."""
    match value:
        case None:
            return b"\x01"
        case bool():
            return b"\x03" if value else b"\x02"
        case int() | float():
            return b"\x04" + _encoded_number(value)
        case str():
            text = value.encode(errors="surrogatepass")
            return b"\x05" + text.replace(b"\0", b"\0\x01") + b"\0\0"
        case list():
            return b"\x06" + b"".join(map(encoded, value)) + b"\0"
        case _:
            members = (encoded(name) + encoded(value[name]) for name in sorted(value))
            return b"\x07" + b"".join(members) + b"\0"


def is_found(value: Json) -> bool:
    """Tell whether `value_at` found something."""
    return value is not MISSING and value is not BAD_PATH


def type_name(value: Json) -> str:
    """Return what ``$type`` calls a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def parse_path(name: str, place: str) -> Path:
    r"""Cut a field's name at its dots; ``\.`` is a dot of the name itself.

    Raises:
        QueryError: a part of it is empty.
    """
    parts = _SEPARATOR.split(name)
    if "" in parts:
        raise QueryError(place, f"{name!r} is no name of a field")
    return tuple(part.replace("\\", "") for part in parts)


def value_at(document: Json, path: Path) -> Json:
    """Return what is at a path, numbers being indexes of arrays; or `MISSING` or `BAD_PATH`."""
    for name in path:
        match document:
            case dict():
                if name not in document:
                    return MISSING
                document = document[name]
            case list() if name.isdecimal() and name.isascii() and int(name) < len(document):
                document = document[int(name)]
            case _:
                return BAD_PATH
    return document


def project(value: bytes, paths: Sequence[Path]) -> bytes:
    """Return a stored object with some of its fields only, in Fabric's canonical form.

    Names are sorted, there are no spaces, and numbers stay as they were written.
    """
    document = load_verbatim(value)
    projection: dict[str, Json] = {}
    for path in paths:
        found = value_at(document, path)
        if is_found(found):
            _set(projection, path, found)
    return canonical(projection).encode()


def canonical(value: Json) -> str:
    """Return JSON as Go's encoder writes what its decoder read."""
    match value:
        case _Number():
            return str(value)
        case dict():
            members = (f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value))
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(map(canonical, value)) + "]"
        case str():
            text = json.dumps(_SURROGATE.sub("\ufffd", value), ensure_ascii=False)
            return _ESCAPED_BY_GO.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        case _:
            return json.dumps(value)


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def _encoded_number(value: float) -> bytes:
    """Return the nearest float, its sign made to order, and what a whole number is off it."""
    try:
        near = float(value)
    except OverflowError:
        near = sys.float_info.max if value > 0 else -sys.float_info.max
    off = value - int(near) if isinstance(value, int) else 0
    (bits,) = struct.unpack(">Q", struct.pack(">d", near + 0.0))  # -0.0 becomes 0.0
    bits ^= 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63
    size = (off.bit_length() + 7) // 8
    rest = off if off >= 0 else off + (1 << 8 * size)
    length = 0x8000 + (size if off >= 0 else -size)
    return struct.pack(">QH", bits, length) + rest.to_bytes(size)


def _is_deep(document: Json) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH):
        insides = (each.values() if isinstance(each, dict) else each for each in level)
        level = [inner for inside in insides for inner in inside if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def _set(target: dict[str, Json], path: Path, value: Json) -> None:
    *parents, last = path
    for name in parents:
        inner = target.setdefault(name, {})
        if not isinstance(inner, dict):
            return  # a shorter path brought the whole array
        target = inner
    target[last] = value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
