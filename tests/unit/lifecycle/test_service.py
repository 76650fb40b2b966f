"""What ``connection.json`` may say."""

from __future__ import annotations

import json

import pytest

from peer.chaincode.connections import ChaincodeServerInfo, ClientTls
from peer.errors import PackageError
from peer.lifecycle.service import connection_info

TLS = {"address": "cc:9999", "tls_required": True, "root_cert": "root"}
CLIENT = {**TLS, "client_auth_required": True, "client_key": "key", "client_cert": "cert"}


def read(document: object) -> ChaincodeServerInfo:
    return connection_info("cc:1", json.dumps(document).encode())


@pytest.mark.parametrize(
    ("document", "dial_timeout_s"),
    [
        ({}, 3.0),
        ({"dial_timeout": ""}, 3.0),
        ({"dial_timeout": None}, 3.0),
        ({"dial_timeout": "10s"}, 10.0),
        ({"dial_timeout": "1m30s"}, 90.0),
        ({"tls_required": False, "root_cert": "unused"}, 3.0),
        ({"unknown": "of a later version"}, 3.0),
    ],
)
def test_without_tls(document: dict[str, object], dial_timeout_s: float) -> None:
    assert read({"address": "cc:9999", **document}) == ChaincodeServerInfo(
        ccid="cc:1", address="cc:9999", dial_timeout_s=dial_timeout_s
    )


def test_with_tls() -> None:
    assert read(TLS).tls == ClientTls(root=b"root")
    assert read({**CLIENT, "domain": "cc.example"}).tls == ClientTls(
        root=b"root", certificate=b"cert", key=b"key", server_name="cc.example"
    )
    assert "the secret" not in repr(read({**CLIENT, "client_key": "the secret"}))


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "is not a JSON object"),
        ("text", "is not a JSON object"),
        ({}, "chaincode address not provided"),
        ({"address": ""}, "chaincode address not provided"),
        ({"address": "9999"}, "chaincode address not provided"),
        ({"address": ":9999"}, "chaincode address not provided"),
        ({"address": "cc:http"}, "has no port number"),
        ({"address": "cc:"}, "has no port number"),
        ({"address": "cc:65536"}, "has no port number"),
        ({"address": "cc:-1"}, "has no port number"),
        ({"address": "cc:1", "dial_timeout": "soon"}, "dial_timeout"),
        ({**TLS, "root_cert": ""}, "tls root cert not provided"),
        ({**CLIENT, "client_key": ""}, "tls key not provided"),
        ({**CLIENT, "client_cert": ""}, "tls cert not provided"),
    ],
    ids=repr,
)
def test_refusals(document: object, why: str) -> None:
    with pytest.raises(PackageError, match=why):
        read(document)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["", "{", "ff", "["])
def test_what_is_not_json(data: bytes) -> None:
    with pytest.raises(PackageError, match=r"connection\.json of cc:1 is not JSON"):
        connection_info("cc:1", data)
