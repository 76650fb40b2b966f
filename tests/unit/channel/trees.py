"""Configuration trees to try updates on: small ones by hand, random ones by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from fabric_protos.common import (
    Config,
    ConfigGroup,
    ConfigPolicy,
    ConfigUpdate,
    ConfigValue,
    Policy,
)
from peer.channel.tree import Element, Key, apply_update

NAMES = st.sampled_from(["a", "b", "C.1", "d-2"])
MOD_POLICIES = st.sampled_from(["Admins", "Writers", "/Channel/Admins", "sub/Admins"])
VERSIONS = st.integers(0, 3)


def values() -> st.SearchStrategy[ConfigValue]:
    content = st.binary(max_size=1)
    return st.builds(ConfigValue, version=VERSIONS, value=content, mod_policy=MOD_POLICIES)


def policies() -> st.SearchStrategy[ConfigPolicy]:
    policy = st.none() | st.builds(Policy, type=st.integers(1, 3), value=st.binary(max_size=1))
    return st.builds(ConfigPolicy, version=VERSIONS, policy=policy, mod_policy=MOD_POLICIES)


def groups(depth: int = 2) -> st.SearchStrategy[ConfigGroup]:
    below = st.dictionaries(NAMES, groups(depth - 1), max_size=2) if depth else st.just({})
    return st.builds(
        ConfigGroup,
        version=VERSIONS,
        groups=below,
        values=st.dictionaries(NAMES, values(), max_size=3),
        policies=st.dictionaries(NAMES, policies(), max_size=3),
        mod_policy=MOD_POLICIES,
    )


class Authorised(list[tuple[Key, Element]]):
    """Lets everything be changed, and remembers what was."""

    def __call__(self, key: Key, element: Element) -> None:
        self.append((key, element))


def applied(old: ConfigGroup, update: ConfigUpdate) -> tuple[ConfigGroup, Authorised]:
    assert update.read_set is not None
    assert update.write_set is not None
    authorised = Authorised()
    return apply_update(old, update.read_set, update.write_set, authorised), authorised


def config(group: ConfigGroup) -> Config:
    return Config(channel_group=group)


def value(version: int = 0, content: bytes = b"x", mod_policy: str = "Admins") -> ConfigValue:
    return ConfigValue(version=version, value=content, mod_policy=mod_policy)


def group(version: int = 0, /, mod_policy: str = "Admins", **members: Element) -> ConfigGroup:
    """Make a group; its members are told apart by their types."""
    made = ConfigGroup(version=version, mod_policy=mod_policy)
    for name, member in members.items():
        match member:
            case ConfigGroup():
                made.groups[name] = member
            case ConfigValue():
                made.values[name] = member
            case ConfigPolicy():
                made.policies[name] = member
    return made
