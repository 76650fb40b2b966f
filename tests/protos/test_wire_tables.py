"""The .proto files say what the tables of Fabric's wire format say: no more, no less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from tests.protos.schema import DESCRIPTORS, HERE

OURS = [file for file in DESCRIPTORS.file if file.package not in ("google.protobuf", "every_type")]


def test_files_hold_what_the_tables_say() -> None:
    lines = (HERE / "wire_tables.txt").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.strip()]
    compiled = [f"[{file.name}] {line}" for file in OURS for line in _file_lines(file)]
    assert len(table) > 150
    assert sorted(compiled) == sorted(table)


def test_all_files_are_proto3() -> None:
    assert {file.syntax for file in OURS} == {"proto3"}


def _file_lines(file: FileDescriptorProto) -> Iterator[str]:
    yield from _message_lines(file.package, file.package, file.message_type, file.enum_type)
    for service in file.service:
        for method in service.method:
            ask = "stream " * method.client_streaming + method.input_type[1:]
            answer = "stream " * method.server_streaming + method.output_type[1:]
            yield f"rpc {file.package}.{service.name}.{method.name}: {ask} -> {answer}"


def _message_lines(package: str, scope: str, messages: Any, enums: Any) -> Iterator[str]:
    for enum in enums:
        values = ", ".join(f"{value.name}={value.number}" for value in enum.value)
        yield f"enum {scope}.{enum.name}: {values}"
    for message in messages:
        if not message.options.map_entry:
            name = f"{scope}.{message.name}"
            fields = "; ".join(_field(package, message, field) for field in message.field)
            yield f"{name}: {fields or '(no fields)'}"
            yield from _message_lines(package, name, message.nested_type, message.enum_type)


def _field(package: str, message: DescriptorProto, field: FieldDescriptorProto) -> str:
    if entry := _entry(message, field):
        key, value = entry.field
        kind = f"map<{_type(package, key)}, {_type(package, value)}>"
    else:
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        kind = "repeated " * repeated + _type(package, field)
    text = f"{field.number} {field.name} : {kind}"
    assert not field.proto3_optional
    if field.HasField("oneof_index"):
        text += f" (oneof {message.oneof_decl[field.oneof_index].name})"
    return text


def _entry(message: DescriptorProto, field: FieldDescriptorProto) -> DescriptorProto | None:
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
            return nested
    return None


def _type(package: str, field: FieldDescriptorProto) -> str:
    if field.type_name:
        return field.type_name.removeprefix(".").removeprefix(f"{package}.")
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
