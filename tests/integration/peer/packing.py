"""Write chaincode packages, good and bad.

Room:      tests   (standard library only)
Loop:      none
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path


def archive(files: Mapping[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """Return a .tar.gz of the files, followed by members without content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member)
    return packed.getvalue()


def package(code: bytes, *, label: str = "label_1.0", kind: str = "python") -> bytes:
    """Return a package of lifecycle v2 around a .tar.gz of code."""
    metadata = {"type": kind, "label": label, "path": ""}
    return archive({"metadata.json": json.dumps(metadata).encode(), "code.tar.gz": code})


def tree(directory: Path, prefix: str = "src/") -> dict[str, bytes]:
    """Return the files of a directory under the names they have in a package."""
    return {
        f"{prefix}{path.relative_to(directory)}": path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
