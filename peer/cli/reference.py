"""The tables of docs/commands.md, written from the commands themselves.

Room:      peer.cli
Loop:      none

``python -m peer.cli.reference docs/commands.md`` brings the file up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import click

from peer.cli import cli
from peer.cli.flags import OrdererFlags, PeerFlags
from peer.config.generated import Generated

SHARED = {"of peers": PeerFlags._fields, "of the orderer": OrdererFlags._fields}
"""Flags that many commands have: they stand on the page once."""


def commands(group: click.Group, *names: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group with its whole name, groups left out."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


def _lines() -> Iterator[str]:
    family = ""
    everything = list(commands(cli))
    for title, names in SHARED.items():
        yield f"## Flags {title}"
        yield ""
        command = next(command for _, command in everything if _has(command, names))
        yield from _table(each for each in _options(command) if each.name in names)
    for name, command in everything:
        if family != (family := name.split()[0]):
            yield f"## {family}"
            yield ""
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        usage = " ".join((name, *(each.make_metavar(click.Context(command)) for each in arguments)))
        yield f"### `{usage}`"
        yield ""
        yield " ".join((command.help or "").split())
        yield ""
        shared = {title: names for title, names in SHARED.items() if _has(command, names)}
        known = {name for names in shared.values() for name in names}
        yield from _table(each for each in _options(command) if each.name not in known)
        if shared:
            yield f"And the flags {' and '.join(shared)}."
            yield ""


def _options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option)]


def _has(command: click.Command, names: Collection[str]) -> bool:
    return {*names} <= {each.name for each in _options(command)}


def _table(options: Iterable[click.Option]) -> Iterator[str]:
    rows = [_row(each) for each in options]
    if rows:
        yield "| flag | default | meaning |"
        yield "|---|---|---|"
        yield from rows
        yield ""


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    meaning = f"{option.help or ''} Required." if option.required else option.help or ""
    return f"| {names} | {_default(option)} | {meaning} |"


def _default(option: click.Option) -> str:
    if isinstance(option.default, bool) and option.default:
        return "on"
    return f"`{option.default}`" if option.show_default and option.default else ""


TABLES = Generated("peer.cli.reference", _lines)

if __name__ == "__main__":
    TABLES.write(Path(sys.argv[1]))
