"""Configuration trees: which updates are taken, and what they make."""

from __future__ import annotations

import copy

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fabric_protos.codec import decode, encode
from fabric_protos.common import Config, ConfigGroup, ConfigPolicy, ConfigValue, Policy
from peer.channel.tree import (
    Element,
    Key,
    Kind,
    apply_update,
    elements,
    is_channel_id,
    is_element_name,
    is_mod_policy,
    propose_update,
)
from peer.errors import ConfigUpdateRefused
from tests.unit.channel.trees import Authorised, applied, config, group, groups, value

# Random trees


def content(element: Element) -> object:
    """Return what an element is besides its version."""
    if isinstance(element, ConfigGroup):
        members = (element.groups.keys(), element.values.keys(), element.policies.keys())
        return element.mod_policy, *map(frozenset, members)
    bare = copy.copy(element)
    bare.version = 0
    return encode(bare)


@given(old=groups(), new=groups())
def test_a_proposed_update_makes_the_new_tree_and_moves_versions_by_the_rules(
    old: ConfigGroup, new: ConfigGroup
) -> None:
    before, wanted = elements(old), elements(new)
    contents = {key: content(element) for key, element in wanted.items()}
    changed = {
        key for key in before.keys() & contents.keys() if content(before[key]) != contents[key]
    }
    assume(changed)
    kept = encode(old), encode(new)

    result, authorised = applied(old, propose_update("ch", config(old), config(new)))

    after = elements(result)
    assert {key: content(element) for key, element in after.items()} == contents
    for key, element in after.items():
        expected = before[key].version + (key in changed) if key in before else 0
        assert element.version == expected, key
    assert {key for key, _ in authorised} == changed
    assert all(element is before[key] for key, element in authorised)
    assert (encode(old), encode(new)) == kept, "the arguments were changed"


@given(tree=groups())
def test_versions_alone_are_no_difference(tree: ConfigGroup) -> None:
    moved = decode(ConfigGroup, encode(tree))
    for element in elements(moved).values():
        element.version += 1
    with pytest.raises(ConfigUpdateRefused, match="nothing to update"):
        propose_update("ch", config(tree), config(moved))


@given(old=groups(), new=groups(), which=st.integers(0, 1000), step=st.integers(1, 3))
def test_a_version_that_was_tampered_with_is_refused(
    old: ConfigGroup, new: ConfigGroup, which: int, step: int
) -> None:
    try:
        update = propose_update("ch", config(old), config(new))
    except ConfigUpdateRefused:
        assume(False)
    assert update.read_set is not None
    assert update.write_set is not None
    read, written = elements(update.read_set), elements(update.write_set)
    targets = [*read.values()] + [
        element
        for key, element in written.items()
        if key not in read or read[key].version != element.version
    ]
    targets[which % len(targets)].version += step
    with pytest.raises(ConfigUpdateRefused):
        applied(old, update)


@given(old=groups(), new=groups())
def test_an_update_cannot_be_applied_twice(old: ConfigGroup, new: ConfigGroup) -> None:
    try:
        update = propose_update("ch", config(old), config(new))
    except ConfigUpdateRefused:
        assume(False)
    result, _ = applied(old, update)
    with pytest.raises(ConfigUpdateRefused):
        applied(result, update)


@given(old=groups(), new=groups())
def test_who_may_not_change_an_element_changes_nothing(old: ConfigGroup, new: ConfigGroup) -> None:
    class Denied(Exception):
        pass

    def deny(key: Key, _: Element) -> None:
        raise Denied(key)

    try:
        update = propose_update("ch", config(old), config(new))
    except ConfigUpdateRefused:
        assume(False)
    assert update.read_set is not None
    assert update.write_set is not None
    with pytest.raises(Denied):
        apply_update(old, update.read_set, update.write_set, deny)


# Rules, one by one


def tree() -> ConfigGroup:
    return group(
        1,
        Size=value(2),
        Readers=ConfigPolicy(version=1, policy=Policy(type=1), mod_policy="Admins"),
        Orgs=group(3, One=group(4, MSP=value(5)), Two=group(0)),
    )


def refusal(read: ConfigGroup, written: ConfigGroup) -> str:
    with pytest.raises(ConfigUpdateRefused) as caught:
        apply_update(tree(), read, written, Authorised())
    return str(caught.value)


def test_what_is_read_must_exist() -> None:
    text = refusal(group(1, Colour=value()), group(1, Size=value(3)))
    assert text == "[Value] /Channel/Colour: in the read set, but not in the configuration"


@pytest.mark.parametrize("version", [0, 2])
def test_what_is_read_must_have_that_version(version: int) -> None:
    text = refusal(group(version), group(1, Size=value(3)))
    assert text == f"[Group] /Channel: read at version {version}, but it is at version 1"


def test_an_update_must_change_something() -> None:
    same = group(1, Size=value(2))
    text = "delta set was empty -- update would have no effect"
    assert refusal(same, same) == text
    assert refusal(same, group(1)) == text


@pytest.mark.parametrize("version", [0, 2, 4])
def test_what_changes_must_have_the_next_version(version: int) -> None:
    text = refusal(group(1), group(1, Size=value(version)))
    assert text == f"[Value] /Channel/Size: written at version {version}, but it is at version 2"


def test_what_is_new_must_have_version_0() -> None:
    text = refusal(group(1), group(2, Colour=value(1)))
    assert text == "[Value] /Channel/Colour: written at version 1, but it does not exist yet"


def test_what_is_new_needs_a_new_version_of_its_group() -> None:
    text = refusal(group(1), group(1, Colour=value()))
    assert text.startswith("[Value] /Channel/Colour: written, but its group keeps its version")


@pytest.mark.parametrize("mod_policy", ["", "/", "Admins/", "/Channel//Admins", "a b", ".."])
def test_what_is_written_must_say_who_may_change_it(mod_policy: str) -> None:
    text = refusal(group(1), group(1, Size=value(3, mod_policy=mod_policy)))
    assert text == f"[Value] /Channel/Size: mod_policy {mod_policy!r} names no policy"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "x" * 250])
def test_names_must_be_names(name: str) -> None:
    written = group(1)
    written.groups[name] = group()
    assert refusal(group(1), written).endswith("no element can have that name")
    assert refusal(written, group(1)).endswith("no element can have that name")


def test_a_group_with_a_new_version_keeps_those_it_lists_alone() -> None:
    read = group(1, Orgs=group(3, One=group(4)))
    written = group(1, Orgs=group(4, One=group(4), Three=group(0, MSP=value())))
    result = apply_update(tree(), read, written, Authorised())
    assert result.groups["Orgs"].groups.keys() == {"One", "Three"}
    assert encode(result.groups["Orgs"].groups["One"]) == encode(
        tree().groups["Orgs"].groups["One"]
    )
    assert encode(result.values["Size"]) == encode(tree().values["Size"])


def test_what_is_written_with_the_version_it_was_read_at_stays_as_it_is() -> None:
    read = group(1, Size=value(2), Orgs=group(3, One=group(4)))
    written = group(1, Size=value(2, b"ignored"), Orgs=group(3, One=group(4, MSP=value(6, b"y"))))
    authorised = Authorised()
    result = apply_update(tree(), read, written, authorised)
    assert result.values["Size"].value == b"x"
    assert result.groups["Orgs"].groups["One"].values["MSP"].value == b"y"
    assert [str(key) for key, _ in authorised] == ["[Value] /Channel/Orgs/One/MSP"]


def test_a_value_a_policy_and_a_group_may_share_a_name() -> None:
    old = group(0, Same=group(0, x=value()))
    old.values["Same"] = value()
    old.policies["Same"] = ConfigPolicy(mod_policy="Admins")
    new = decode(ConfigGroup, encode(old))
    new.policies["Same"].policy = Policy(type=1)
    result, authorised = applied(old, propose_update("ch", config(old), config(new)))
    assert result.policies["Same"].version == 1
    assert [key for key, _ in authorised] == [Key(Kind.POLICY, ("Channel", "Same"))]


def test_elements_without_policy_get_one_once_there_are_orderer_capabilities() -> None:
    bare = value(mod_policy="")
    old = group(0, "", Size=value(), Bare=bare, Readers=ConfigPolicy(), Sub=group(0, ""))
    read, written = group(0), group(0, Size=value(1))

    result = apply_update(old, read, written, Authorised())
    assert {str(key): each.mod_policy for key, each in elements(result).items()} == {
        "[Group] /Channel": "",
        "[Group] /Channel/Sub": "",
        "[Value] /Channel/Bare": "",
        "[Value] /Channel/Size": "Admins",
        "[Policy] /Channel/Readers": "",
    }

    old.groups["Orderer"] = group(0, Capabilities=value())
    result = apply_update(old, read, written, Authorised())
    assert {each.mod_policy for each in elements(result).values()} == {"Admins"}
    assert bare.mod_policy == "", "the current configuration was changed"


def test_the_smallest_update_names_what_differs_alone() -> None:
    new = tree()
    new.groups["Orgs"].groups["One"].values["MSP"].value = b"y"
    update = propose_update("ch", config(tree()), config(new))
    bare = {"mod_policy": ""}
    assert update.channel_id == "ch"
    assert update.read_set is not None
    assert update.write_set is not None
    assert encode(update.read_set) == encode(
        group(1, **bare, Orgs=group(3, **bare, One=group(4, **bare)))
    )
    assert encode(update.write_set) == encode(
        group(1, **bare, Orgs=group(3, **bare, One=group(4, **bare, MSP=value(6, b"y"))))
    )


def test_a_group_whose_policy_alone_differs_is_written_with_all_its_members() -> None:
    new = tree()
    new.groups["Orgs"].mod_policy = "Writers"
    update = propose_update("ch", config(tree()), config(new))
    result, authorised = applied(tree(), update)
    assert result.groups["Orgs"].mod_policy == "Writers"
    assert result.groups["Orgs"].groups.keys() == {"One", "Two"}
    assert [str(key) for key, _ in authorised] == ["[Group] /Channel/Orgs"]


@pytest.mark.parametrize("missing", [0, 1])
def test_a_configuration_without_tree_cannot_be_updated(missing: int) -> None:
    both = [config(tree()), config(tree())]
    both[missing] = Config()
    with pytest.raises(ConfigUpdateRefused, match="without channel group"):
        propose_update("ch", *both)


def test_unknown_fields_survive() -> None:
    odd = decode(ConfigValue, encode(value()) + b"\xfa\x01\x01?")
    old = group(0, Odd=odd, Size=value())
    result = apply_update(old, group(0), group(0, Size=value(1)), Authorised())
    assert encode(result.values["Odd"]).endswith(b"\xfa\x01\x01?")


@pytest.mark.parametrize(
    ("text", "channel", "element"),
    [
        ("mychannel", True, True),
        ("a.b-1", True, True),
        ("A", False, True),
        ("1a", False, True),
        ("a_b", False, False),
        ("a\n", False, False),
        ("", False, False),
        ("x" * 249, True, True),
        ("x" * 250, False, False),
    ],
)
def test_names(text: str, channel: bool, element: bool) -> None:
    assert (is_channel_id(text), is_element_name(text)) == (channel, element)
    assert is_mod_policy(f"/Channel/{text}") == element
