"""One line per setting: its default, key, environment variable, limits and help.

Room:      peer.config
Loop:      none

`setting` is a dataclass field that carries all of that; loading, ``config show`` and the tables of
docs/configuration.md read it back with `settings_of`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple, TypeVar

from peer.config.values import BOOLEAN, DURATION, INTEGER, TEXT, Kind

T = TypeVar("T")

_KIND_OF_TYPE: Mapping[type, Kind[Any]] = {
    bool: BOOLEAN,
    int: INTEGER,
    float: DURATION,
    str: TEXT,
}


def env_name(key: str) -> str:
    """Return the environment variable of a key, by viper's rule with Fabric's prefix."""
    return "CORE_" + key.upper().replace(".", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known about one setting.

    Attributes:
        key: its place in core.yaml, Fabric's spelling.
        env: its environment variable.
        kind: how its text is read.
        default: the value where nothing sets it.
        minimum: the least value that is accepted.
        below: what a value under `minimum` becomes, with a warning; None makes it an error.
        doc: one sentence of help.
    """

    key: str
    env: str
    kind: Kind[Any]
    default: Any
    minimum: float | None
    below: Any
    doc: str


class Place(NamedTuple):
    """Where a setting's value lives: ``config.<section>.<attribute>``."""

    section: str
    attribute: str
    setting: Setting


def setting(
    default: T,
    *,
    key: str,
    doc: str,
    kind: Kind[T] | None = None,
    env: str = "",
    minimum: float | None = None,
    below: T | None = None,
    secret: bool = False,
) -> T:
    """Declare a dataclass field that is a setting; the kind follows from the default's type.

    Args:
        secret: leave the value out of the configuration's representation.
    """
    described = Setting(
        key=key,
        env=env or env_name(key),
        kind=kind or _KIND_OF_TYPE[type(default)],
        default=default,
        minimum=minimum,
        below=below,
        doc=doc,
    )
    return field(default=default, metadata={Setting: described}, repr=not secret)


def settings_of(config: type[Any]) -> Iterator[Place]:
    """Yield every setting of a configuration class, section by section, as declared."""
    for section in fields(config):
        factory: Any = section.default_factory
        if is_dataclass(factory):
            for attribute in fields(factory):
                if Setting in attribute.metadata:
                    yield Place(section.name, attribute.name, attribute.metadata[Setting])
