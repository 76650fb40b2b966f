"""What the documents say of rooms, dependencies, files and commands is so."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import click
import grimp
import pytest

from peer.cli import cli
from peer.version import VERSION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "adr", ROOT / "examples")
    for path in (folder.rglob("*.md") if folder.name == "examples" else folder.glob("*.md"))
)
PACKAGES = ("peer", "runtimes", "shim", "fabric_protos")
NOTHING = "\N{EN DASH}"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    return re.split(r"\n#+ ", text(page).split(f" {title}\n", 1)[1], maxsplit=1)[0]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def body(table: str) -> list[list[str]]:
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [cells(row) for row in rows[2:]]


# Rooms


def room(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "peer":
        return "peer" if parts[1:] in ([], ["__main__"]) else ".".join(parts[:2])
    return ".".join(parts[:2]) if (ROOT.joinpath(*parts[:2]) / "__init__.py").exists() else parts[0]


def rooms_on_disk() -> set[str]:
    """Every package, and every module directly in `peer`."""
    found = set(PACKAGES)
    for package in ("peer", "runtimes"):
        found |= {
            f"{package}.{path.parent.name}" for path in (ROOT / package).glob("*/__init__.py")
        }
    return found | {
        f"peer.{path.stem}" for path in (ROOT / "peer").glob("*.py") if path.stem[0] != "_"
    }


def real_imports() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return room -> other rooms it imports, and room -> packages of others."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    ours: dict[str, set[str]] = defaultdict(set)
    others: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        if module.split(".")[0] not in PACKAGES:
            continue
        for imported in graph.find_modules_directly_imported_by(module):
            top = imported.split(".")[0]
            if top in PACKAGES:
                ours[room(module)].add(room(imported))
            elif top not in sys.stdlib_module_names:
                others[room(module)].add(top)
    for name, found in ours.items():
        found.discard(name)
    return ours, others


def names(cell: str) -> set[str]:
    return set() if cell == NOTHING else set(cell.split(", "))


def full(name: str) -> str:
    return name if name.split(".")[0] in PACKAGES else f"peer.{name}"


def test_the_room_table_is_the_code() -> None:
    table = {row[0].strip("`"): row for row in body(section("docs/architecture.md", "Rooms"))}
    assert table.keys() == rooms_on_disk()
    ours, others = real_imports()
    for name, (_, _, imports, foreign) in table.items():
        assert {full(each) for each in names(imports)} == ours[name], name
        assert names(foreign) == others[name], name


def test_the_room_table_agrees_with_the_layers() -> None:
    imports = {
        row[0].strip("`"): {full(each) for each in names(row[2])}
        for row in body(section("docs/architecture.md", "Rooms"))
    }
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layered = [each["layers"] for each in contracts if each["type"] == "layers"]
    assert len(layered) == 2
    for layers in layered:
        levels = {name: level for level, line in enumerate(layers) for name in line.split(" | ")}
        for importer, imported in imports.items():
            for name in imported & levels.keys():
                if importer in levels:
                    assert levels[name] > levels[importer], (importer, name)


def test_the_files_to_look_at_exist() -> None:
    rows = body(section("docs/architecture.md", "What happens when …"))
    assert rows
    for _, where in rows:
        directory = ROOT
        for mentioned in re.findall(r"`([\w/]+\.py)`", where):
            directory = (ROOT / mentioned).parent if "/" in mentioned else directory
            assert (directory / Path(mentioned).name).is_file(), mentioned


# Dependencies


EXTRAS = [
    each for required in PROJECT["project"]["optional-dependencies"].values() for each in required
]


def normalised(requirement: str) -> str:
    return re.split(r"[<>=!~ \[;]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize(
    ("title", "declared"),
    [
        ("To run", PROJECT["project"]["dependencies"]),
        ("With an extra", EXTRAS),
        ("To develop", PROJECT["dependency-groups"]["dev"]),
    ],
)
def test_every_dependency_is_explained(title: str, declared: list[str]) -> None:
    explained = [
        name
        for row in body(section("docs/dependencies.md", title))
        for name in re.findall(r"`([\w-]+)`", row[0])
    ]
    assert sorted(explained) == sorted(map(normalised, declared))


def test_every_import_is_a_dependency_or_comes_with_one() -> None:
    known = {normalised(each) for each in [*PROJECT["project"]["dependencies"], *EXTRAS]}
    for row in body(section("docs/dependencies.md", "Through these")):
        (parent,) = re.findall(r"`([\w-]+)`", row[1])
        assert parent in known
        brought = {normalised(each) for each in metadata.requires(parent) or ()}
        through = set(re.findall(r"`([\w-]+)`", row[0]))
        assert through <= brought
        known |= through
    distributions = metadata.packages_distributions()
    _, others = real_imports()
    for module in set().union(*others.values()):
        assert {normalised(name) for name in distributions[module]} & known, module


# Links, files and commands


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", aim.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_directories_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:peer|runtimes|shim|proto|tests|docs|examples|benchmarks|\.ci)/[\w./-]*)`",
        page.read_text(encoding="utf-8"),
    )
    assert not [name for name in named if not (ROOT / name).exists()]


def code_of(page: Path) -> list[str]:
    """Return what a page shows as code: blocks line by line, and spans."""
    whole = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", whole, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^ *```\w*\n.*?^ *```$", "", whole, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(
        r"`([^`]+)`", rest
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", text("Makefile"), re.MULTILINE))
    assert "test" in targets
    for code in code_of(page):
        for words in re.findall(r"^(?:\$ |[A-Z_]+=\S+ )*make((?: [^\s|;&]+)+)$", code):
            named = {word for word in words.split() if re.fullmatch("[a-z]+", word)}
            assert named, code
            assert named <= targets | {"python3-venv"}, code
        for words in re.findall(r"python -m peer((?: [a-z][a-z-]*)*)", code):
            command: click.Command | None = cli
            for word in words.split():
                assert isinstance(command, click.Group), code
                command = command.get_command(click.Context(command), word)
                assert command is not None, code


def test_the_change_log_knows_this_version() -> None:
    assert re.search(rf"^## {re.escape(VERSION)} — ", text("CHANGELOG.md"), re.MULTILINE)


def test_the_test_directories_are_those_of_the_guide() -> None:
    listed = {row[0].strip("`") for row in body(section("CONTRIBUTING.md", "Tests"))}
    there = {
        f"tests/{path.name}"
        for path in (ROOT / "tests").iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert listed == there
