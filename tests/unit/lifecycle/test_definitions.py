"""Names and versions that may be defined."""

from __future__ import annotations

import pytest

from peer.errors import InvalidDefinition
from peer.lifecycle.definitions import check_name, check_version


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
