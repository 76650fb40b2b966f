"""What a channel has agreed on."""

from __future__ import annotations

import pytest

from peer.chaincode.support import EndorsementInfo
from peer.chaincode.transactions import TransactionParams
from peer.errors import InvalidDefinition, LedgerError, UnknownChaincode
from peer.lifecycle.definitions import (
    ChaincodeDefinition,
    DefinitionStore,
    check_name,
    check_version,
)


def definition(name: str = "cc", **more: object) -> ChaincodeDefinition:
    return ChaincodeDefinition(name=name, version="1", ccid=f"{name}:1", **more)


def use(channel_id: str, name: str) -> TransactionParams:
    return TransactionParams(channel_id=channel_id, tx_id="1", namespace=name)


def test_definitions_belong_to_their_channel() -> None:
    store = DefinitionStore()
    store.define("one", definition(init_required=True))
    assert store.get("one", "cc") == definition(init_required=True)
    assert store.endorsement_info("one", "cc", None) == EndorsementInfo("1", "cc:1", True)
    for channel_id, name in (("two", "cc"), ("one", "other"), ("", "")):
        with pytest.raises(UnknownChaincode) as caught:
            store.endorsement_info(channel_id, name, None)
        assert (caught.value.channel_id, caught.value.name) == (channel_id, name)


def test_a_later_definition_replaces_the_earlier() -> None:
    store = DefinitionStore()
    store.define("one", definition(collections=frozenset({"old"})))
    store.define("two", definition())
    seen_before = store.collections("one")
    replacement = ChaincodeDefinition(
        name="cc", version="2", ccid="cc:2", collections=frozenset({"new"})
    )
    store.define("one", replacement)
    assert store.get("one", "cc") == replacement
    assert seen_before == {"cc": {"new"}}  # who holds the mapping sees the change
    assert store.ccids() == {"cc:1", "cc:2"}
    store.define("two", replacement)
    assert store.ccids() == {"cc:2"}


def test_only_defined_collections_may_be_used() -> None:
    store = DefinitionStore()
    store.define("one", definition(collections=frozenset({"secrets"})))
    assert store.permissions(use("one", "cc"), "secrets") == (True, True)
    for place in (("one", "cc", "other"), ("one", "dd", "secrets"), ("two", "cc", "secrets")):
        with pytest.raises(LedgerError) as caught:
            store.permissions(use(*place[:2]), place[2])
        assert str(caught.value) == f"collection {'/'.join(place)} could not be found"


@pytest.mark.parametrize("name", ["a", "7", "Asset-transfer_basic", "a-b-c", "a1_b2", "x" * 300])
def test_names_that_are_allowed(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        "_lifecycle",
        "a__b",
        "a-_b",
        "a.b",
        "a b",
        "a/b",
        "a:1",
        "a\n",
        "\u00e4",
        "a+b",
    ],
)
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(InvalidDefinition, match=r"^invalid chaincode name '") as caught:
        check_name(name)
    assert caught.value.name == name


@pytest.mark.parametrize("name", ["cscc", "escc", "lscc", "qscc", "vscc"])
def test_names_of_the_system(name: str) -> None:
    with pytest.raises(InvalidDefinition, match=f"^chaincode name '{name}' is that of a system"):
        check_name(name)


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0+build-7_x", "-", "..."])
def test_versions_that_are_allowed(version: str) -> None:
    check_version("cc", version)


@pytest.mark.parametrize("version", ["", "1 0", "1/0", "1:0", "1\n", "\u00e9"])
def test_versions_that_are_not(version: str) -> None:
    with pytest.raises(InvalidDefinition, match=r"^invalid chaincode version '") as caught:
        check_version("cc", version)
    assert caught.value.name == "cc"
