"""Chaincode packages: recognise, unpack, find.

Room:      peer.lifecycle   (imports runtimes.api, archives, service; used by app)
Loop:      none; files are read where it is called
Lifetime:  peer
Fabric:    core/chaincode/persistence/chaincode_package.go, persistence.go (release-2.5)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peer.chaincode.connections import ChaincodeServerInfo
from peer.errors import PackageError
from peer.lifecycle.archives import MAX_UNPACKED_BYTES, read_parts, unpack
from peer.lifecycle.service import SERVICE_TYPES, connection_info
from runtimes.api import ChaincodePackage

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
MAX_LABEL = 150
"""Characters; label and digest together name a directory."""
_NOT_CODE = {"node_modules", "__pycache__", ".git", ".venv", "venv", ".mypy_cache"}
_MARKERS = (
    ("connection.json", "ccaas"),
    ("package.json", "node"),
    ("chaincode", "golang"),
    ("chaincode.jar", "java"),
    ("chaincode.py", "python"),
    ("main.py", "python"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledPackage:
    """A package of this peer.

    Attributes:
        ccid: the package id, ``label:sha256``.
        type: platform in lower case, or ``ccaas`` for a service.
        path: directory of the code.
    """

    ccid: str
    label: str
    type: str
    path: Path


class PackageStore:
    """The packages of one peer.

    A package file is unpacked into the store. A directory is run where it stands, so that an author
    can edit, restart and look again.

    Args:
        directory: where unpacked packages live; made when needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._packages: dict[str, InstalledPackage] = {}
        self._unpacking = threading.Lock()

    def install(self, source: Path, label: str = "") -> InstalledPackage:
        """Install a package file (``.tar.gz`` of lifecycle v2) or a directory of code.

        Args:
            label: of a directory; its name if empty. A package file brings its own.

        Raises:
            PackageError: it does not exist, or is not a usable package.
        """
        try:
            if source.is_dir():
                package = _linked(source.resolve(), label or _as_label(source.resolve().name))
            elif source.is_file():
                package = self._unpacked(source)
            else:
                raise PackageError(f"there is no package or directory {source}")
        except OSError as exc:
            raise PackageError(f"{source} cannot be installed: {exc}") from exc
        self._packages[package.ccid] = package
        return package

    def find(self, ccid: str) -> ChaincodePackage | ChaincodeServerInfo:
        """Return how to run a package, or where it runs as a service.

        Raises:
            PackageError: not installed, or its ``connection.json`` cannot be used.
        """
        package = self._packages.get(ccid)
        if package is None:
            raise PackageError(f"chaincode install package '{ccid}' not found")
        if package.type in SERVICE_TYPES:
            try:
                return connection_info(ccid, (package.path / "connection.json").read_bytes())
            except OSError as exc:
                raise PackageError(f"connection.json of {ccid} cannot be read: {exc}") from exc
        return ChaincodePackage(ccid=ccid, type=package.type, path=package.path)

    def _unpacked(self, source: Path) -> InstalledPackage:
        if source.stat().st_size > MAX_UNPACKED_BYTES:
            raise PackageError(f"{source} is larger than {MAX_UNPACKED_BYTES} bytes")
        data = source.read_bytes()
        try:
            parts = read_parts(data)
            for name in ("metadata.json", "code.tar.gz"):
                if name not in parts:
                    raise PackageError(f"did not find {name} in it")
            label, kind = _metadata(parts["metadata.json"])
        except PackageError as exc:
            raise PackageError(f"{source} is not a chaincode package: {exc}") from exc
        digest = hashlib.sha256(data).hexdigest()
        path = self._directory / f"{label}.{digest}"
        with self._unpacking:
            if not path.exists():
                try:
                    unpack(parts["code.tar.gz"], path)
                except PackageError as exc:
                    raise PackageError(f"the code of {source} cannot be unpacked: {exc}") from exc
        inner = path / "src" if (path / "src").is_dir() else path
        return InstalledPackage(ccid=f"{label}:{digest}", label=label, type=kind, path=inner)


class StartedByHand:
    """The packages in development mode: services are dialled, all else its author starts."""

    def __init__(self, packages: PackageStore) -> None:
        self._packages = packages

    def find(self, ccid: str) -> ChaincodePackage | ChaincodeServerInfo:
        """Return where a service runs; see `PackageStore.find`.

        Raises:
            PackageError: for code, with what to do.
        """
        found = self._packages.find(ccid)
        if isinstance(found, ChaincodeServerInfo):
            return found
        raise PackageError(
            "chaincode.mode is dev and it has not registered; "
            f"start it with CORE_CHAINCODE_ID_NAME={ccid} and the peer's chaincode address"
        )


def _linked(path: Path, label: str) -> InstalledPackage:
    _check_label(label)
    for marker, kind in _MARKERS:
        if (path / marker).is_file():
            return InstalledPackage(
                ccid=f"{label}:{_tree_digest(path)}", label=label, type=kind, path=path
            )
    wanted = ", ".join(marker for marker, _ in _MARKERS)
    raise PackageError(f"{path} holds none of {wanted}: it is no chaincode")


def _tree_digest(path: Path) -> str:
    """Return the SHA-256 of names and contents, so that changed code gets a new package id."""
    digest = hashlib.sha256()
    for file in sorted(_code_files(path)):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(path).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _code_files(path: Path) -> Iterator[Path]:
    def refuse(exc: OSError) -> None:
        raise exc

    for directory, inner, names in os.walk(path, onerror=refuse):
        inner[:] = [name for name in inner if name not in _NOT_CODE]
        for name in names:
            file = Path(directory, name)
            if file.is_file():
                yield file


def _metadata(data: bytes) -> tuple[str, str]:
    """Return label and type, the latter in lower case."""
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise PackageError(f"metadata.json is not JSON: {exc}") from exc
    if not isinstance(metadata, dict):
        raise PackageError("metadata.json is not a JSON object")
    for key in ("label", "type"):
        if not isinstance(metadata.get(key), str):
            raise PackageError(f"metadata.json has no text under '{key}'")
    if not metadata["type"]:
        raise PackageError("metadata.json names no type")
    _check_label(metadata["label"])
    return metadata["label"], metadata["type"].lower()


def _as_label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", name).lstrip("_.+-")[:MAX_LABEL] or "chaincode"


def _check_label(label: str) -> None:
    if not LABEL.fullmatch(label):
        raise PackageError(
            f"invalid label '{label}'. Label must be non-empty, can only consist of alphanumerics, "
            "symbols from '.+-_', and can only begin with alphanumerics"
        )
    if len(label) > MAX_LABEL:
        raise PackageError(f"label of {len(label)} characters; at most {MAX_LABEL} are allowed")
