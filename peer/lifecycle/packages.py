"""Chaincode packages: recognise, unpack, find.

Room:      peer.lifecycle   (imports runtimes.api, peer.chaincode.connections; used by app)
Loop:      none; files are read where it is called
Lifetime:  peer
Fabric:    core/chaincode/persistence/chaincode_package.go, persistence.go (release-2.5)
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer.chaincode.connections import ChaincodeServerInfo
from peer.errors import PackageError
from peer.lifecycle.service import SERVICE_TYPES, connection_info
from runtimes.api import ChaincodePackage

MAX_UNPACKED_BYTES = 1 << 30
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
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

    def install(self, source: Path, label: str = "") -> InstalledPackage:
        """Install a package file (``.tar.gz`` of lifecycle v2) or a directory of code.

        Args:
            label: of a directory; its name if empty. A package file brings its own.

        Raises:
            PackageError: it does not exist, or is not a usable package.
        """
        if source.is_dir():
            package = _linked(source.resolve(), label or _as_label(source.resolve().name))
        elif source.is_file():
            package = self._unpacked(source.read_bytes(), str(source))
        else:
            raise PackageError(f"there is no package or directory {source}")
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
            return connection_info(ccid, (package.path / "connection.json").read_bytes())
        return ChaincodePackage(ccid=ccid, type=package.type, path=package.path)

    def _unpacked(self, data: bytes, source: str) -> InstalledPackage:
        try:
            parts = dict(_regular_files(data))
            metadata = json.loads(parts["metadata.json"])
            code = parts["code.tar.gz"]
            label, kind = str(metadata["label"]), str(metadata["type"]).lower()
        except KeyError as exc:
            raise PackageError(f"{source}: did not find {exc} in the package") from exc
        except (tarfile.TarError, OSError, EOFError, ValueError, TypeError) as exc:
            raise PackageError(f"{source} is not a chaincode package: {exc}") from exc
        _check_label(label)
        digest = hashlib.sha256(data).hexdigest()
        path = self._directory / f"{label}.{digest}"
        if not path.exists():
            _extract(code, path, source)
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
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if file.is_file() and _NOT_CODE.isdisjoint(relative.parts):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{relative.as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _as_label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", name).lstrip("_.+-") or "chaincode"


def _check_label(label: str) -> None:
    if not LABEL.fullmatch(label):
        raise PackageError(
            f"invalid label '{label}'. Label must be non-empty, can only consist of alphanumerics, "
            "symbols from '.+-_', and can only begin with alphanumerics"
        )


def _regular_files(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for member in tar:
            if not member.isreg():
                raise PackageError(f"package entry {member.name} is not a regular file")
            if member.size > MAX_UNPACKED_BYTES:
                raise PackageError(f"package entry {member.name} is larger than 1 GiB")
            file: Any = tar.extractfile(member)
            yield member.name, file.read()


def _extract(code: bytes, path: Path, source: str) -> None:
    """Unpack the code next to its place and move it there, so that half of it is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    part = path.with_name(path.name + ".part")
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(code), mode="r:gz") as tar:
            for member in tar:
                if not (member.isreg() or member.isdir()):
                    raise PackageError(f"{source}: {member.name} is neither file nor directory")
                total += member.size
                if total > MAX_UNPACKED_BYTES:
                    raise PackageError(f"{source}: more than 1 GiB of code")
                tar.extract(member, part, filter="data")
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise PackageError(f"{source}: its code cannot be unpacked: {exc}") from exc
    part.rename(path)
