"""The protobuf wire format below the level of messages: what generated readers and writers call.

Room:      fabric_protos   (imports fabric_protos.errors; used by codec and all messages,
           peer.ledger, peer.chaincode, peer.scc, shim and proto/generate.py)
Loop:      none
Lifetime:  none

Every module a chaincode process loads before it can register goes through here, so this one
imports nothing from the standard library. Names that match a protobuf type turn one value of that
type into bytes; their second argument is the ``Class.field`` an error has to name.
"""

from __future__ import annotations

from .errors import DecodeError, EncodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Final, Self, TypeAlias, TypeVar

    K = TypeVar("K")
    V = TypeVar("V")
    Nested: TypeAlias = "dict[int, Nested | None]"
    """The fields of a message that have others inside, by number; None where these are packed."""

MAX_DEPTH: Final = 100
"""How many messages may be nested in one another below the outermost one."""

MAX_FIELDS: Final = 1 << 22
"""How many fields a message may have, with those of the messages in it.

An object takes a hundred bytes and more, its field two. Of what is shorter than that many bytes
nothing need be counted."""

ONE_BYTE: Final = tuple(bytes((n,)) for n in range(128))
"""The varints of a single byte."""

GOES_ON: Final = tuple(bytes((n | 0x80,)) for n in range(128))
"""The same bits in a byte that is not the last one."""

new = object.__new__


def varint(first: int, data: bytes, pos: int) -> tuple[int, int]:
    """Read on after *first*, which announced more; return the value and the next position."""
    value = first & 0x7F
    if data[pos] < 0x80:
        return value | data[pos] << 7, pos + 1
    for shift in range(7, 70, 7):
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise DecodeError("a varint is wider than 64 bits")
            return value, pos
    raise DecodeError("a varint is longer than ten bytes")


def skip(tag: int, data: bytes, pos: int, known: tuple[int, ...], message: str) -> int:
    """Return the position behind an unknown field, whose *tag* has been read.

    Raises:
        DecodeError: no such field can exist, it is a group, or it is one of *known* and has the
            wrong wire type.
    """
    number = tag >> 3
    if number in known:
        raise DecodeError(f"{message}: field {number} has wire type {tag & 7}")
    if not 0 < number < 1 << 29:
        raise DecodeError(f"{message}: {number} is no field number")
    match tag & 7:
        case 0:
            if data[pos] < 0x80:
                pos += 1
            else:
                _, pos = varint(data[pos], data, pos + 1)
        case 1:
            pos += 8
        case 2:
            size = data[pos]
            pos += 1
            if size > 0x7F:
                size, pos = varint(size, data, pos)
            pos += size
        case 5:
            pos += 4
        case wire_type:
            raise DecodeError(f"{message}: field {number} has wire type {wire_type}")
    return pos


def count_fields(data: bytes, nested: Nested) -> None:
    """Refuse a message of too many fields, before there is an object for each.

    Raises:
        DecodeError: there are more than `MAX_FIELDS`.
    """
    try:
        left = _fields_left(data, 0, len(data), nested, MAX_DEPTH, MAX_FIELDS)
    except (IndexError, DecodeError):
        return  # a reader gets no further, and tells what is wrong
    if left < 0:
        raise DecodeError(f"the message has more than {MAX_FIELDS} fields")


def _fields_left(data: bytes, pos: int, end: int, nested: Nested, depth: int, left: int) -> int:
    """Return how many of *left* fields remain behind ``data[pos:end]``, negative if too few."""
    if depth < 0:
        raise DecodeError("nested too deep")
    while pos < end and left >= 0:
        left -= 1
        tag = data[pos]
        pos += 1
        if tag > 0x7F:
            tag, pos = varint(tag, data, pos)
        if tag & 7 != 2 or tag >> 3 not in nested:
            pos = skip(tag, data, pos, (), "")
            continue
        size = data[pos]
        pos += 1
        if size > 0x7F:
            size, pos = varint(size, data, pos)
        inner = nested[tag >> 3]
        if inner is None:
            left -= size
        else:
            left = _fields_left(data, pos, pos + size, inner, depth - 1, left)
        pos += size
    return left


def varint_bytes(value: int) -> bytes:
    """Encode an unsigned integer below 2**64."""
    if value < 0x80:
        return ONE_BYTE[value]
    if value < 0x4000:
        return GOES_ON[value & 0x7F] + ONE_BYTE[value >> 7]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(tag: bytes, raw: bytes) -> bytes:
    """Return a length-delimited field, for what is too much to make objects of first."""
    size = len(raw)
    return tag + (ONE_BYTE[size] if size < 0x80 else varint_bytes(size)) + raw


def delimited_two(tag: bytes, raw: bytes, second_tag: bytes, second: bytes) -> bytes:
    """Return two length-delimited fields, or those of them that are not empty."""
    size, last = len(raw), len(second)
    if not (size and last):
        return delimited(tag, raw) if size else delimited(second_tag, second) if last else b""
    return b"".join(
        (
            tag,
            ONE_BYTE[size] if size < 0x80 else varint_bytes(size),
            raw,
            second_tag,
            ONE_BYTE[last] if last < 0x80 else varint_bytes(last),
            second,
        )
    )


def checked(value: object, cls: type[V], field: str) -> V:
    """Return *value*, which must be a *cls*. The error tells its type only: it may be a secret."""
    if not isinstance(value, cls):
        raise EncodeError(f"{field} takes {cls.__name__}, not {type(value).__name__}")
    return value


def utf8(value: str, field: str) -> bytes:
    """Encode a string, which must hold no lone surrogate."""
    if type(value) is not str:
        checked(value, str, field)
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise EncodeError(f"{field} holds a lone surrogate") from None


def _integer(value: int, low: int, high: int, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise EncodeError(f"{field} takes int, not {type(value).__name__}")
    if not low <= value < high:
        raise EncodeError(f"{field} must be from {low} to {high - 1}")
    return value


def int32(value: int, field: str) -> bytes:
    if type(value) is int and 0 <= value < 0x80:
        return ONE_BYTE[value]
    value = _integer(value, -(1 << 31), 1 << 31, field)
    return varint_bytes(value & 0xFFFF_FFFF_FFFF_FFFF)


def int64(value: int, field: str) -> bytes:
    value = _integer(value, -(1 << 63), 1 << 63, field)
    return varint_bytes(value & 0xFFFF_FFFF_FFFF_FFFF)


def uint32(value: int, field: str) -> bytes:
    return varint_bytes(_integer(value, 0, 1 << 32, field))


def uint64(value: int, field: str) -> bytes:
    if type(value) is int and 0 <= value < 0x80:
        return ONE_BYTE[value]
    return varint_bytes(_integer(value, 0, 1 << 64, field))


def sint32(value: int, field: str) -> bytes:
    value = _integer(value, -(1 << 31), 1 << 31, field)
    return varint_bytes(value << 1 ^ value >> 31)


def sint64(value: int, field: str) -> bytes:
    value = _integer(value, -(1 << 63), 1 << 63, field)
    return varint_bytes(value << 1 ^ value >> 63)


def fixed32(value: int, field: str) -> bytes:
    return _integer(value, 0, 1 << 32, field).to_bytes(4, "little")


def fixed64(value: int, field: str) -> bytes:
    return _integer(value, 0, 1 << 64, field).to_bytes(8, "little")


def sfixed32(value: int, field: str) -> bytes:
    return _integer(value, -(1 << 31), 1 << 31, field).to_bytes(4, "little", signed=True)


def sfixed64(value: int, field: str) -> bytes:
    return _integer(value, -(1 << 63), 1 << 63, field).to_bytes(8, "little", signed=True)


def boolean(value: bool, field: str) -> bytes:
    return ONE_BYTE[checked(value, bool, field)]


def entries(values: dict[K, V], field: str) -> list[tuple[K, V]]:
    """Return the entries of a map field in the order of their keys."""
    keyed: dict[Any, V] = checked(values, dict, field)
    try:
        return [(key, keyed[key]) for key in sorted(keyed)]
    except TypeError:
        raise EncodeError(f"{field} has keys of different types") from None


class Entry:
    """One entry of a map: on the wire a message with the fields ``key`` and ``value``."""

    __slots__ = ("key", "value")
    key: Any
    value: Any


class Message:
    """What every message class of `fabric_protos.stream` can do."""

    __slots__: tuple[str, ...] = ()
    _nested: ClassVar[Nested]
    _read: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls) -> None:
        cls._nested = {}

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read one message.

        Raises:
            DecodeError: *data* is no such message, or has more than `MAX_FIELDS` fields.
        """
        size = len(data)
        if size > MAX_FIELDS:
            count_fields(data, cls._nested)
        return cls._read(data, 0, size, MAX_DEPTH)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={_shown(getattr(self, name))}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


def _shown(value: object) -> str:
    """Show bytes by their length only: they may be keys, certificates or private data."""
    match value:
        case bytes():
            return f"<{len(value)} bytes>"
        case list():
            return f"[{', '.join(map(_shown, value))}]"
        case dict():
            return f"{{{', '.join(f'{key!r}: {_shown(item)}' for key, item in value.items())}}}"
        case _:
            return repr(value)
