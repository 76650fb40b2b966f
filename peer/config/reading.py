"""Read core.yaml, the environment and the flags into one configuration.

Room:      peer.config   (imports peer.errors)
Loop:      none
Fabric:    internal/peer/common/common.go `InitConfig`, core/config/config.go (release-2.5)

Each source becomes a series of `Given`; a later one replaces an earlier one of the same key.
Nothing is raised before everything has been looked at.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from peer.config.fabric import DOCKER, FOREIGN_ENV, UNUSED
from peer.config.lists import LISTS
from peer.config.settings import Place, env_name, settings_of
from peer.config.values import PATH, PATHS
from peer.errors import ConfigError

if TYPE_CHECKING:
    from peer.config.model import PeerConfig

CONFIG_FILE = "core.yaml"
RUNTIMES = ("docker", "podman", "process")

_RUNTIME_OPTION = re.compile(r"vm\.(?!docker\.)([^.]+)\.(.+)", re.IGNORECASE)
_RUNTIME_OPTION_ENV = re.compile(r"CORE_VM_(?!DOCKER_)([A-Z0-9]+)_(\w+)")


class Given(NamedTuple):
    """One value that a source gives.

    Attributes:
        key: canonical spelling.
        value: text for a setting; for any other key what YAML makes of it.
        origin: short, for `PeerConfig.origins`.
        where: long, for messages.
        name: what the source calls the key.
    """

    key: str
    value: Any
    origin: str
    where: str
    name: str


class Catalogue:
    """Every key there is, found as viper finds it: without regard to case."""

    def __init__(self, config: type[PeerConfig]) -> None:
        self.settings = {place.setting.key: place for place in settings_of(config)}
        others = (*UNUSED, *DOCKER, *(each.key for each in LISTS))
        self._keys = {key.lower(): key for key in (*self.settings, *others)}
        self._env = {place.setting.env: key for key, place in self.settings.items()}
        self._env |= {env_name(key): key for key in others}
        self._sections: dict[str, str] = {}
        for key in self._keys.values():
            while "." in key:
                key = key.rpartition(".")[0]
                self._sections[key.lower()] = key

    def find(self, name: str) -> str | None:
        """Return the canonical spelling of a key, None for an unknown one."""
        if key := self._keys.get(name.lower()):
            return key
        if match := _RUNTIME_OPTION.fullmatch(name):
            return f"vm.{match[1].lower()}.{match[2]}"
        return None

    def find_env(self, name: str) -> str | None:
        """Return the key an environment variable sets, None for an unknown one."""
        if key := self._env.get(name):
            return key
        if match := _RUNTIME_OPTION_ENV.fullmatch(name):
            return f"vm.{match[1]}.{match[2]}".lower()
        return None

    def is_section(self, name: str) -> bool:
        """Tell whether keys may lie below this name."""
        parent, _, leaf = name.lower().rpartition(".")
        return name.lower() in self._sections or (parent == "vm" and bool(leaf))

    def unknown(self, name: str) -> str:
        """Say that a key does not exist, with the nearest that does."""
        hint = _nearest(name.lower(), self._keys | self._sections)
        return f"{name}: unknown key{hint}"

    def unknown_env(self, name: str) -> str:
        """Say that no key has this variable, with the nearest that one has."""
        hint = _nearest(name, {variable: variable for variable in self._env})
        return f"{name}: no setting has this variable{hint}"


def _nearest(name: str, names: Mapping[str, str]) -> str:
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f"; did you mean {names[match[0]]}?" if match else ""


def read(
    config: type[PeerConfig],
    path: str | Path | None,
    env: Mapping[str, str],
    overrides: Mapping[str, str],
) -> PeerConfig:
    """Do what `PeerConfig.load` promises."""
    catalogue = Catalogue(config)
    problems: list[str] = []
    warnings: list[str] = []
    file = _find_file(path, env)
    given: dict[str, Given] = {}
    for source in (
        _from_file(file, catalogue, problems),
        _from_env(env, catalogue, problems),
        _from_flags(overrides, catalogue, problems),
    ):
        given |= {item.key.lower(): item for item in source}

    base = config()
    sections: dict[str, dict[str, Any]] = {"vm": {}}
    for key, place in catalogue.settings.items():
        if item := given.get(key.lower()):
            value = _value(item, place, problems, warnings)
            if file and item.origin != "flag":
                if place.setting.kind is PATH and value:
                    value = str(file.parent / value)
                elif place.setting.kind is PATHS:
                    value = tuple(str(file.parent / path) for path in value)
            sections.setdefault(place.section, {})[place.attribute] = value

    directory = file.parent if file is not None else Path()
    for each in LISTS:
        if item := given.get(each.key.lower()):
            where = f"{item.where}: {item.name}"
            found = tuple(each.entries(item.value, where, directory, problems))
            sections.setdefault(each.section, {})[each.attribute] = found

    runtimes = {*RUNTIMES, sections["vm"].get("runtime", base.vm.runtime).lower()}
    vm = [item for item in given.values() if item.key.startswith("vm.")]
    for item in vm:
        if item.key not in catalogue.settings and item.key.split(".")[1] not in runtimes:
            is_variable = item.origin == item.name
            unknown = catalogue.unknown_env if is_variable else catalogue.unknown
            problems.append(f"{item.where}: {unknown(item.name)}")
    if problems:
        raise ConfigError(problems)
    sections["vm"]["options"] = _nest(vm)
    return replace(
        base,
        **{name: replace(getattr(base, name), **values) for name, values in sections.items()},
        unused={item.key: item.value for item in given.values() if item.key in UNUSED},
        origins={**base.origins, **{item.key: item.origin for item in given.values()}},
        warnings=tuple(warnings),
    )


def _value(item: Given, place: Place, problems: list[str], warnings: list[str]) -> Any:
    setting = place.setting
    try:
        value = setting.kind.parse(item.value)
    except ValueError as exc:
        problems.append(f"{item.where}: {item.name}: {exc}, got '{item.value}'")
        return setting.default
    if setting.minimum is None or value >= setting.minimum:
        return value
    least = setting.kind.show(type(setting.default)(setting.minimum))
    said = f"{item.where}: {item.name}: {item.value} is below the least value {least}"
    if setting.below is None:
        problems.append(said)
        return setting.default
    warnings.append(f"{said}; {setting.kind.show(setting.below)} is used")
    return setting.below


def _nest(items: Iterable[Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for item in items:
        *sections, leaf = item.key.split(".")[1:]
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = item.value
    return tree


def _from_flags(
    overrides: Mapping[str, str], catalogue: Catalogue, problems: list[str]
) -> Iterator[Given]:
    for name, text in overrides.items():
        if key := catalogue.find(name):
            yield Given(key, text, "flag", "flag", name)
        else:
            problems.append(f"flag: {catalogue.unknown(name)}")


def _from_env(env: Mapping[str, str], catalogue: Catalogue, problems: list[str]) -> Iterator[Given]:
    for name, text in sorted(env.items()):
        if not text or name in FOREIGN_ENV:
            continue
        if key := catalogue.find_env(name):
            value = text
            if key.startswith("vm.") and key not in catalogue.settings:
                try:
                    value = yaml.safe_load(text)
                except (yaml.YAMLError, ValueError):
                    problems.append(f"environment: {name}: not a YAML value, got '{text}'")
            yield Given(key, value, name, "environment", name)
        elif name.startswith("CORE_"):
            problems.append(f"environment: {catalogue.unknown_env(name)}")


def _find_file(path: str | Path | None, env: Mapping[str, str]) -> Path | None:
    place = path or env.get("FABRIC_CFG_PATH")
    if not place:
        return None
    file = Path(place)
    return file / CONFIG_FILE if file.is_dir() or not path else file


def _from_file(file: Path | None, catalogue: Catalogue, problems: list[str]) -> Iterator[Given]:
    if file is None:
        return
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is not None:
            yield from _Walk(file, loader, catalogue, problems).section(root)
    except OSError as exc:
        problems.append(f"{file}: {exc.strerror or exc}")
    except yaml.MarkedYAMLError as exc:
        line = f":{exc.problem_mark.line + 1}" if exc.problem_mark else ""
        problems.append(f"{file}{line}: {exc.problem}")
    except (yaml.YAMLError, ValueError) as exc:
        problems.append(f"{file}: {exc}")
    except RecursionError:
        problems.append(f"{file}: nested too deeply")


class _Walk:
    """Goes through the nodes of a file, which know their lines."""

    def __init__(
        self, file: Path, loader: yaml.SafeLoader, catalogue: Catalogue, problems: list[str]
    ) -> None:
        self._file = file
        self._loader = loader
        self._catalogue = catalogue
        self._problems = problems

    def section(self, node: yaml.Node, name: str = "") -> Iterator[Given]:
        """Yield what is below a section; an empty one is none."""
        if _is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            self._problem(node, f"{name or 'the file'}: expected keys and values")
            return
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, f"{name or 'the file'}: a key must be a word")
                return
            key = key_node.value.lower()
            line = first.setdefault(key, _line(key_node))
            if line != _line(key_node) and key != "<<":
                self._problem(key_node, f"{name}.{key}: already given in line {line}".lstrip("."))
        self._loader.flatten_mapping(node)  # anchors merged with <<
        for key_node, value in node.value:
            yield from self._entry(key_node, value, f"{name}.{key_node.value}".lstrip("."))

    def _entry(self, key_node: yaml.Node, value: yaml.Node, name: str) -> Iterator[Given]:
        key = self._catalogue.find(name)
        if key is None and self._catalogue.is_section(name):
            yield from self.section(value, name)
        elif key is None:
            self._problem(key_node, self._catalogue.unknown(name))
        elif _is_null(value):
            pass
        elif key not in self._catalogue.settings:
            content = self._loader.construct_object(value, deep=True)
            yield self._given(key, content, name, key_node)
        elif isinstance(value, yaml.ScalarNode):
            yield self._given(key, value.value, name, key_node)
        elif self._catalogue.settings[key].setting.kind is PATHS and _is_list(value):
            lines = "".join(f"{path.value}\n" for path in value.value)
            yield self._given(key, lines, name, key_node)
        else:
            self._problem(value, f"{name}: expected a single value")

    def _given(self, key: str, value: Any, name: str, node: yaml.Node) -> Given:
        line = _line(node)
        return Given(key, value, f"{self._file.name}:{line}", f"{self._file}:{line}", name)

    def _problem(self, node: yaml.Node, text: str) -> None:
        self._problems.append(f"{self._file}:{_line(node)}: {text}")


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _is_list(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and all(
        isinstance(each, yaml.ScalarNode) for each in node.value
    )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
