"""Write the methods of betterproto2's dataclasses into their text: initializers and codecs.

Room:      fabric_protos   (imports fabric_protos.source and wire; used by proto/generate.py)
Loop:      none
Lifetime:  none

`dataclasses` would make the initializers, and compile them, at every import, which takes several
times as long as all else that an import of these modules does. ``_read``, ``_write`` and
``_nested`` are what `fabric_protos.codec` calls.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from . import errors, wire
from .source import Field, Message, indented, nested, reader, writer

_LIBRARY = {
    "errors": {"DecodeError"},
    "values": {
        "datetime_bytes",
        "float32",
        "float64",
        "is_negative_zero",
        "members",
        "read_datetime",
        "read_float32",
        "read_float64",
    },
    "wire": {name for name in vars(wire).keys() - vars(errors).keys() if name[0] != "_"},
}
"""What the methods call, by module. The second is not imported here: it needs what is generated."""


def with_methods(text: str) -> str:
    """Return the text of a module of betterproto2's with the methods of its messages written out.

    Raises:
        TypeError: a field wraps something else than a timestamp.
    """
    lines = text.split("\n")
    codecs: list[str] = []
    tail: list[str] = []
    for node in reversed(ast.parse(text).body):
        if not isinstance(node, ast.ClassDef):
            continue
        if not node.decorator_list:
            tail.append(f"_{node.name} = members({node.name})")
            continue
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
        starts = [each.lineno for each in methods]
        starts += [each.lineno for method in methods for each in method.decorator_list]
        end = min(starts, default=(node.end_lineno or 0) + 1) - 1
        message = Message(
            name=node.name,
            cls=node.name,
            fields=tuple(sorted(_fields(node.name, fields), key=lambda field: field.number)),
            keeps_unknown=True,
        )
        codec = list(_codec(message))
        codecs += codec
        lines[end:end] = [*_initializer(fields), *codec]
        if (inside := nested(message)) != "{}":
            tail.append(f"{node.name}._nested.update({inside})")
        if ast.get_docstring(node) is None:  # `dataclasses` would make one of the signature
            lines.insert(node.body[0].lineno - 1, f'    """Message `{node.name}`."""')
        [decorator] = node.decorator_list
        assert ast.unparse(decorator) == "dataclass(eq=False, repr=False)"
        lines[decorator.lineno - 1] = "@dataclass(init=False, eq=False, repr=False)"
    head, version = "from dataclasses import ", "\n_COMPILER_VERSION"
    imports = _imports("\n".join([*codecs, *tail]))
    written = "\n".join([*lines, *reversed(tail)])
    written = written.replace(f"{head}dataclass", f"{head}MISSING, dataclass", 1)
    return written.replace(version, f"{imports}{version}", 1)


def _imports(codecs: str) -> str:
    """Return the statements that import what the text of methods needs."""
    words = set(re.findall(r"\w+", codecs))
    return "".join(
        f"from fabric_protos.{module} import {', '.join(sorted(names & words))}\n"
        for module, names in _LIBRARY.items()
        if names & words
    )


def _codec(message: Message) -> Iterator[str]:
    """Yield the lines of the methods that read and write a message."""
    yield ""
    yield "    _nested = {}"
    yield from _reader("_read", message)
    for field in message.fields:
        if field.type == "map":
            entry = Message(name=f"{message.name}.{field.name}", cls="Entry", fields=field.entry)
            yield from _reader(field.read.partition(".")[2], entry)
    yield from ("", "    def _write(self):", indented(writer(message), 2))


def _reader(name: str, message: Message) -> Iterator[str]:
    yield from ("", "    @staticmethod", f"    def {name}(data, pos, end, depth, m=None):")
    yield indented(reader(message), 2)


def _fields(cls: str, fields: Sequence[ast.AnnAssign]) -> Iterator[Field]:
    """Yield what the text of a class tells of its fields."""
    groups = {ast.unparse(each.target): _options(each).get("group") for each in fields}
    for each in fields:
        name, options = ast.unparse(each.target), _options(each)
        number, kind = map(ast.unparse, _call(each).args)
        types = _types(each)
        if "map_meta" in options:
            entry = options["map_meta"]
            assert isinstance(entry, ast.Call)
            key, value = map(ast.unparse, entry.args)
            yield Field(
                number=int(number),
                name=name,
                type="map",
                read=f"{cls}._read_{name}",
                entry=(
                    _field(cls, 1, "key", key, types[0]),
                    _field(cls, 2, "value", value, types[1], wraps=bool(entry.keywords)),
                ),
            )
            continue
        group = groups[name]
        yield _field(
            cls,
            int(number),
            name,
            kind,
            types[0],
            repeated="repeated" in options,
            optional="optional" in options,
            rivals=tuple(
                sorted(
                    other
                    for other, its in groups.items()
                    if group and its and other != name and ast.dump(its) == ast.dump(group)
                )
            ),
            wraps="unwrap" in options,
        )


def _field(
    message: str,
    number: int,
    name: str,
    kind: str,
    type_: str,
    *,
    repeated: bool = False,
    optional: bool = False,
    rivals: tuple[str, ...] = (),
    wraps: bool = False,
) -> Field:
    kind = kind.removeprefix("betterproto2.TYPE_").lower()
    cls = read = write = inside = ""
    if wraps:
        if type_ != "datetime.datetime":
            raise TypeError(f"{message}.{name}: no codec for {type_}")
        cls, read, write = type_, "read_datetime", "datetime_bytes({value}, {where})"
        inside = "{}"
    elif kind == "message":
        cls, read, write = type_, f"{type_}._read", "{value}._write()"
        inside = f"{type_}._nested"
    elif kind == "enum":
        package, dot, enum = type_.rpartition(".")
        cls = f"{package}{dot}_{enum}"
    return Field(
        number=number,
        name=name,
        type=kind,
        repeated=repeated,
        optional=optional,
        rivals=rivals,
        cls=cls,
        read=read,
        write=write,
        nested=inside,
    )


def _types(field: ast.AnnAssign) -> list[str]:
    """Return what a field is annotated with, or what a list, a map or an option is made of."""
    node = ast.parse(ast.literal_eval(field.annotation), mode="eval").body
    if isinstance(node, ast.BinOp):
        node = node.left
    if isinstance(node, ast.Subscript):
        node = node.slice
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return [ast.unparse(part) for part in parts]


def _call(field: ast.AnnAssign) -> ast.Call:
    assert isinstance(field.value, ast.Call)
    return field.value


def _options(field: ast.AnnAssign) -> dict[str | None, ast.expr]:
    return {option.arg: option.value for option in _call(field).keywords}


def _initializer(fields: list[ast.AnnAssign]) -> Iterator[str]:
    """Yield the method that `dataclasses` would make of fields of betterproto2's."""
    assigned = []
    yield "    def __init__("
    yield "        self,"
    for field in fields:
        name, annotation = ast.unparse(field.target), ast.unparse(field.annotation)
        default, fresh = _default(field)
        yield f"        {name}: {annotation} = {default},"
        assigned.append(f"{fresh} if {name} is MISSING else {name}" if fresh else name)
    yield "    ) -> None:"
    for field, value in zip(fields, assigned, strict=True):
        yield f"        self.{ast.unparse(field.target)} = {value}"
    yield "        self.__post_init__()"


def _default(field: ast.AnnAssign) -> tuple[str, str]:
    """Return a field's default, and what makes it for each object that needs one of its own."""
    options = _options(field)
    kind = ast.unparse(_call(field).args[1]).removeprefix("betterproto2.TYPE_")
    if "repeated" in options:
        return "MISSING", "[]"
    if kind == "MAP":
        return "MISSING", "{}"
    if "optional" in options or "group" in options or kind == "MESSAGE":
        return "None", ""
    if kind == "ENUM":
        factory = options["default_factory"]
        assert isinstance(factory, ast.Lambda)
        return "MISSING", ast.unparse(factory.body)
    plain = {"STRING": '""', "BYTES": 'b""', "BOOL": "False", "FLOAT": "0.0", "DOUBLE": "0.0"}
    return plain.get(kind, "0"), ""
