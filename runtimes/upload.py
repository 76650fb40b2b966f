"""The archive in which files travel into a container.

Room:      runtimes   (standard library only; used by the container backends)
Loop:      none
Fabric:    `uploadFiles`, core/container/dockercontroller/dockercontroller.go (release-2.5)
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping

_MODE = b"0100644\0"
_MODE_FIELD = slice(100, 108)
_CHECKSUM_FIELD = slice(148, 156)


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """Return a gzip tar of `files`, absolute path → content, to be extracted at ``/``.

    Owner 0, mode 0100644 (run images use other users), times zero: equal files give equal bytes.

    Raises:
        ValueError: a path is not absolute.
    """
    archive = io.BytesIO()
    for path, content in sorted(files.items()):
        if not path.startswith("/"):
            raise ValueError(f"{path!r} is not an absolute path")
        archive.write(_header(path, len(content)))
        archive.write(content)
        archive.write(bytes(-len(content) % tarfile.BLOCKSIZE))
    archive.write(bytes(2 * tarfile.BLOCKSIZE))
    return gzip.compress(archive.getvalue(), mtime=0)


def _header(path: str, size: int) -> bytes:
    member = tarfile.TarInfo(path)
    member.size = size
    blocks = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header = blocks[-tarfile.BLOCKSIZE :]  # a long name comes in blocks of its own before it
    header[_MODE_FIELD] = _MODE  # tarfile drops the file type bits
    header[_CHECKSUM_FIELD] = b" " * 8
    header[_CHECKSUM_FIELD] = b"%06o\0 " % sum(header)
    blocks[-tarfile.BLOCKSIZE :] = header
    return bytes(blocks)
