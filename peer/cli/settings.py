"""What ``config show`` shows: each setting, its value and where that comes from.

Room:      peer.cli
Loop:      none
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click

from peer.config.fabric import SECRET
from peer.config.model import PeerConfig
from peer.config.settings import settings_of

HIDDEN = "********"
_TREES = {"podman": ("docker", "podman")}
"""Runtimes that read other parts of the ``vm`` tree than the one named after them."""


class Row(NamedTuple):
    """One line of the listing; `value` is what JSON shows."""

    key: str
    value: object
    origin: str
    used: bool


def show(path: Path | None, *, everything: bool, as_json: bool) -> None:
    """Print the value of each setting and where it comes from."""
    loaded = PeerConfig.load(path)
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    rows = [row for row in _rows(loaded) if row.used or everything]
    if as_json:
        click.echo(json.dumps({row.key: _described(row) for row in rows}, indent=2, default=str))
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        for row in rows:
            click.echo(f"{row.key}\t{_text(row.value)}\t{_origin(row)}")


def _rows(loaded: PeerConfig) -> Iterator[Row]:
    for section, attribute, setting in settings_of(PeerConfig):
        value = setting.kind.show(getattr(getattr(loaded, section), attribute))
        shown = HIDDEN if value and setting.key in SECRET else value
        yield Row(setting.key, shown, loaded.origins[setting.key], True)
    for key, value in _options("vm", loaded.vm.options, loaded.origins):
        used = key.split(".")[1] in _TREES.get(loaded.vm.runtime, (loaded.vm.runtime,))
        yield Row(key, value, loaded.origins[key], used)
    for key, value in loaded.unused.items():
        yield Row(key, HIDDEN if key in SECRET else value, loaded.origins[key], False)


def _options(
    prefix: str, options: Mapping[str, object], origins: Mapping[str, str]
) -> Iterator[tuple[str, object]]:
    for name, value in options.items():
        key = f"{prefix}.{name}"
        if key not in origins and isinstance(value, Mapping):
            yield from _options(key, value, origins)
        elif prefix != "vm":  # vm.runtime and vm.endpoint are settings
            yield key, value


def _described(row: Row) -> dict[str, object]:
    return {"value": row.value, "origin": row.origin, "used": row.used}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _origin(row: Row) -> str:
    return row.origin if row.used else f"{row.origin} (accepted, not used)"


def _print_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for row in rows:
        changed = "bold" if row.origin != "default" else ""
        table.add_row(row.key, Text(_text(row.value)), _origin(row), style=changed)
    Console().print(table)
