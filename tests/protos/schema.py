"""The .proto files as google's protobuf sees them, and the classes of ours that belong to them.

Room:      tests.protos   (imports fabric_protos, grpc_tools and google.protobuf)
Loop:      none
Lifetime:  compiled once, at import; google's classes live in a private descriptor pool
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import betterproto2
from betterproto2_compiler.compile.naming import pythonize_class_name, pythonize_field_name
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from fabric_protos import codec, stream
from fabric_protos.methods import with_methods

ROOT = Path(__file__).resolve().parents[2]
WIRE = ROOT / "proto" / "fabric-wire"
HERE = Path(__file__).resolve().parent
TIMESTAMP = "google.protobuf.Timestamp"


def _compile() -> tuple[FileDescriptorSet, Any]:
    """Return the descriptors of all files, and betterproto2's module of ``every_type.proto``."""
    fabric = sorted(path.relative_to(WIRE).as_posix() for path in WIRE.rglob("*.proto"))
    scripts = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "every_protos"
        package.mkdir()
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{WIRE}", f"-I{HERE}"]
        command += [f"-I{files('grpc_tools') / '_proto'}"]
        for arguments in (
            ["--include_imports", f"--descriptor_set_out={package / 'set.pb'}", *fabric],
            [f"--python_betterproto2_out={package}", "google/protobuf/timestamp.proto"],
        ):
            subprocess.run(
                [*command, *arguments, "every_type.proto"],
                check=True,
                cwd=scratch,
                env=os.environ | {"PATH": scripts},
                stderr=subprocess.DEVNULL,
            )
        generated = package / "every_type" / "__init__.py"
        generated.write_text(with_methods(generated.read_text(encoding="utf-8")), encoding="utf-8")
        sys.path.insert(0, scratch)
        try:
            every = importlib.import_module("every_protos.every_type")
        finally:
            sys.path.remove(scratch)
        return FileDescriptorSet.FromString((package / "set.pb").read_bytes()), every


DESCRIPTORS, EVERY = _compile()

_POOL = DescriptorPool()
for _file in DESCRIPTORS.file:
    _POOL.Add(_file)


@dataclass(frozen=True, repr=False)
class Codec:
    """One of our codecs for one message, beside google's class of it."""

    kind: str
    google: Any
    cls: type
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]

    @property
    def descriptor(self) -> Descriptor:
        descriptor: Descriptor = self.google.DESCRIPTOR
        return descriptor

    def __repr__(self) -> str:
        return f"{self.kind}:{self.descriptor.full_name}"


def google_class(full_name: str) -> Any:
    """Return google's class of a message."""
    return GetMessageClass(_POOL.FindMessageTypeByName(full_name))


def _names() -> Iterator[tuple[str, str]]:
    """Yield package and full name of every message."""

    def walk(package: str, scope: str, messages: Any) -> Iterator[tuple[str, str]]:
        message: DescriptorProto
        for message in messages:
            if not message.options.map_entry:
                name = f"{scope}.{message.name}"
                yield package, name
                yield from walk(package, name, message.nested_type)

    for file in DESCRIPTORS.file:
        yield from walk(file.package, file.package, file.message_type)


def _codecs() -> Iterator[Codec]:
    for package, name in _names():
        python = pythonize_class_name(name.removeprefix(f"{package}."))
        in_stream = getattr(stream, python, None)
        # Of the messages that share a name only those of the first package are in the stream.
        if in_stream and name in (in_stream.__doc__ or ""):
            yield Codec("stream", google_class(name), in_stream, in_stream.decode, _encode_method)
        module = EVERY if package == "every_type" else _module(package)
        yield codec_of(name, getattr(module, python))


def _module(package: str) -> Any:
    return importlib.import_module(f"fabric_protos.{package}")


def codec_of(full_name: str, cls: type[betterproto2.Message]) -> Codec:
    """Return the codec of a betterproto2 class."""
    return Codec(
        "codec", google_class(full_name), cls, lambda data: codec.decode(cls, data), codec.encode
    )


def _encode_method(message: Any) -> bytes:
    data: bytes = message.encode()
    return data


CODECS = tuple(_codecs())


def find(full_name: str, kind: str = "codec") -> Codec:
    """Return one codec."""
    return next(one for one in CODECS if str(one) == f"{kind}:{full_name}")


def python_name(field: FieldDescriptor) -> str:
    """Return our name of a field."""
    name: str = pythonize_field_name(field.name)
    return name


def is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)
