"""What the first docstring of a module says of who uses it is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"): path
    for base, package in (
        (ROOT, "peer"),
        (ROOT, "runtimes"),
        (ROOT, "shim"),
        (ROOT / "proto", "fabric_protos"),
    )
    for path in (base / package).rglob("*.py")
}


def said_users(source: str) -> list[str]:
    """Return the names of modules and rooms behind `used by`, `made by` and their like.

    What is not one word, as `the system chaincodes`, or is a path, names no module.
    """
    docstring = ast.get_docstring(ast.parse(source)) or ""
    line = re.search(r"^Room:.*(?:\n {2,}.*)*", docstring, re.MULTILINE)
    text = " ".join(line[0].split()) if line else ""
    lists = re.findall(r"\b(?:used|made|opened|imported) by ([^;)]+)", text)
    items = [item for each in lists for item in re.split(r", (?:and )?| and ", each)]
    return [item.strip("`") for item in items if not re.search(r"[ /]", item)]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("peer", "runtimes", "shim", "fabric_protos", cache_dir=None)


def users(graph: grimp.ImportGraph, module: str) -> set[str]:
    """Return what imports a module, or the package that re-exports it."""
    found: set[str] = set(graph.find_modules_that_directly_import(module))
    package = module.rpartition(".")[0]
    return found | users(graph, package) if package in found else found


def untrue(graph: grimp.ImportGraph, module: str, source: str) -> list[str]:
    importers = users(graph, module)
    return [
        name
        for name in said_users(source)
        if not any(f".{name}." in f".{importer}." for importer in importers)
    ]


def test_who_is_said_to_use_a_module_imports_it(graph: grimp.ImportGraph) -> None:
    found = {module: untrue(graph, module, path.read_text()) for module, path in FILES.items()}
    assert not {module: names for module, names in found.items() if names}


def test_a_list_is_read_to_its_end(graph: grimp.ImportGraph) -> None:
    room = "Room:      x   (imports cli; made by ground, no_one,\n           `app` and us)"
    source = f'"""Words.\n\n{room}\n"""'
    assert said_users(source) == ["ground", "no_one", "app", "us"]
    assert untrue(graph, "peer.ground", source) == ["ground", "no_one", "us"]
    assert not said_users('"""Words.\n\nRoom:      x   (used by whoever cares)\n"""')
