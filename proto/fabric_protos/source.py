"""Write the Python source of readers and writers for one message class.

Room:      fabric_protos   (imports the standard library only;
           used by methods and proto/generate.py)
Loop:      none
Lifetime:  none

A reader is ``read(data, pos, end, depth, m=None)``: it reads ``data[pos:end]`` into *m*, or into a
new object, and returns the object. Reading into an existing object is what protobuf asks for when
a sub-message occurs twice. A writer is ``write(self) -> bytes``. Both find the names of
`fabric_protos.wire` among their globals. Two kinds of classes are built from the same text: the
dataclasses of betterproto2 (by `fabric_protos.codec`) and the slotted ones of
`fabric_protos.stream`; they differ in the names a `Message` and its `Field`s carry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field, in the terms of the text to be written.

    Attributes:
        type: protobuf's name of it; ``message``, ``enum`` and ``map`` for what has no own name.
        repeated: a list.
        optional: None means absent, as in a oneof.
        rivals: the other members of the field's oneof.
        cls: of a message the Python class; of an enum the function that makes a member of a
            number, empty to keep numbers.
        read: name of the sub-message's reader; of a map, of its entry's.
        write: expression that encodes the sub-message; ``{value}`` stands for it, ``{where}`` for
            the name of the field.
        nested: of a message, the expression that tells what is inside, see `wire.Nested`.
        entry: key and value of a map.
    """

    number: int
    name: str
    type: str
    repeated: bool = False
    optional: bool = False
    rivals: tuple[str, ...] = ()
    cls: str = ""
    read: str = ""
    write: str = ""
    nested: str = ""
    entry: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message class.

    Attributes:
        name: what errors call it.
        cls: the Python class in the text.
        fields: in ascending order of number.
        keeps_unknown: unknown fields go to ``_unknown_fields`` and are written back.
    """

    name: str
    cls: str
    fields: tuple[Field, ...]
    keeps_unknown: bool = False


@dataclass(frozen=True, slots=True)
class _Numeric:
    wire_type: int
    write: str
    read: str = "value"
    narrow: str = ""  # applied to varints of more than one byte
    default: str = "0"


_NUMERIC = {
    "int32": _Numeric(0, "int32", narrow="(value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000"),
    "int64": _Numeric(0, "int64", narrow="(value ^ 1 << 63) - (1 << 63)"),
    "uint32": _Numeric(0, "uint32", narrow="value & 0xFFFFFFFF"),
    "uint64": _Numeric(0, "uint64"),
    "sint32": _Numeric(0, "sint32", "value >> 1 ^ -(value & 1)", "value & 0xFFFFFFFF"),
    "sint64": _Numeric(0, "sint64", "value >> 1 ^ -(value & 1)"),
    "bool": _Numeric(0, "boolean", "value != 0", default="False"),
    "enum": _Numeric(0, "int32", narrow="(value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000"),
    "fixed32": _Numeric(5, "fixed32", "int.from_bytes({}, 'little')"),
    "fixed64": _Numeric(1, "fixed64", "int.from_bytes({}, 'little')"),
    "sfixed32": _Numeric(5, "sfixed32", "int.from_bytes({}, 'little', signed=True)"),
    "sfixed64": _Numeric(1, "sfixed64", "int.from_bytes({}, 'little', signed=True)"),
    "float": _Numeric(5, "float32", "read_float32({})", default="0.0"),
    "double": _Numeric(1, "float64", "read_float64({})", default="0.0"),
}
_WIDTH = {1: 8, 5: 4}


def default(field: Field) -> str:
    """Return the expression of the value a field has where it is absent."""
    if field.repeated:
        return "[]"
    if field.type == "map":
        return "{}"
    if field.optional or field.type == "message":
        return "None"
    if field.type in ("string", "bytes"):
        return {"string": '""', "bytes": 'b""'}[field.type]
    number = _NUMERIC[field.type].default
    return f"{field.cls}({number})" if field.cls else number


def reader(message: Message) -> str:
    """Return the body of the reader of *message*."""
    return "\n".join(_reader(message))


def writer(message: Message) -> str:
    """Return the body of the writer of *message*."""
    return "\n".join(_writer(message))


def nested(message: Message) -> str:
    """Return the expression of what is inside the fields of *message*, a `wire.Nested`."""
    inside = ((field.number, _nested(field)) for field in message.fields)
    return f"{{{', '.join(f'{number}: {text}' for number, text in inside if text)}}}"


def _nested(field: Field) -> str:
    match field.type:
        case "message":
            return field.nested
        case "map":
            return nested(Message(name="", cls="Entry", fields=field.entry))
        case kind:
            return "None" if field.repeated and kind in _NUMERIC else ""


def _reader(message: Message) -> Iterator[str]:
    yield "if depth < 0:"
    yield f'    raise DecodeError("{message.name} is nested too deep")'
    yield "if m is None:"
    yield f"    m = new({message.cls})"
    for field in message.fields:
        yield f"    m.{field.name} = {default(field)}"
    if message.keeps_unknown:
        yield '    m._unknown_fields = b""'
    yield "try:"
    yield "    while pos < end:"
    if message.keeps_unknown:
        yield "        start = pos"
    yield "        tag = data[pos]"
    yield "        pos += 1"
    yield "        if tag > 0x7F:"
    yield "            tag, pos = varint(tag, data, pos)"
    branch = "if"
    for field in message.fields:
        for wire_type, lines in _occurrences(field, f"{message.name}.{field.name}"):
            yield f"        {branch} tag == {field.number << 3 | wire_type}:"
            yield from _indented(lines, 3)
            branch = "elif"
    known = tuple(field.number for field in message.fields)
    unknown = [f'pos = skip(tag, data, pos, {known}, "{message.name}")']
    if message.keeps_unknown:
        # A bytearray grows in place; with bytes, many unknown fields would take quadratic time.
        unknown += [
            "if not m._unknown_fields:",
            "    m._unknown_fields = bytearray()",
            "m._unknown_fields += data[start:pos]",
        ]
    if message.fields:
        yield "        else:"
        yield from _indented(unknown, 3)
    else:
        yield from _indented(unknown, 2)
    yield "except IndexError:"
    yield f'    raise DecodeError("{message.name} is cut short") from None'
    if any(field.type == "string" for field in message.fields):
        yield "except UnicodeDecodeError:"
        yield f'    raise DecodeError(f"{message.name}: field {{tag >> 3}} is not UTF-8") from None'
    yield "if pos != end:"
    yield f'    raise DecodeError("{message.name} is cut short")'
    yield "return m"


def indented(text: str, levels: int = 1) -> str:
    """Return lines, none of which is empty, further to the right."""
    margin = "    " * levels
    return margin + text.replace("\n", f"\n{margin}")


def _indented(lines: Iterator[str] | list[str], levels: int) -> Iterator[str]:
    return (indented(line, levels) for line in lines)


def _occurrences(field: Field, where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each wire type a field may come with, and how to read that."""
    if field.type not in _NUMERIC:
        yield 2, [*_span(where), *_read_block(field), "pos = stop"]
        return
    yield _NUMERIC[field.type].wire_type, _read_number(field)
    if field.repeated:
        one = indented("\n".join(_read_number(field)))
        refuse = f'    raise DecodeError("{where} is cut short")'
        yield 2, [*_span(where), "while pos < stop:", one, "if pos != stop:", refuse]


def _span(where: str) -> list[str]:
    return [
        "size = data[pos]",
        "pos += 1",
        "if size > 0x7F:",
        "    size, pos = varint(size, data, pos)",
        "stop = pos + size",
        "if stop > end:",
        f'    raise DecodeError("{where} is cut short")',
    ]


def _read_block(field: Field) -> list[str]:
    match field.type:
        case "string":
            return _store(field, "data[pos:stop].decode()")
        case "bytes":
            return _store(field, "data[pos:stop]")
        case "map":
            _, value = field.entry
            lines = [f"entry = {field.read}(data, pos, stop, depth - 1)"]
            if value.type == "message":
                lines += [
                    "if entry.value is None:",
                    f'    entry.value = {value.read}(b"", 0, 0, depth - 1)',
                ]
            return [*lines, f"m.{field.name}[entry.key] = entry.value"]
        case _:
            into = "" if field.repeated else f", m.{field.name}"
            return _store(field, f"{field.read}(data, pos, stop, depth - 1{into})")


def _read_number(field: Field) -> list[str]:
    kind = _NUMERIC[field.type]
    if kind.wire_type:
        width = _WIDTH[kind.wire_type]
        return [
            *_store(field, kind.read.format(f"data[pos : pos + {width}]")),
            f"pos += {width}",
        ]
    lines = [
        "value = data[pos]",
        "pos += 1",
        "if value > 0x7F:",
        "    value, pos = varint(value, data, pos)",
    ]
    if kind.narrow:
        lines.append(f"    value = {kind.narrow}")
    return lines + _store(field, f"{field.cls}({kind.read})" if field.cls else kind.read)


def _store(field: Field, value: str) -> list[str]:
    if field.repeated:
        return [f"m.{field.name}.append({value})"]
    return [f"m.{field.name} = {value}", *(f"m.{rival} = None" for rival in field.rivals)]


def _writer(message: Message) -> Iterator[str]:
    yield "out: list[bytes] = []"
    for field in message.fields:
        where = f"{message.name}.{field.name}"
        source = f"self.{field.name}"
        if field.type == "map":
            yield f'for key, value in entries({source}, "{where}"):'
            yield "    entry: list[bytes] = []"
            for part in field.entry:
                yield from _indented(_write(part, part.name, where, out="entry"), 1)
            yield '    raw = b"".join(entry)'
            yield from _indented(_append(field.number), 1)
        elif field.repeated and field.type in _NUMERIC:
            pack = _NUMERIC[field.type].write
            yield from _check(source, "list", where)
            yield f"if {source}:"
            yield f'    raw = b"".join([{pack}(value, "{where}") for value in {source}])'
            yield from _indented(_append(field.number), 1)
        elif field.repeated:
            yield from _check(source, "list", where)
            yield f"for value in {source}:"
            yield from _indented(_write(field, "value", where), 1)
        else:
            yield f"if {_presence(field, source)}:"
            yield from _indented(_write(field, source, where), 1)
    if message.keeps_unknown:
        yield "if self._unknown_fields:"
        yield "    out.append(self._unknown_fields)"
    yield 'return b"".join(out)'


def _presence(field: Field, source: str) -> str:
    """Return the test for a value that is written; one of a wrong type passes, to be refused."""
    if field.optional or field.type == "message":
        return f"{source} is not None"
    match field.type:
        case "string":
            return f'{source} != ""'
        case "bytes":
            return f'{source} != b""'
        case "bool":
            return f"{source} is not False"
        case "float" | "double":
            return f"{source} != 0 or is_negative_zero({source})"
        case _:
            return f"{source} != 0"


def _write(field: Field, value: str, where: str, *, out: str = "out") -> Iterator[str]:
    if field.type in _NUMERIC:
        kind = _NUMERIC[field.type]
        yield f'{out} += ({_tag(field.number, kind.wire_type)}, {kind.write}({value}, "{where}"))'
        return
    match field.type:
        case "string":
            yield f'raw = utf8({value}, "{where}")'
        case "bytes":
            yield f"raw = {value}"
            yield from _check("raw", "bytes", where)
        case _:
            yield from _check(value, field.cls, where)
            yield "raw = " + field.write.format(value=value, where=f'"{where}"')
    yield from _append(field.number, out=out)


def _check(value: str, cls: str, where: str) -> Iterator[str]:
    """Refuse other types; what is of the very class costs no call."""
    yield f"if type({value}) is not {cls}:"
    yield f'    checked({value}, {cls}, "{where}")'


def _append(number: int, *, out: str = "out") -> Iterator[str]:
    yield "size = len(raw)"
    size = "ONE_BYTE[size] if size < 0x80 else varint_bytes(size)"
    yield f"{out} += ({_tag(number, 2)}, {size}, raw)"


def _tag(number: int, wire_type: int) -> str:
    tag = number << 3 | wire_type
    out = bytearray()
    while tag > 0x7F:
        out.append(tag & 0x7F | 0x80)
        tag >>= 7
    return repr(bytes([*out, tag]))
