"""The documents say what the code does."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import pytest

import peer.errors
import runtimes.api
from peer.config import reference
from peer.config.generated import Generated

DOCS = Path(__file__).parents[3] / "docs"


def test_the_configuration_tables_are_those_of_the_settings() -> None:
    document = (DOCS / "configuration.md").read_text(encoding="utf-8")
    tables = reference.TABLES
    assert tables.render() in document, "run: python -m peer.config.reference docs/configuration.md"
    assert tables.update(document) == document


def test_only_the_generated_part_is_renewed() -> None:
    part = Generated("some.module", lambda: ["one", "two"])
    begin, end = "<!-- begin: written by python -m some.module -->", "<!-- end -->"
    document = f"before\n{begin}\nold\n{end}\nafter\n"
    assert part.update(document) == f"before\n{begin}\n\none\ntwo\n{end}\nafter\n"
    with pytest.raises(ValueError, match="in the document"):
        part.update(f"{begin} without end")


@pytest.mark.parametrize("module", [peer.errors, runtimes.api])
def test_every_error_is_explained(module: ModuleType) -> None:
    document = (DOCS / "errors.md").read_text(encoding="utf-8")
    errors = [
        name
        for name, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and value is not peer.errors.PeerError
    ]
    assert errors
    assert not [name for name in errors if f"| `{name}` |" not in document]
