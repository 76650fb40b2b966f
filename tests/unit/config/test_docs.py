"""The documents say what the code does."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import pytest

import peer.errors
import runtimes.api
from peer.config import reference

DOCS = Path(__file__).parents[3] / "docs"


def test_the_configuration_tables_are_those_of_the_settings() -> None:
    document = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert reference.render() in document, (
        "run: python -m peer.config.reference docs/configuration.md"
    )
    assert reference.update(document) == document


def test_only_the_generated_part_is_renewed() -> None:
    document = f"before\n{reference.BEGIN}\nold\n{reference.END}\nafter\n"
    assert reference.update(document) == f"before\n{reference.render()}\nafter\n"
    with pytest.raises(ValueError, match="in the document"):
        reference.update(f"{reference.BEGIN} without end")


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
