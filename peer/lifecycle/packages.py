"""The package format of lifecycle v2.

Room:      peer.lifecycle   (imports archive, indexes, peer.errors; used by store and builds)
Loop:      none; it blocks for large packages
Fabric:    core/chaincode/persistence/chaincode_package.go, persistence.go (release-2.5)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peer.errors import PackageError
from peer.lifecycle import archive
from peer.lifecycle.indexes import ROOT, index_files

METADATA = "metadata.json"
CODE = "code.tar.gz"
MAX_METADATA_BYTES = 1 << 20

NOT_CODE = frozenset({"node_modules", "__pycache__", ".git", ".venv", "venv", ".mypy_cache"})
"""Never part of a directory's content: it comes from a build, or from its author's tools."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package as it was read.

    Attributes:
        ccid: the id its chaincode registers under: ``label:sha256``, or ``name:version``.
        type: platform in lower case.
        module: ``path`` of the metadata: what to build, for Go an import path.
        metadata: what an external builder gets as ``metadata.json``.
        code: the ``.tar.gz`` of the code.
        indexes: index files by name, from ``META-INF/`` on.
    """

    ccid: str
    label: str
    type: str
    module: str
    metadata: bytes
    code: bytes
    indexes: Mapping[str, bytes]


def package_id(label: str, data: bytes) -> str:
    """Return the id of a package file.

    Source: `PackageID`, core/chaincode/persistence/persistence.go (release-2.5).
    """
    return f"{label}:{hashlib.sha256(data).hexdigest()}"


def read_package(data: bytes) -> Package:
    """Read a package file and check everything that does not depend on its type.

    Names are taken exactly: ``./metadata.json``, which plain ``tar`` makes, is another file.

    Raises:
        PackageError: it is none, or is not acceptable.

    Source: `ParseChaincodePackage`, core/chaincode/persistence/chaincode_package.go (release-2.5).
    """
    parts = _parts(data)
    if CODE not in parts:
        raise PackageError("did not find a code package inside the package")
    if METADATA not in parts:
        raise PackageError("did not find any package metadata (missing metadata.json)")
    kind, module, label = _read_metadata(parts[METADATA])
    return Package(
        ccid=package_id(label, data),
        label=label,
        type=kind.lower(),
        module=module,
        metadata=parts[METADATA],
        code=parts[CODE],
        indexes=read_indexes(parts[CODE]),
    )


def read_indexes(code: bytes) -> dict[str, bytes]:
    """Return the index files of a code package.

    Raises:
        PackageError: it is no acceptable archive, or one of them is no index.
    """
    with archive.opened(code) as opened:
        return index_files(opened)


def pack(
    directory: Path, kind: str, label: str, *, module: str = "", indexes: Path | None = None
) -> bytes:
    """Return a package of a directory of code; the same content gives the same bytes.

    Args:
        kind: ``golang``, ``node``, ``java``, ``python``; ``ccaas`` for a ``connection.json``.
        module: of Go, the import path to build; empty for the directory itself.
        indexes: directory that becomes ``META-INF``; by default that of `directory`, if any.

    Raises:
        PackageError: the label is not acceptable, or an index is no index.
        OSError: something cannot be read.
    """
    check_label(label)
    code = archive.pack(code_files(directory, indexes, in_src=kind.lower() != "ccaas"))
    read_indexes(code)
    metadata = json.dumps({"path": module, "type": kind, "label": label}, separators=(",", ":"))
    return archive.pack({METADATA: metadata.encode(), CODE: code})


def code_files(
    directory: Path, indexes: Path | None = None, *, in_src: bool = True
) -> dict[str, bytes | Path]:
    """Return the files of a directory under the names they have in a code package.

    Bundled libraries are code: ``vendor``, ``wheelhouse``, and ``node_modules`` where
    ``package.json`` lists them as bundled.
    """
    without = NOT_CODE - {"node_modules"} if _bundles(directory) else NOT_CODE
    prefix = "src/" if in_src else ""
    files: dict[str, bytes | Path] = {}
    for name, path in archive.files_below(directory, without=without).items():
        if not name.startswith(ROOT):
            files[prefix + name] = path
    meta = indexes or directory / ROOT
    if meta.is_dir():
        files |= {ROOT + name: path for name, path in archive.files_below(meta).items()}
    return files


def _bundles(directory: Path) -> bool:
    try:
        document = json.loads((directory / "package.json").read_bytes())
    except (OSError, ValueError):
        return False
    keys = {"bundleDependencies", "bundledDependencies"}
    return isinstance(document, dict) and any(document.get(key) for key in keys)


def check_label(label: str) -> None:
    """
    Raises:
        PackageError: Fabric would not take it as a label.
    """
    if not _LABEL.fullmatch(label):
        raise PackageError(
            f"invalid label '{label}'. Label must be non-empty, can only consist of alphanumerics, "
            "symbols from '.+-_', and can only begin with alphanumerics"
        )


def _parts(data: bytes) -> dict[str, bytes]:
    parts: dict[str, bytes] = {}
    with archive.opened(data) as opened:
        for entry in opened.entries:
            if entry.is_dir:
                raise PackageError(f"tar entry {entry.name} is not a regular file")
            if entry.name in parts:
                raise PackageError(f"there is more than one {entry.name}")
            if entry.name in (METADATA, CODE):
                if entry.name == METADATA and entry.size > MAX_METADATA_BYTES:
                    raise PackageError(f"{METADATA} is larger than {MAX_METADATA_BYTES >> 10} KiB")
                parts[entry.name] = opened.read(entry)
    return parts


def _read_metadata(data: bytes) -> tuple[str, str, str]:
    """Return type, path and label."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise PackageError(f"could not unmarshal {METADATA}: {exc}") from exc
    if not isinstance(document, dict):
        raise PackageError(f"could not unmarshal {METADATA}: it is no JSON object")
    values = [document.get(key, "") for key in ("type", "path", "label")]
    if not all(isinstance(value, str) for value in values):
        raise PackageError(f"{METADATA}: type, path and label must be text")
    kind, module, label = values
    check_label(label)
    return kind, module, label
