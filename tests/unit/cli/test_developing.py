"""How lines of the prompt are read, and chaincodes named."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from peer.cli.developing import Call, read_call
from peer.dev import name_for
from peer.lifecycle.definitions import check_name


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("f", Call([b"f"], {})),
        (" f  'a b' \"\" ü ", Call([b"f", b"a b", b"", "ü".encode()], {})),
        ('{"Args":["f","a b"]}', Call([b"f", b"a b"], {})),
        ('{"function":"f","Args":["--transient"]}', Call([b"f", b"--transient"], {})),
        ('f a --transient \'{"k":"AAE="}\'', Call([b"f", b"a"], {"k": b"\x00\x01"})),
        ('{"Args":["f"]} --transient \'{"k":""}\'', Call([b"f"], {"k": b""})),
    ],
)
def test_calls(text: str, call: Call) -> None:
    assert read_call(text) == call


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "which function"),
        ("{}", "which function"),
        ('f "', "No closing quotation"),
        ('{"Args":', "Expecting value"),
        ('{"Args":[1]}', "must be a list of strings"),
        ('{"Args":["f"]} more', "what is 'more'"),
        ("f --transient", "what is '--transient'"),
        ("f --transient {} a", "what is '--transient {} a'"),
        ("f --transient {", "error parsing transient string"),
    ],
)
def test_what_is_no_call_is_refused(text: str, said: str) -> None:
    with pytest.raises(click.ClickException) as refused:
        read_call(text)
    assert said in refused.value.format_message()


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("asset_transfer", "asset_transfer"),
        ("fabric-chaincode", "fabric-chaincode"),
        (".my__cc (copy)", "my-cc-copy"),
        ("1.0", "1-0"),
        ("ü", "chaincode"),
    ],
)
def test_a_directory_gives_a_name_that_may_be_defined(directory: str, name: str) -> None:
    assert name_for(Path("/code", directory)) == name
    check_name(name)
