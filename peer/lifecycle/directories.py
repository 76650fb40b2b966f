"""Directories of code that are installed without being packed.

Room:      peer.lifecycle   (imports archive, indexes, packages, platforms; used by builds)
Loop:      none; it blocks, and is called in a thread
Lifetime:  as long as the peer knows the directory
Fabric:    none
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from peer.errors import PackageError
from peer.lifecycle import archive
from peer.lifecycle.indexes import ROOT, check_index
from peer.lifecycle.packages import NOT_CODE, check_label
from peer.lifecycle.platforms import PLATFORMS
from peer.lifecycle.service import CONNECTION

UNKNOWN = "unknown"
"""Type of a directory of which only its author's command tells how it runs."""

_MARKERS = (
    (CONNECTION, "ccaas"),
    *((marker, platform.name) for platform in PLATFORMS.values() for marker in platform.markers),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledPackage:
    """Code that is installed on this peer.

    Attributes:
        ccid: the package id, ``label:sha256``; of a deployment spec ``name:version``.
        type: platform in lower case, or ``ccaas`` for a service.
        path: the package file, or the directory that runs where it stands.
        command, env: of a directory; see `runtimes.api.ChaincodePackage`.
    """

    ccid: str
    label: str
    type: str
    path: Path
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


def index_files_of(directory: Path) -> dict[str, bytes]:
    """Return the index files of a directory, named as in a package.

    Raises:
        PackageError: one is no index.
    """
    found = {
        ROOT + name: path.read_bytes()
        for name, path in archive.files_below(directory / ROOT).items()
    }
    for name, content in found.items():
        check_index(name, content)
    return found


def link(
    path: Path, label: str, command: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> InstalledPackage:
    """Recognise a directory; its id holds the digest of its content.

    Args:
        label: the directory's name if empty.
        command: runs it in place of what its type says; it may be of any type then.

    Raises:
        PackageError: the label is not acceptable, or nothing tells what the directory is.
    """
    path = path.resolve()
    label = label or _as_label(path.name)
    check_label(label)
    try:
        kind = type_of(path)
    except PackageError:
        if not command:
            raise
        kind = UNKNOWN
    return InstalledPackage(
        ccid=f"{label}:{_tree_digest(path)}",
        label=label,
        type=kind,
        path=path,
        command=tuple(command),
        env=dict(env or {}),
    )


def type_of(path: Path) -> str:
    """Return the type of the code in a directory.

    Raises:
        PackageError: nothing tells what it is.
    """
    for marker, kind in _MARKERS:
        if (path / marker).is_file():
            return kind
    wanted = ", ".join(marker for marker, _ in _MARKERS)
    raise PackageError(f"{path} holds none of {wanted}: it is no chaincode")


def _tree_digest(path: Path) -> str:
    """Return the SHA-256 of names and contents, so that changed code gets a new package id."""
    digest = hashlib.sha256()
    for name, file in sorted(archive.files_below(path, without=NOT_CODE).items()):
        with suppress(FileNotFoundError):  # an editor's temporary file
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def _as_label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", name).lstrip("_.+-") or "chaincode"


def copy_files(files: Mapping[str, bytes | Path], directory: Path) -> None:
    """Write files, relative name → content or where it is, below a directory."""
    for name, content in files.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copy(content, target)
