"""The index files a package brings for the state database.

Room:      peer.lifecycle   (imports archive, peer.errors; used by packages and deployments)
Loop:      none
Fabric:    core/chaincode/persistence/statedb `ccmetadata.ValidateMetadataFile`,
           core/common/ccprovider/metadata/validators.go (release-2.5)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from peer.errors import PackageError
from peer.lifecycle.archive import Archive

ROOT = "META-INF/"
MAX_INDEX_BYTES = 1 << 20

_PLACE = re.compile(
    r"META-INF/statedb/couchdb/(?:collections/(?P<collection>[A-Za-z0-9_-]+)/)?indexes/[^/]+\.json"
)
_KEYS = {"index", "ddoc", "name", "type"}
_INDEX_KEYS = {"fields", "partial_filter_selector"}


def index_files(archive: Archive) -> dict[str, bytes]:
    """Return every index of a code package: its name, from ``META-INF/`` on, and its content.

    Raises:
        PackageError: ``META-INF`` holds anything but well-formed indexes. Hidden files are passed
            over.
    """
    found = {}
    for entry in archive.entries:
        hidden = any(part.startswith(".") for part in entry.name.split("/"))
        if entry.is_dir or hidden or not entry.name.startswith(ROOT):
            continue
        if not _PLACE.fullmatch(entry.name):
            raise PackageError(
                f"metadata file path must begin with META-INF/statedb/couchdb/indexes/ or "
                f"META-INF/statedb/couchdb/collections/<name>/indexes/ and end with .json, "
                f"found: {entry.name}"
            )
        if entry.size > MAX_INDEX_BYTES:
            raise PackageError(f"index {entry.name} is larger than {MAX_INDEX_BYTES >> 10} KiB")
        found[entry.name] = archive.read(entry)
    for name, content in found.items():
        check_index(name, content)
    return found


def by_collection(files: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    """Return what is in index files by the collection they are for; public data's is empty.

    Raises:
        PackageError: one is in another place, or no index.
    """
    found: dict[str, list[bytes]] = {}
    for name, content in sorted(files.items()):
        place = _PLACE.fullmatch(name)
        if place is None:
            raise PackageError(f"{name} is no place of an index")
        check_index(name, content)
        found.setdefault(place["collection"] or "", []).append(content)
    return found


def check_index(name: str, content: bytes) -> None:
    """
    Raises:
        PackageError: `content` is no index definition.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise PackageError(f"Index metadata file [{name}] is not a valid JSON: {exc}") from exc
    problem = _problem(document)
    if problem:
        raise PackageError(
            f"Index metadata file [{name}] is not a valid index definition: {problem}"
        )


def _problem(document: Any) -> str:
    if not isinstance(document, dict):
        return "it is no JSON object"
    if unknown := document.keys() - _KEYS:
        return f"unknown key {min(unknown)}"
    for key in ("ddoc", "name"):
        if key in document and not isinstance(document[key], str):
            return f"{key} is no text"
    if document.get("type", "json") != "json":
        return "index type must be json"
    return _index_problem(document.get("index"))


def _index_problem(index: Any) -> str:
    if not isinstance(index, dict) or not isinstance(index.get("fields"), list):
        return "index must be an object with an array of fields"
    if unknown := index.keys() - _INDEX_KEYS:
        return f"unknown key index.{min(unknown)}"
    if not isinstance(index.get("partial_filter_selector", {}), dict):
        return "partial_filter_selector is no object"
    if not index["fields"]:
        return "index has no fields"
    for field in index["fields"]:
        named = isinstance(field, str)
        if not (named or _is_ordered(field)):
            return f"field {field!r} is neither a name nor a name with asc or desc"
    return ""


def _is_ordered(field: Any) -> bool:
    match field:
        case Mapping() if len(field) == 1:
            [order] = field.values()
            return isinstance(order, str) and order.lower() in ("asc", "desc")
        case _:
            return False
