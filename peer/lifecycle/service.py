"""Chaincode as a service: read ``connection.json``.

Room:      peer.lifecycle   (imports peer.chaincode.connections; used by builds)
Loop:      none
Fabric:    core/container/externalbuilder/instance.go `ChaincodeServerUserData`,
           ccaas_builder/cmd/build/main.go (release-2.5)

Packages of the types here need no builder: what Fabric's stock builder does to their
``connection.json`` is done by `expand`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from peer.chaincode.connections import ChaincodeServerInfo
from peer.config.values import parse_duration
from peer.errors import PackageError
from peer.remote import ClientTls

SERVICE_TYPES = frozenset({"ccaas", "external"})
DIAL_TIMEOUT_S = 3.0
CONNECTION = "connection.json"
EXPANSION_VARIABLE = "CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG"
"""Environment variable of the peer: a JSON object whose values templates name."""

_TEMPLATE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_FIELD = re.compile(r"\{\{(?:-\s)?\s*((?:\.[A-Za-z_]\w*)+)\s*(?:\s-)?\}\}", re.ASCII)


def connection_info(ccid: str, data: bytes) -> ChaincodeServerInfo:
    """Read where a chaincode listens.

    Raises:
        PackageError: not JSON, no address, or TLS asked for without its parts.
    """
    document = _object(ccid, data)
    address = document.get("address") or ""
    host, _, port = str(address).rpartition(":")
    if not host:
        raise PackageError("chaincode address not provided")
    if not port.isdecimal() or int(port) > 65535:
        raise PackageError(f"chaincode address {address} has no port number")
    return ChaincodeServerInfo(
        ccid=ccid,
        address=str(address),
        dial_timeout_s=_dial_timeout(ccid, document.get("dial_timeout")),
        tls=_tls(document) if document.get("tls_required") else None,
    )


def expand(ccid: str, data: bytes, environment: Mapping[str, str]) -> bytes:
    """Put the values of `EXPANSION_VARIABLE` in place of templates such as ``{{.peername}}``.

    Of Go's template language a field, or a path of fields, is what an address needs; anything else
    is refused.

    Raises:
        PackageError: not a JSON object, a template that is not understood, or no value for it.
    """
    document = _object(ccid, data)
    text = environment.get(EXPANSION_VARIABLE, "")
    try:
        values = json.loads(text) if text else {}
    except ValueError as exc:
        raise PackageError(f"{EXPANSION_VARIABLE} is not JSON: {exc}") from exc
    for key, value in document.items():
        if isinstance(value, str) and "{{" in value:
            document[key] = _expanded(ccid, key, value, values)
    return json.dumps(document).encode()


def _expanded(ccid: str, key: str, text: str, values: object) -> str:
    def value_of(template: re.Match[str]) -> str:
        field = _FIELD.fullmatch(template[0])
        if field is None:
            raise PackageError(f"{CONNECTION} of {ccid}: {key}: {template[0]} is not understood")
        found = values
        for name in field[1].split(".")[1:]:
            if not isinstance(found, dict) or name not in found:
                raise PackageError(
                    f"{CONNECTION} of {ccid}: {key}: {EXPANSION_VARIABLE} has no value for "
                    f"{template[0]}"
                )
            found = found[name]
        return found if isinstance(found, str) else json.dumps(found)

    return _TEMPLATE.sub(value_of, text)


def _object(ccid: str, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise PackageError(f"connection.json of {ccid} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise PackageError(f"connection.json of {ccid} is not a JSON object")
    return document


def _dial_timeout(ccid: str, value: object) -> float:
    """Read Go duration text or nanoseconds; the stock builder writes ``""`` for "not given"."""
    if value in (None, "", 0):
        return DIAL_TIMEOUT_S
    try:
        return parse_duration(str(value))
    except ValueError as exc:
        raise PackageError(f"connection.json of {ccid}: dial_timeout: {exc}") from exc


def _tls(document: dict[str, Any]) -> ClientTls:
    root = str(document.get("root_cert") or "")
    if not root:
        raise PackageError("chaincode tls root cert not provided")
    if not document.get("client_auth_required"):
        return ClientTls(root=root.encode())
    key = str(document.get("client_key") or "")
    certificate = str(document.get("client_cert") or "")
    if not key:
        raise PackageError("chaincode tls key not provided")
    if not certificate:
        raise PackageError("chaincode tls cert not provided")
    return ClientTls(
        root=root.encode(),
        certificate=certificate.encode(),
        key=key.encode(),
        server_name=str(document.get("domain") or ""),
    )
