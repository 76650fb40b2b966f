"""``connection.json`` and the templates in it."""

from __future__ import annotations

import json

import pytest

from peer.chaincode.connections import ClientTls
from peer.errors import PackageError
from peer.lifecycle.service import EXPANSION_VARIABLE, connection_info, expand

VALUES = {"peername": "org1peer1", "ports": {"cc": 9999}, "quoted": 'a"b\\c'}
ENVIRONMENT = {EXPANSION_VARIABLE: json.dumps(VALUES)}


def expanded(address: str, environment: dict[str, str] = ENVIRONMENT) -> str:
    document = {"address": address, "tls_required": False}
    result = json.loads(expand("cc:1", json.dumps(document).encode(), environment))
    assert result["tls_required"] is False
    return str(result["address"])


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("host:9999", "host:9999"),
        ("{{.peername}}_mycc_ccaas:9999", "org1peer1_mycc_ccaas:9999"),
        ("{{ .peername }}:{{.ports.cc}}", "org1peer1:9999"),
        ("{{- .peername -}}", "org1peer1"),
        ("{{.quoted}}", 'a"b\\c'),
        ("{one}", "{one}"),
    ],
)
def test_templates(template: str, value: str) -> None:
    assert expanded(template) == value


@pytest.mark.parametrize(
    "template",
    ["{{.missing}}", "{{.peername.more}}", "{{.ports.}}", '{{env "X"}}', "{{}}", "{{.}}"],
)
def test_templates_without_a_value(template: str) -> None:
    with pytest.raises(PackageError, match=r"address: ") as caught:
        expanded(template)
    assert template in str(caught.value)


def test_without_values_only_templates_fail() -> None:
    assert expanded("host:1", {}) == "host:1"
    with pytest.raises(PackageError, match="has no value"):
        expanded("{{.peername}}:1", {})
    with pytest.raises(PackageError, match="is not JSON"):
        expanded("host:1", {EXPANSION_VARIABLE: "{"})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 99_999])
def test_no_object(data: bytes) -> None:
    for read in (lambda: expand("cc:1", data, {}), lambda: connection_info("cc:1", data)):
        with pytest.raises(PackageError, match=r"connection\.json of cc:1 is not"):
            read()


def info(**document: object) -> object:
    return connection_info("cc:1", json.dumps({"address": "host:1", **document}).encode())


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, 3.0), ("", 3.0), (0, 3.0), ("10s", 10.0), (2_000_000_000, 2.0)]
)
def test_dial_timeouts(value: object, seconds: float) -> None:
    assert info(dial_timeout=value).dial_timeout_s == seconds  # type: ignore[attr-defined]


def test_tls() -> None:
    assert info(tls_required=False, root_cert="ignored").tls is None  # type: ignore[attr-defined]
    found = info(tls_required=True, root_cert="root").tls  # type: ignore[attr-defined]
    assert found == ClientTls(root=b"root")
    mutual = {"client_auth_required": True, "client_key": "key", "client_cert": "cert"}
    found = info(tls_required=True, root_cert="root", domain="name", **mutual).tls  # type: ignore[attr-defined]
    assert found == ClientTls(root=b"root", certificate=b"cert", key=b"key", server_name="name")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"address": ""}, "chaincode address not provided"),
        ({"address": "host"}, "chaincode address not provided"),
        ({"address": "host:x"}, "no port number"),
        ({"address": "host:65536"}, "no port number"),
        ({"dial_timeout": "soon"}, "dial_timeout"),
        ({"tls_required": True}, "chaincode tls root cert not provided"),
        (
            {"tls_required": True, "root_cert": "r", "client_auth_required": True},
            "chaincode tls key not provided",
        ),
        (
            {
                "tls_required": True,
                "root_cert": "r",
                "client_auth_required": True,
                "client_key": "k",
            },
            "chaincode tls cert not provided",
        ),
    ],
)
def test_connections_that_are_refused(document: dict[str, object], reason: str) -> None:
    with pytest.raises(PackageError, match=reason):
        info(**document)
