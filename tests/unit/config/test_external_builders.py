"""``chaincode.externalBuilders``, the one list of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.config import PeerConfig
from peer.config.model import ExternalBuilder
from peer.errors import ConfigError

VARIABLE = "CORE_CHAINCODE_EXTERNALBUILDERS"


def load(directory: Path, builders: str) -> tuple[ExternalBuilder, ...]:
    file = directory / "core.yaml"
    file.write_text(f"chaincode:\n  externalBuilders: {builders}\n")
    return PeerConfig.load(file, env={}).chaincode.external_builders


def test_builders_in_their_order(tmp_path: Path) -> None:
    text = "[{name: b, path: /b, propagateEnvironment: [HOME, X]}, {path: own/a, name: a}]"
    assert load(tmp_path, text) == (
        ExternalBuilder(name="b", path=Path("/b"), propagate_environment=("HOME", "X")),
        ExternalBuilder(name="a", path=tmp_path / "own" / "a"),
    )


@pytest.mark.parametrize("none", ["", "[]", "null"])
def test_none(tmp_path: Path, none: str) -> None:
    assert load(tmp_path, none) == ()


def test_from_the_environment() -> None:
    config = PeerConfig.load(env={VARIABLE: "[{name: a, path: /a}]"})
    assert config.chaincode.external_builders == (ExternalBuilder(name="a", path=Path("/a")),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seven", "expected path, name"),
        ("[seven]", "expected path, name"),
        ("[{name: a}]", "expected path, name"),
        ("[{path: /a}]", "expected path, name"),
        ("[{name: 7, path: /a}]", "expected path, name"),
        ("[{name: a, path: /a, typo: 1}]", "expected path, name"),
        ("[{name: a, path: /a, propagateEnvironment: X}]", "must be a list of names"),
        ("[{name: a, path: /a, propagateEnvironment: [7]}]", "must be a list of names"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load(tmp_path, text)
    assert "core.yaml:2" in str(caught.value)


def test_a_variable_that_is_no_yaml() -> None:
    with pytest.raises(ConfigError, match=VARIABLE):
        PeerConfig.load(env={VARIABLE: "[{"})
