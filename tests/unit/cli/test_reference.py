"""The page of commands says what the commands are."""

from __future__ import annotations

from pathlib import Path

from peer.cli import cli, reference

PAGE = Path(__file__).parents[3] / "docs" / "commands.md"


def test_the_tables_are_those_of_the_commands() -> None:
    document = PAGE.read_text(encoding="utf-8")
    tables = reference.TABLES
    assert tables.render() in document, "run: python -m peer.cli.reference docs/commands.md"
    assert tables.update(document) == document


def test_every_command_is_there_once() -> None:
    names = [name for name, _ in reference.commands(cli)]
    assert len(set(names)) == len(names)
    assert {"chaincode invoke", "lifecycle chaincode commit", "node start", "version"} <= {*names}
    page = PAGE.read_text(encoding="utf-8")
    for name in names:
        assert page.count(f"\n### `{name}`\n") + page.count(f"\n### `{name} ") == 1, name
