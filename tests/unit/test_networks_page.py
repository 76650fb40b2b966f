"""Every command that docs/networks.md tells people to run can be run as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from peer import PeerConfig
from peer.cli import cli

PAGE = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [line for line in LINES if line.startswith("triopeer ")]
VARIABLES = [word for line in LINES if line.startswith("export ") for word in line.split()[1:]]


def test_there_are_some() -> None:
    assert len(COMMANDS) >= 6
    assert len(VARIABLES) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_exists_with_these_flags(line: str) -> None:
    command: click.Command = cli
    args = shlex.split(line)[1:]
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, found, args = command.resolve_command(context, args)
        assert found is not None, name
        command = found
    command.make_context(command.name, args, resilient_parsing=False)


def test_the_variables_are_settings(tmp_path: Path) -> None:
    env = dict(variable.split("=", 1) for variable in VARIABLES)
    assert not PeerConfig.load(env=env).unused


def test_the_settings_are_read(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert yaml.safe_load(text)
    (tmp_path / "core.yaml").write_text(text)
    [override] = PeerConfig.load(tmp_path, env={}).delivery.address_overrides
    assert (override.channel_address, override.address) == (
        "orderer.example.com:7050",
        "10.0.0.7:7050",
    )
    assert override.roots == str(tmp_path / "tls" / "orderer-ca.crt")
