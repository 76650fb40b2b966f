"""The configuration tree: its elements by path, what an update changes, and the update itself.

Room:      peer.channel   (imports fabric_protos, peer.errors; used by configtx, bundle and the CLI)
Loop:      none
Lifetime:  none: functions of messages, which they leave as they are
Fabric:    common/configtx/{update,configmap}.go, internal/configtxlator/update (release-2.5)

A tree of `ConfigGroup` becomes a dictionary of elements, because an update speaks of elements: the
read set names those it relies on, the write set those it changes, both by version.
"""

from __future__ import annotations

import copy
import enum
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from fabric_protos.codec import encode
from fabric_protos.common import Config, ConfigGroup, ConfigPolicy, ConfigUpdate, ConfigValue
from peer.errors import ConfigUpdateRefused

ROOT = "Channel"
MAX_NAME = 249

_NAME = re.compile(r"[a-zA-Z0-9.-]+")
_CHANNEL = re.compile(r"[a-z][a-z0-9.-]*")

Element = ConfigGroup | ConfigValue | ConfigPolicy
Leaf = TypeVar("Leaf", ConfigValue, ConfigPolicy)


class Kind(enum.Enum):
    """What an element is; one path may name one of each."""

    GROUP = "Group"
    VALUE = "Value"
    POLICY = "Policy"


class Key(NamedTuple):
    """Where an element stands: its path from the root, its own name last."""

    kind: Kind
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"[{self.kind.value}] /{'/'.join(self.path)}"

    @property
    def group(self) -> tuple[str, ...]:
        """Path of the group whose policies decide on the element: its own, if it is a group."""
        return self.path if self.kind is Kind.GROUP else self.path[:-1]


Elements = Mapping[Key, Element]


def is_channel_id(text: str) -> bool:
    """Tell whether a channel may have this name."""
    return len(text) <= MAX_NAME and _CHANNEL.fullmatch(text) is not None


def is_element_name(text: str) -> bool:
    """Tell whether an element of the tree may have this name."""
    return len(text) <= MAX_NAME and text not in (".", "..") and _NAME.fullmatch(text) is not None


def is_mod_policy(text: str) -> bool:
    """Tell whether a mod_policy is a path, relative or absolute."""
    return all(is_element_name(part) for part in text.removeprefix("/").split("/"))


def elements(root: ConfigGroup) -> dict[Key, Element]:
    """Return every element of a tree by its key.

    Raises:
        ConfigUpdateRefused: an element has a name that none may have, or no content.
    """
    found: dict[Key, Element] = {}
    _collect((ROOT,), root, found)
    return found


def _collect(path: tuple[str, ...], group: ConfigGroup, found: dict[Key, Element]) -> None:
    found[Key(Kind.GROUP, path)] = group
    for kind, members in (
        (Kind.GROUP, group.groups),
        (Kind.VALUE, group.values),
        (Kind.POLICY, group.policies),
    ):
        for name, member in members.items():
            key = Key(kind, (*path, name))
            if not is_element_name(name):
                raise ConfigUpdateRefused(f"{key}: no element can have that name")
            if isinstance(member, ConfigGroup):
                _collect(key.path, member, found)
            else:
                found[key] = member


def apply_update(
    current: ConfigGroup,
    read_set: ConfigGroup,
    write_set: ConfigGroup,
    authorise: Callable[[Key, Element], None],
) -> ConfigGroup:
    """Return the tree that an update makes of the current one, whose unchanged leaves it shares.

    Args:
        authorise: called with every existing element that is to change, as it is now; raises
            where the update may not change it.

    Raises:
        ConfigUpdateRefused: the update relies on something that is not so, changes nothing, gives
            an element a wrong version, or writes one that would not be part of the result.
    """
    now = elements(current)
    read = elements(read_set)
    written = elements(write_set)
    for key, element in read.items():
        _check_read(key, element, now)
    delta = {
        key: element
        for key, element in written.items()
        if key not in read or read[key].version != element.version
    }
    if not delta:
        raise ConfigUpdateRefused("delta set was empty -- update would have no effect")
    for key, element in delta.items():
        _check_written(key, element, now)
        if key in now:
            authorise(key, now[key])
    result = _overlaid({**now, **delta})
    for key in written.keys() - elements(result).keys():
        raise ConfigUpdateRefused(
            f"{key}: written, but its group keeps its version and with it its members"
        )
    return result


def _check_read(key: Key, element: Element, now: Elements) -> None:
    if key not in now:
        raise ConfigUpdateRefused(f"{key}: in the read set, but not in the configuration")
    if now[key].version != element.version:
        raise ConfigUpdateRefused(
            f"{key}: read at version {element.version}, but it is at version {now[key].version}"
        )


def _check_written(key: Key, element: Element, now: Elements) -> None:
    if not is_mod_policy(element.mod_policy):
        raise ConfigUpdateRefused(f"{key}: mod_policy {element.mod_policy!r} names no policy")
    if key in now and element.version != now[key].version + 1:
        raise ConfigUpdateRefused(
            f"{key}: written at version {element.version}, but it is at version {now[key].version}"
        )
    if key not in now and element.version != 0:
        raise ConfigUpdateRefused(
            f"{key}: written at version {element.version}, but it does not exist yet"
        )


def _overlaid(found: Elements) -> ConfigGroup:
    """Build the tree of these elements; a group's members are those it lists itself."""
    # Channels of v1.0 have elements that nobody could change; with capabilities they get a policy.
    heals = Key(Kind.VALUE, (ROOT, "Orderer", "Capabilities")) in found

    def group_at(path: tuple[str, ...]) -> ConfigGroup:
        listed = found[Key(Kind.GROUP, path)]
        assert isinstance(listed, ConfigGroup)
        return ConfigGroup(
            version=listed.version,
            mod_policy=listed.mod_policy or ("Admins" if heals else ""),
            groups={name: group_at((*path, name)) for name in listed.groups},
            values={
                name: leaf_at(Kind.VALUE, (*path, name), listed.values) for name in listed.values
            },
            policies={
                name: leaf_at(Kind.POLICY, (*path, name), listed.policies)
                for name in listed.policies
            },
        )

    def leaf_at(kind: Kind, path: tuple[str, ...], listed: Mapping[str, Leaf]) -> Leaf:
        leaf = found[Key(kind, path)]
        assert isinstance(leaf, type(listed[path[-1]]))
        if leaf.mod_policy or not heals:
            return leaf
        healed = copy.copy(leaf)
        healed.mod_policy = "Admins"
        return healed

    return group_at((ROOT,))


def propose_update(channel_id: str, old: Config, new: Config) -> ConfigUpdate:
    """Return the smallest update that makes the new configuration of the old one.

    Versions in *new* do not count: the update has those that `apply_update` asks for.

    Raises:
        ConfigUpdateRefused: nothing differs, or one of the two has no channel group.
    """
    if old.channel_group is None or new.channel_group is None:
        raise ConfigUpdateRefused("a configuration without channel group cannot be updated")
    change = _Change.between(old.channel_group, new.channel_group)
    if not change.differs:
        raise ConfigUpdateRefused("no differences; there is nothing to update")
    return ConfigUpdate(channel_id=channel_id, read_set=change.read, write_set=change.written)


class _Change(NamedTuple):
    """What a group's update reads and writes."""

    differs: bool
    read: ConfigGroup
    written: ConfigGroup

    @classmethod
    def between(cls, old: ConfigGroup, new: ConfigGroup) -> _Change:
        """Compare two groups with all below them."""
        read = ConfigGroup(version=old.version)
        written = ConfigGroup(version=old.version)
        same_values = _compare_leaves(old.values, new.values, written.values)
        same_policies = _compare_leaves(old.policies, new.policies, written.policies)
        same_groups = {}
        for name, group in new.groups.items():
            if name not in old.groups:
                written.groups[name] = _as_new(group)
                continue
            change = cls.between(old.groups[name], group)
            if change.differs:
                read.groups[name], written.groups[name] = change.read, change.written
            else:
                same_groups[name] = change.read
        members_differ = any(
            mine.keys() != theirs.keys()
            for mine, theirs in (
                (old.values, new.values),
                (old.policies, new.policies),
                (old.groups, new.groups),
            )
        )
        if members_differ or old.mod_policy != new.mod_policy:
            # A group that changes itself lists all its members, also those that stay.
            written.version, written.mod_policy = old.version + 1, new.mod_policy
            for side in (read, written):
                side.values.update(same_values)
                side.policies.update(same_policies)
                side.groups.update(same_groups)
        differs = written.version != old.version or bool(
            written.values or written.policies or written.groups
        )
        return cls(differs, read, written)


def _compare_leaves(
    old: Mapping[str, Leaf], new: Mapping[str, Leaf], written: dict[str, Leaf]
) -> dict[str, Leaf]:
    """Add what is new or other to *written*; return what stays, as version alone."""
    same = {}
    for name, leaf in new.items():
        if name not in old:
            written[name] = _at_version(leaf, 0)
        elif encode(_at_version(leaf, old[name].version)) == encode(old[name]):
            same[name] = type(leaf)(version=old[name].version)
        else:
            written[name] = _at_version(leaf, old[name].version + 1)
    return same


def _at_version(leaf: Leaf, version: int) -> Leaf:
    moved = copy.copy(leaf)
    moved.version = version
    return moved


def _as_new(group: ConfigGroup) -> ConfigGroup:
    return ConfigGroup(
        mod_policy=group.mod_policy,
        groups={name: _as_new(below) for name, below in group.groups.items()},
        values={name: _at_version(leaf, 0) for name, leaf in group.values.items()},
        policies={name: _at_version(leaf, 0) for name, leaf in group.policies.items()},
    )
