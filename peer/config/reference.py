"""The tables of docs/configuration.md, written from the settings themselves.

Room:      peer.config
Loop:      none

``python -m peer.config.reference docs/configuration.md`` brings the file up to date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from peer.config.fabric import DOCKER, FOREIGN_ENV, UNUSED
from peer.config.generated import Generated
from peer.config.model import PeerConfig
from peer.config.settings import Setting, settings_of


def _lines() -> Iterator[str]:
    yield "## Settings"
    yield ""
    for section, places in groupby(settings_of(PeerConfig), key=lambda place: place.section):
        yield f"### `{section}`"
        yield ""
        yield "| key and variable | kind | default | meaning |"
        yield "|---|---|---|---|"
        yield from (_row(place.setting) for place in places)
        yield ""
    yield "## Options of the container runtimes"
    yield ""
    yield "Handed to the backend as they are."
    yield ""
    yield from _grouped(DOCKER)
    yield "## Accepted, not used"
    yield ""
    yield "Keys of Fabric's peer that load without effect."
    yield ""
    yield from _grouped(UNUSED)
    yield "Variables that are for a chaincode's library and therefore left alone:"
    yield ", ".join(f"`{name}`" for name in sorted(FOREIGN_ENV)) + "."
    yield ""


def _row(setting: Setting) -> str:
    default = setting.kind.show(setting.default)
    text = default if isinstance(default, str) else json.dumps(default)
    meaning = setting.doc
    if setting.minimum:
        least = setting.kind.show(type(setting.default)(setting.minimum))
        meaning += f" At least {least}"
        if setting.below is not None:
            meaning += f"; anything less becomes {setting.kind.show(setting.below)}, with a warning"
        meaning += "."
    shown = f"`{text}`" if text else "empty"
    return f"| `{setting.key}`<br>`{setting.env}` | {setting.kind.name} | {shown} | {meaning} |"


def _grouped(keys: tuple[str, ...]) -> Iterator[str]:
    def section(key: str) -> str:
        return key.rpartition(".")[0]

    for name, members in groupby(keys, key=section):
        leaves = ", ".join(f"`{key.rpartition('.')[2]}`" for key in members)
        yield f"- `{name}`: {leaves}"
    yield ""


TABLES = Generated("peer.config.reference", _lines)

if __name__ == "__main__":
    TABLES.write(Path(sys.argv[1]))
