"""Chaincode as a service: read ``connection.json``.

Room:      peer.lifecycle   (imports peer.chaincode.connections; used by packages)
Loop:      none
Fabric:    core/container/externalbuilder/instance.go `ChaincodeServerUserData` (release-2.5)
"""

from __future__ import annotations

import json
from typing import Any

from peer.chaincode.connections import ChaincodeServerInfo, ClientTls
from peer.config.values import parse_duration
from peer.errors import PackageError

SERVICE_TYPES = frozenset({"ccaas", "external"})
DIAL_TIMEOUT_S = 3.0


def connection_info(ccid: str, data: bytes) -> ChaincodeServerInfo:
    """Read where a chaincode listens.

    Raises:
        PackageError: not JSON, no address, or TLS asked for without its parts.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise PackageError(f"connection.json of {ccid} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise PackageError(f"connection.json of {ccid} is not a JSON object")
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
