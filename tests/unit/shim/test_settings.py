"""Flags and variables of a chaincode process, one row per rule."""

from __future__ import annotations

import logging
from base64 import b64encode, encodebytes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shim
from shim.logs import set_up_logging
from shim.settings import TRUE, Settings, read_flags, read_settings, split_address

ID = {"CORE_CHAINCODE_ID_NAME": "cc:1"}
PEM = b"-----BEGIN X-----\nAA==\n-----END X-----\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["-peer.address", "p:1"],
        ["-peer.address=p:1"],
        ["--peer.address", "p:1"],
        ["--peer.address=p:1"],
        ["--peerAddress", "p:1"],
        ["-peerAddress=p:1"],
        ["-a", "p:1"],
        ["start", "--module-path", "/x", "--unknown=1", "--peer.address", "p:1"],
        ["--peer.address", "q:2", "--peer.address", "p:1"],
    ],
)
def test_peer_address(argv: list[str]) -> None:
    settings = read_settings(argv, ID | {"CORE_PEER_ADDRESS": "env:1"})
    assert (settings.address, settings.ccid, settings.is_server) == ("p:1", "cc:1", False)
    assert settings.tls is None


def test_peer_address_from_the_environment() -> None:
    assert read_settings([], ID | {"CORE_PEER_ADDRESS": "p:1"}).address == "p:1"


@pytest.mark.parametrize("flag", ["-i", "--id", "--chaincode-id-name"])
def test_id_from_flags(flag: str) -> None:
    assert read_settings([flag, "cc:2", "-a", "p:1"], ID).ccid == "cc:2"


@pytest.mark.parametrize(
    ("argv", "env", "ccid", "address"),
    [
        ([], ID | {"CHAINCODE_SERVER_ADDRESS": ":9999"}, "cc:1", ":9999"),
        ([], {"CHAINCODE_ID": "s:1", "CHAINCODE_SERVER_ADDRESS": "h:9"}, "s:1", "h:9"),
        ([], {"CORE_CHAINCODE_ID": "n:1", "CORE_CHAINCODE_ADDRESS": "h:9"}, "n:1", "h:9"),
        (["--chaincode-id", "n:1", "--chaincode-address", "h:9"], {}, "n:1", "h:9"),
        (["-a", "p:1"], ID | {"CHAINCODE_SERVER_ADDRESS": "h:9"}, "cc:1", "h:9"),
    ],
)
def test_server_mode(argv: list[str], env: dict[str, str], ccid: str, address: str) -> None:
    settings = read_settings(argv, env)
    assert (settings.ccid, settings.address, settings.is_server) == (ccid, address, True)


@pytest.mark.parametrize(
    ("argv", "env", "message"),
    [
        (["-a", "p:1"], {}, "'CORE_CHAINCODE_ID_NAME' must be set"),
        ([], {"CHAINCODE_SERVER_ADDRESS": "h:9"}, "'CORE_CHAINCODE_ID_NAME' must be set"),
        ([], ID, "flag 'peer.address' must be set"),
        (["--peer.address"], ID, "flag '--peer.address' needs a value"),
        (["--peer.address="], ID, "flag '--peer.address' needs a value"),
        (["-a", "nowhere"], ID, "'nowhere' is not an address"),
        (
            ["-a", "p:1"],
            ID | {"CORE_PEER_TLS_ENABLED": "yes"},
            "'CORE_PEER_TLS_ENABLED' must be set to 'true' or 'false'",
        ),
        (
            ["-a", "p:1"],
            ID | {"CORE_PEER_TLS_ENABLED": "true"},
            "set CORE_TLS_CLIENT_KEY_FILE or CORE_TLS_CLIENT_KEY_PATH",
        ),
        (
            ["-a", "p:1"],
            ID | {"CORE_PEER_TLS_ENABLED": "1", "CORE_TLS_CLIENT_KEY_FILE": "/nowhere/key"},
            "CORE_TLS_CLIENT_KEY_FILE: cannot read '/nowhere/key': No such file",
        ),
    ],
)
def test_refusals(argv: list[str], env: dict[str, str], message: str) -> None:
    with pytest.raises(shim.SetupError) as caught:
        read_settings(argv, env)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["0", "f", "F", "FALSE", "false", "False", ""])
def test_tls_off(value: str) -> None:
    assert read_settings(["-a", "p:1"], ID | {"CORE_PEER_TLS_ENABLED": value}).tls is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("h:1", ("h", 1, "")),
        (":9999", ("", 9999, "")),
        ("[::1]:7052", ("::1", 7052, "")),
        ("unix:///run/p.sock", ("", 0, "/run/p.sock")),
        ("unix:/run/p.sock", ("", 0, "/run/p.sock")),
    ],
)
def test_addresses(address: str, expected: tuple[str, int, str]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address", ["", "h", "h:", "h:x", "h:65536", "http://h:1", "unix:p.sock", "h:٣"]
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(shim.SetupError, match="is not an address"):
        split_address(address)


# TLS material


def files(folder: Path, **contents: bytes) -> dict[str, str]:
    paths = {}
    for variable, content in contents.items():
        path = folder / variable
        path.write_bytes(content)
        paths[variable] = str(path)
    return paths


def client(folder: Path, **contents: bytes) -> Settings:
    env = ID | {"CORE_PEER_TLS_ENABLED": "true"} | files(folder, **contents)
    return read_settings(["-a", "p:1"], env)


@pytest.mark.parametrize(
    "content",
    [b64encode(PEM), encodebytes(PEM), PEM, b"\n" + PEM],
    ids=["base64", "base64-lines", "pem", "pem-after-newline"],
)
def test_path_variables_hold_base64_or_pem(tmp_path: Path, content: bytes) -> None:
    tls = client(
        tmp_path,
        CORE_TLS_CLIENT_KEY_PATH=content,
        CORE_TLS_CLIENT_CERT_PATH=content,
        CORE_PEER_TLS_ROOTCERT_FILE=b"root",
    ).tls
    assert tls is not None
    assert (tls.key.strip(), tls.cert.strip(), tls.ca) == (PEM.strip(), PEM.strip(), b"root")


def test_file_variables_win(tmp_path: Path) -> None:
    tls = client(
        tmp_path,
        CORE_TLS_CLIENT_KEY_FILE=b"key",
        CORE_TLS_CLIENT_KEY_PATH=b64encode(b"other"),
        CORE_TLS_CLIENT_CERT_FILE=b"cert",
        CORE_TLS_CLIENT_CERT_PATH=b64encode(b"other"),
        CORE_PEER_TLS_ROOTCERT_FILE=b"root",
    ).tls
    assert tls is not None
    assert (tls.key, tls.cert, tls.ca) == (b"key", b"cert", b"root")
    assert repr(tls) == "TLS(<key>, cert=<4 bytes>, ca=<4 bytes>)"


def test_a_client_needs_the_root(tmp_path: Path) -> None:
    with pytest.raises(shim.SetupError, match=r"set CORE_PEER_TLS_ROOTCERT_FILE$"):
        client(tmp_path, CORE_TLS_CLIENT_KEY_FILE=b"k", CORE_TLS_CLIENT_CERT_FILE=b"c")


def test_a_path_file_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(shim.SetupError, match="KEY_PATH: the file is neither PEM nor base64"):
        client(tmp_path, CORE_TLS_CLIENT_KEY_PATH=b"abc")


@pytest.mark.parametrize("with_ca", [True, False])
def test_server_tls_from_the_clients_variables(tmp_path: Path, with_ca: bool) -> None:
    contents = {"CORE_TLS_CLIENT_KEY_FILE": b"key", "CORE_TLS_CLIENT_CERT_FILE": b"cert"}
    if with_ca:
        contents["CORE_PEER_TLS_ROOTCERT_FILE"] = b"ca"
    env = ID | {"CHAINCODE_SERVER_ADDRESS": ":9"} | files(tmp_path, **contents)
    assert read_settings([], env).tls is None
    tls = read_settings([], env | {"CORE_PEER_TLS_ENABLED": "true"}).tls
    assert tls is not None
    assert (tls.key, tls.cert, tls.ca) == (b"key", b"cert", b"ca" if with_ca else b"")


def test_server_tls_from_nodes_flags_and_variables(tmp_path: Path) -> None:
    paths = files(tmp_path, key=b64encode(PEM), cert=b"cert", ca=b"ca")
    argv = ["--chaincode-tls-key-path", paths["key"], "--chaincode-tls-cert-file", paths["cert"]]
    env = ID | {
        "CHAINCODE_SERVER_ADDRESS": ":9",
        "CORE_CHAINCODE_TLS_CLIENT_CACERT_FILE": paths["ca"],
    }
    settings = read_settings(argv, env)
    assert settings.tls is not None
    assert (settings.tls.key, settings.tls.cert, settings.tls.ca) == (PEM, b"cert", b"ca")
    assert repr(settings).startswith("Settings(server, 'cc:1', ':9', tls=TLS(<key>")


def test_settings_show_no_more_than_they_should() -> None:
    assert repr(Settings("c", "p:1", False, None)) == "Settings(client, 'c', 'p:1', tls=None)"
    assert "true" in TRUE
    assert read_flags(["positional", "--other", "x"]) == {}


# Logging


@contextmanager
def fresh_logging() -> Iterator[tuple[logging.Logger, logging.Logger]]:
    root, log = logging.getLogger(), logging.getLogger("shim")
    handlers, levels = root.handlers[:], (root.level, log.level)
    root.handlers.clear()
    try:
        yield root, log
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        log.setLevel(levels[1])


@pytest.mark.parametrize(
    ("env", "level", "shim_level"),
    [
        ({}, logging.INFO, logging.INFO),
        ({"CORE_CHAINCODE_LOGGING_LEVEL": "debug"}, logging.DEBUG, logging.DEBUG),
        (
            {"CORE_CHAINCODE_LOGGING_LEVEL": "NOTICE", "CORE_CHAINCODE_LOGGING_SHIM": "warning"},
            logging.INFO,
            logging.WARNING,
        ),
        ({"CORE_CHAINCODE_LOGGING_SHIM": "PANIC"}, logging.INFO, logging.CRITICAL),
        ({"CORE_CHAINCODE_LOGGING_LEVEL": "loud"}, logging.INFO, logging.INFO),
    ],
)
def test_levels(env: dict[str, str], level: int, shim_level: int) -> None:
    with fresh_logging() as (root, log):
        set_up_logging(env)
        assert (root.level, log.level) == (level, shim_level)
        assert len(root.handlers) == 1


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("%(levelname)s|%(message)s", "%(levelname)s|%(message)s"),
        ("%{color}%{message}", "%(asctime)s %(levelname)s %(name)s: %(message)s"),
    ],
)
def test_formats(style: str, expected: str) -> None:
    with fresh_logging() as (root, _):
        set_up_logging({"CORE_CHAINCODE_LOGGING_FORMAT": style})
        assert root.handlers[0].formatter._fmt == expected
