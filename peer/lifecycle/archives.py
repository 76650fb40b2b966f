"""Read package archives that a stranger may have made.

Room:      peer.lifecycle   (imports peer.errors; used by packages)
Loop:      none; files are read and written where it is called
Fabric:    core/chaincode/persistence/chaincode_package.go, internal/ccmetadata (release-2.5)

Archives say how large they are, where their files go and what these are; none of it is believed.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from peer.errors import PackageError

MAX_UNPACKED_BYTES = 1 << 30
"""Of one archive, headers included."""
MAX_ENTRIES = 100_000
_CHUNK_BYTES = 1 << 16
_MAX_READ_BYTES = 1 << 20
"""Nothing that tarfile has to hold in memory at once, such as a long name, is larger."""


class _Bounded(gzip.GzipFile):
    """What is in a .gz, up to `MAX_UNPACKED_BYTES`."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ_BYTES:
            raise PackageError(f"one header holds more than {_MAX_READ_BYTES} bytes")
        self._check(self.tell() + size)
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check(offset)
        return super().seek(offset, whence)

    def _check(self, position: int) -> None:
        if position > MAX_UNPACKED_BYTES + _CHUNK_BYTES:  # the last read asks for more than is left
            raise PackageError(f"it holds more than {MAX_UNPACKED_BYTES} bytes")


def read_parts(data: bytes) -> dict[str, bytes]:
    """Return the files of a small .tar.gz by name; it may hold nothing else.

    Raises:
        PackageError: not a .tar.gz, too large, or with entries of another kind.
    """
    parts = {}
    with _opened(data) as (tar, members):
        for member in members:
            if not _is_plain(member):
                raise PackageError(f"{member.name} is not a regular file")
            parts[member.name] = _content(tar, member)
    return parts


def unpack(data: bytes, directory: Path) -> None:
    """Unpack a .tar.gz of regular files into a directory that does not exist yet.

    Files appear next to the directory first, so that it is never seen half full.

    Raises:
        PackageError: not a .tar.gz, too large, empty, or with an entry that is neither file nor
            directory or belongs somewhere else.
        OSError: no space, no permission.
    """
    part = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o750)
    try:
        with _opened(data) as (tar, members):
            for member in members:
                if not (_is_plain(member) or member.isdir()):
                    raise PackageError(f"{member.name} is neither file nor directory")
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise PackageError(f"{member.name} is outside of the package")
                tar.extract(member, part, filter="data")
        if not any(part.iterdir()):
            raise PackageError("it is empty")
        part.rename(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[tarfile.TarFile, Iterator[tarfile.TarInfo]]]:
    try:
        with (
            _Bounded(fileobj=io.BytesIO(data)) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as tar,
        ):
            yield tar, _counted(tar)
            while unpacked.read(_CHUNK_BYTES):  # to the check sum at its end
                pass
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError) as exc:
        raise PackageError(f"no valid .tar.gz: {exc}") from exc


def _counted(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(tar):
        if number >= MAX_ENTRIES:
            raise PackageError(f"it holds more than {MAX_ENTRIES} entries")
        yield member


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()  # holes cost the sender nothing


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file, content = tar.extractfile(member), io.BytesIO()
    assert file is not None  # it is a regular file
    shutil.copyfileobj(file, content, _CHUNK_BYTES)
    return content.getvalue()
