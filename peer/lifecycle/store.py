"""The packages of one peer, on disk where Fabric keeps them.

Room:      peer.lifecycle   (imports packages, legacy, peer.errors; used by builds)
Loop:      none; it blocks, and is called in a thread where packages are large
Lifetime:  peer; packages survive it
Fabric:    core/chaincode/persistence/persistence.go, core/common/ccprovider/ccprovider.go
           (release-2.5)
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from peer.errors import AlreadyInstalled, NotInstalled, PackageError
from peer.lifecycle.legacy import Deployment, describe_deployment, read_deployment
from peer.lifecycle.packages import Package, read_package

log = logging.getLogger("peer.lifecycle")

MAX_PACKAGE_BYTES = 1 << 30
PART_PREFIX = ".ccpackage."
DIRECTORY_MODE = 0o750

_FILE = re.compile(r"(.+)[.]([0-9a-f]{64})[.]tar[.]gz")
_LEGACY_FILE = re.compile(r"([A-Za-z0-9_-]+)[.]([A-Za-z0-9_.+-]+)")


class Installed(NamedTuple):
    """A package file of this peer."""

    ccid: str
    label: str
    path: Path
    legacy: bool = False

    def read(self) -> Package:
        """
        Raises:
            PackageError: the file has gone, or is not what was installed.
        """
        try:
            data = self.path.read_bytes()
        except OSError as exc:
            raise PackageError(f"chaincode install package '{self.ccid}' not found: {exc}") from exc
        package = read_deployment(data) if self.legacy else read_package(data)
        if package.ccid != self.ccid:
            raise PackageError(f"{self.path} holds {package.ccid}: the file was changed")
        return package


class PackageStore:
    """Package files by id.

    Args:
        directory: ``peer.fileSystemPath``.
    """

    def __init__(self, directory: Path) -> None:
        self._packages_dir = directory / "lifecycle" / "chaincodes"
        self._legacy_dir = directory / "chaincodes"
        for path in self._entries(self._packages_dir):
            if path.name.startswith(PART_PREFIX):  # of a peer that was killed
                path.unlink()
        self._deployments: dict[str, Deployment] = {}
        for installed in self.list():
            if installed.legacy:
                self._describe(installed)

    def save(self, data: bytes) -> tuple[Installed, Package]:
        """Keep a package: one of lifecycle v2, or a deployment spec.

        Raises:
            PackageError: it is no acceptable package, or a deployment spec of the same name and
                version has other content.
            AlreadyInstalled: it is here already.
            OSError: it cannot be written.
        """
        package = read_package(data) if data.startswith(b"\x1f\x8b") else read_deployment(data)
        found = self._place(package.ccid)
        try:
            same = found.path.read_bytes() == data
        except FileNotFoundError:
            pass
        else:
            if same:
                raise AlreadyInstalled(package.ccid)
            if found.legacy:
                raise PackageError(f"chaincode {found.ccid} is installed with other content")
        found.path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
        _write(found.path, data)
        if found.legacy:
            self._deployments[found.ccid] = describe_deployment(data)
        return found, package

    def delete(self, ccid: str) -> None:
        """Remove a package; none there is fine."""
        self._deployments.pop(ccid, None)
        self._place(ccid).path.unlink(missing_ok=True)

    def deployment(self, ccid: str) -> Deployment | None:
        """Return what a deployment spec is, without reading it again; None if there is none."""
        return self._deployments.get(ccid)

    def has(self, ccid: str) -> bool:
        """Tell whether a package is here."""
        try:
            return self._place(ccid).path.is_file()
        except PackageError:
            return False

    def find(self, ccid: str) -> Installed:
        """Look a package up, among those of lifecycle v2 first.

        Raises:
            NotInstalled: it is not.
        """
        found = self._place(ccid)
        if not found.path.is_file():
            raise NotInstalled(ccid)
        return found

    def list(self) -> list[Installed]:
        """Return every package that is installed, ordered by id."""
        found = [
            Installed(f"{match[1]}:{match[2]}", match[1], path)
            for path in self._entries(self._packages_dir)
            if (match := _FILE.fullmatch(path.name))
        ]
        found += [
            Installed(f"{match[1]}:{match[2]}", match[1], path, legacy=True)
            for path in self._entries(self._legacy_dir)
            if (match := _LEGACY_FILE.fullmatch(path.name))
        ]
        return sorted(found, key=lambda package: package.ccid)

    def _describe(self, installed: Installed) -> None:
        try:
            self._deployments[installed.ccid] = describe_deployment(installed.path.read_bytes())
        except (OSError, PackageError) as exc:
            log.warning("%s cannot be used: %s", installed.path, exc)

    def _place(self, ccid: str) -> Installed:
        """Return where a package is or would be.

        Raises:
            NotInstalled: no package has such an id.
        """
        name = ccid.replace(":", ".", 1)
        label = ccid.partition(":")[0]
        if _FILE.fullmatch(f"{name}.tar.gz") and "/" not in name:
            return Installed(ccid, label, self._packages_dir / f"{name}.tar.gz")
        if ":" in ccid and _LEGACY_FILE.fullmatch(name):
            return Installed(ccid, label, self._legacy_dir / name, legacy=True)
        raise NotInstalled(ccid)

    def _entries(self, directory: Path) -> Iterator[Path]:
        if directory.is_dir():
            yield from sorted(path for path in directory.iterdir() if path.is_file())


def _write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, whatever happens meanwhile."""
    fd, part = tempfile.mkstemp(prefix=PART_PREFIX, dir=path.parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o640)
        os.rename(part, path)
    except BaseException:
        os.unlink(part)
        raise
