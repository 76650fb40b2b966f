"""Archives to refuse, written header by header.

Room:      tests.unit.lifecycle   (standard library only)
Loop:      none
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Return one entry; `fields` are attributes of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_gz(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def files(contents: Mapping[str, bytes], **fields: object) -> bytes:
    """Return a .tar.gz of plain files."""
    return tar_gz(member(name, content, **fields) for name, content in contents.items())


def package(
    code: bytes, *, label: str = "label_1.0", kind: str = "python", path: str = ""
) -> bytes:
    """Return a lifecycle package around a code package."""
    metadata = json.dumps({"type": kind, "label": label, "path": path}).encode()
    return files({"metadata.json": metadata, "code.tar.gz": code})


def zeros(size: int) -> bytes:
    """Return a gzip of that many zero bytes, a thousandth of their size."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as zipped:
        chunk = bytes(1 << 20)
        for _ in range(size >> 20):
            zipped.write(chunk)
    return packed.getvalue()
