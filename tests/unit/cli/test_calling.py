"""What the JSON of a call may be, and how Go would print the answer."""

from __future__ import annotations

import click
import pytest

from fabric_protos.lifecycle import (
    ChaincodeSource,
    ChaincodeSourceLocal,
    QueryApprovedChaincodeDefinitionResult,
)
from peer.cli.calling import Invocation, read_constructor
from peer.cli.gotext import response_text, to_json


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("{}", []),
        ('{"Args":[]}', []),
        ('{"Args":["f","ä",""]}', [b"f", "ä".encode(), b""]),
        ('{"args":["f"]}', [b"f"]),
        ('{"Function":"f","Args":["a"]}', [b"f", b"a"]),
        ('{"ARGS":["a"],"function":"f"}', [b"f", b"a"]),
    ],
)
def test_constructors(text: str, args: list[bytes]) -> None:
    assert read_constructor(text) == args


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "chaincode argument error: "),
        ("", "chaincode argument error: "),
        ("[]", "expected a JSON object"),
        ('{"Args":[1]}', '"Args" must be a list of strings'),
        ('{"Args":"f"}', '"Args" must be a list of strings'),
        ('{"Args":"f","Function":"g"}', '"Args" must be a list of strings'),
        ('{"Args":null,"Function":7}', '"Args" must be a list of strings'),
        ('{"Function":"f"}', "must contain the following keys: 'Args'"),
        ('{"Arguments":[]}', "must contain the following keys: 'Args'"),
        ('{"Args":[],"more":1}', "must contain the following keys: 'Args'"),
    ],
)
def test_constructors_that_cannot_be_meant(text: str, said: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        read_constructor(text)
    assert said in caught.value.message


def test_transient_data_are_base64() -> None:
    call = Invocation.read("c", "n", "{}", '{"a":"AAE="}', is_init=True)
    assert call.transient == {"a": b"\0\1"}
    assert call.payload.is_init


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"a":"*"}', '{"a":1}', '{"a":"AA"}'])
def test_transient_data_that_are_none(text: str) -> None:
    with pytest.raises(click.ClickException, match="error parsing transient string: "):
        Invocation.read("c", "n", "{}", text)


def test_responses_as_debug_text() -> None:
    assert response_text(200, "", b"") == "status:200"
    assert response_text(500, 'no "x"\n\\', b"\x00a\xff") == (
        'status:500 message:"no \\"x\\"\\n\\\\" payload:"\\000a\\377"'
    )


def test_messages_as_go_marshals_structs() -> None:
    local = ChaincodeSource(local_package=ChaincodeSourceLocal(package_id="a:1"))
    found = QueryApprovedChaincodeDefinitionResult(
        sequence=2, version="<1>", validation_parameter=b"\1", source=local
    )
    assert to_json(found) == (
        '{\n\t"sequence": 2,\n\t"version": "<1>",\n\t"validation_parameter": "AQ==",\n'
        '\t"source": {\n\t\t"Type": {\n\t\t\t"LocalPackage": {\n'
        '\t\t\t\t"package_id": "a:1"\n\t\t\t}\n\t\t}\n\t}\n}'
    )
