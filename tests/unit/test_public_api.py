"""Every public name is explained, by itself and in docs/api.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import peer
import shim

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "api.md").read_text(encoding="utf-8")
LIBRARIES = pytest.mark.parametrize("library", [peer, shim], ids=["peer", "shim"])
CONSTANTS = {"ERROR", "ERROR_THRESHOLD", "OK"}


def listed(section: str) -> dict[str, str]:
    """Return name -> sentence of one section's table."""
    body = PAGE.split(f"\n## {section}\n")[1].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", body, re.MULTILINE))


def public_members(cls: type) -> Iterator[tuple[str, object]]:
    for name, member in inspect.getmembers_static(cls):
        defined_by_us = any(
            name in base.__dict__ and base.__module__.split(".")[0] in ("peer", "shim")
            for base in cls.__mro__
        )
        if not name.startswith("_") and defined_by_us:
            yield name, member


@LIBRARIES
def test_the_page_lists_exactly_the_public_names(library: ModuleType) -> None:
    assert listed(f"`{library.__name__}`").keys() == set(library.__all__)


@LIBRARIES
def test_all_is_what_type_checkers_see_and_what_is_there(library: ModuleType) -> None:
    assert library.__file__ is not None
    source = Path(library.__file__).read_text(encoding="utf-8")
    assert sorted(re.findall(r"^    from .+ import (\w+) as \1$", source, re.MULTILINE)) == sorted(
        library.__all__
    )
    assert all(getattr(library, name) is not None for name in library.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = library.nothing


@LIBRARIES
def test_every_class_function_and_method_has_a_docstring(library: ModuleType) -> None:
    bare = []
    for name in set(library.__all__) - CONSTANTS:
        value = getattr(library, name)
        assert inspect.isclass(value) or inspect.isfunction(value), name
        if not value.__doc__:
            bare.append(name)
        if inspect.isclass(value):
            bare += [
                f"{name}.{member}"
                for member, found in public_members(value)
                if (callable(found) or isinstance(found, property | classmethod | staticmethod))
                and not found.__doc__
            ]
    assert not bare


def test_the_constants_have_the_values_of_the_page() -> None:
    for name in CONSTANTS:
        assert listed("`shim`")[name].startswith(str(getattr(shim, name)))


def test_the_page_names_the_members_of_the_peer() -> None:
    sentence = listed("`peer`")["Peer"]
    attributes = {name for name, _ in public_members(peer.Peer)} | {"chaincode"}
    assert set(re.findall(r"`(\w+)`", sentence)) == attributes


def test_the_chaincode_page_has_every_method_of_the_stubs() -> None:
    page = (DOCS / "chaincode.md").read_text(encoding="utf-8").split("\n## Names\n")[1]
    names = {name for name, _ in public_members(shim.ChaincodeStub)}
    assert names == {name for name, _ in public_members(shim.SyncChaincodeStub)}
    assert not [name for name in names if not re.search(rf"`{name}[`(]", page)]
