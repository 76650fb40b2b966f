"""Flags with Go's habits, and what is shared of them."""

from __future__ import annotations

from typing import Any

import click
import pytest

from peer.cli.flags import (
    FabricCommand,
    OrdererFlags,
    PeerFlags,
    orderer_flags,
    peer_flags,
    wait_flags,
)

seen: dict[str, Any] = {}


@click.command(cls=FabricCommand)
@click.argument("rest", nargs=-1)
@click.option("-I", "--isInit", "is_init", is_flag=True)
@click.option("-c", "--ctor", default="{}")
@peer_flags
@orderer_flags
@wait_flags(default=True)
def example(**given: Any) -> None:
    seen.clear()
    seen.update(given)


def run(*args: str) -> dict[str, Any]:
    example.main(list(args), standalone_mode=False)
    return seen


def test_what_holds_without_flags() -> None:
    assert run() == {
        "rest": (),
        "is_init": False,
        "ctor": "{}",
        "wait_s": 30.0,
        "peers": PeerFlags((), ()),
        "orderer": OrdererFlags("", False, False, "", "", "", "", 3.0),
    }


@pytest.mark.parametrize(
    ("args", "is_init"),
    [
        (["--isInit"], True),
        (["-I"], True),
        (["-I=true"], True),
        (["--isInit=true"], True),
        (["--isInit=T"], True),
        (["--isInit=false"], False),
        (["--isInit=0"], False),
    ],
)
def test_switches_may_have_a_value(args: list[str], is_init: bool) -> None:
    assert run(*args)["is_init"] is is_init


def test_a_switch_that_is_on_by_itself_can_be_turned_off() -> None:
    assert run("--waitForEvent=false")["wait_s"] is None
    assert run("--waitForEvent=true", "--waitForEventTimeout", "1m30s")["wait_s"] == 90.0
    assert run("--tls=true")["orderer"].orderer_tls


def test_values_of_other_flags_and_arguments_stay_as_they_are() -> None:
    found = run("-c", "x=false", "y=false", "--", "--isInit=true", "a=b")
    assert (found["ctor"], found["is_init"]) == ("x=false", False)
    assert found["rest"] == ("y=false", "--isInit=true", "a=b")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--isInit=perhaps"], "does not take a value"),
        (["--connTimeout", "soon"], "expected a duration"),
        (["--waitForEventTimeout=1x"], "expected a duration"),
    ],
)
def test_values_that_are_none(args: list[str], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        run(*args)


def test_what_may_be_given_several_times() -> None:
    flags = ["--peerAddresses", "a:1", "--peerAddresses", "b:2", "--tlsRootCertFiles", "r"]
    assert run(*flags)["peers"] == PeerFlags(("a:1", "b:2"), ("r",))
