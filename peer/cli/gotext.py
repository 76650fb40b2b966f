"""Go's ways to print messages, for what scripts look at.

Room:      peer.cli
Loop:      none
Fabric:    encoding/json and protobuf's debug text, as Fabric's command uses them
"""

from __future__ import annotations

import base64
import dataclasses
import json
from enum import IntEnum
from typing import Any

import betterproto2

from fabric_protos.lifecycle import ChaincodeSource

_SHORT = {ord('"'): '\\"', ord("\\"): "\\\\", 10: "\\n", 13: "\\r", 9: "\\t"}


def response_text(status: int, message: str, payload: bytes) -> str:
    """Return a ``protos.Response`` as a log line of Fabric's has it."""
    parts = [f"status:{status}"]
    if message:
        parts.append(f'message:"{_escaped(message.encode())}"')
    if payload:
        parts.append(f'payload:"{_escaped(payload)}"')
    return " ".join(parts)


def _escaped(data: bytes) -> str:
    return "".join(
        _SHORT.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in data
    )


def to_json(message: betterproto2.Message) -> str:
    """Return a message as Go's ``encoding/json`` indents its struct: no proto JSON."""
    return json.dumps(_tree(message), indent="\t", ensure_ascii=False)


def _tree(value: Any) -> Any:
    match value:
        case ChaincodeSource():
            return {"Type": _source(value)}  # Go has a field for a oneof, and no tag for it
        case betterproto2.Message():
            names = (each.name for each in dataclasses.fields(type(value)))  # type: ignore[arg-type] # every message is a dataclass
            fields = ((name, getattr(value, name)) for name in names)
            return {name: _tree(content) for name, content in fields if _is_there(content)}
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {key: _tree(value[key]) for key in sorted(value)}
        case list():
            return [_tree(each) for each in value]
        case IntEnum():
            return int(value)
    return value


def _is_there(value: Any) -> bool:
    """Tell whether Go's ``omitempty`` leaves a field in."""
    return isinstance(value, betterproto2.Message) or bool(value)


def _source(source: ChaincodeSource) -> dict[str, Any]:
    if source.local_package is not None:
        return {"LocalPackage": _tree(source.local_package)}
    return {"Unavailable": {}}
