"""Archives of code: read what a stranger packed, write what anybody can pack again.

Room:      peer.lifecycle   (imports peer.errors; used by packages, indexes, platforms, builds)
Loop:      none; it blocks, and is called in a thread where the archive may be large
Lifetime:  one archive
Fabric:    core/chaincode/platforms/*/platform.go `ValidateCodePackage`,
           core/container/externalbuilder/tar.go (release-2.5)

An archive is refused as a whole for one bad entry. Sizes count unpacked, before anything is
written: a header may lie about its entry, the decompressor cannot.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from peer.errors import PackageError

MAX_UNPACKED_BYTES = 1 << 30
MAX_ENTRIES = 100_000
MAX_HEADER_BYTES = 1 << 20
"""Of the extended header of one entry: a long name, and attributes that nobody needs."""

PACKED_UID = PACKED_GID = 500
"""The user and group of Fabric's build images."""

_CHUNK_BYTES = 256 * 1024
_UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError)


class Entry(NamedTuple):
    """One file or directory of an archive.

    Attributes:
        name: as it is written, relative and without ``..``.
        mode: as its header has it, which may include the bits of the file type.
        offset: of its content in the unpacked archive.
    """

    name: str
    size: int
    mode: int
    is_dir: bool
    offset: int

    @property
    def place(self) -> str:
        """Where it belongs: the name without empty parts and ``.``."""
        return "/".join(part for part in self.name.split("/") if part not in ("", "."))


class Archive:
    """An unpacked tar whose every entry is acceptable; made by `opened`.

    Attributes:
        entries: in the order of the archive.
    """

    def __init__(self, file: BinaryIO, entries: tuple[Entry, ...]) -> None:
        self.entries = entries
        self._file = file

    def read(self, entry: Entry) -> bytes:
        """Return a file's content."""
        self._file.seek(entry.offset)
        return self._file.read(entry.size)

    def extract(self, directory: Path) -> None:
        """Write everything below `directory`, which must be empty.

        A file that anybody may execute becomes executable; no other part of its mode counts.

        Raises:
            PackageError: two entries are in each other's way.
            OSError: no space, no permission.
        """
        for entry in self.entries:
            path = directory / entry.place
            try:
                (path if entry.is_dir else path.parent).mkdir(parents=True, exist_ok=True)
                if not entry.is_dir:
                    self._write(entry, path)
            except (FileExistsError, NotADirectoryError) as exc:
                raise PackageError(f"entry {entry.name} is in the way of another one") from exc

    def _write(self, entry: Entry, path: Path) -> None:
        mode = 0o755 if entry.mode & 0o111 else 0o644
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        self._file.seek(entry.offset)
        left = entry.size
        with open(fd, "wb") as target:
            while chunk := self._file.read(min(left, _CHUNK_BYTES)):
                left -= target.write(chunk)


@contextmanager
def opened(data: bytes | BinaryIO) -> Iterator[Archive]:
    """Unpack a ``.tar.gz`` and check every entry of it.

    Raises:
        PackageError: it is no such archive, larger than `MAX_UNPACKED_BYTES`, of more than
            `MAX_ENTRIES` entries, or one of them is neither file nor directory or lies elsewhere.
    """
    packed = io.BytesIO(data) if isinstance(data, bytes) else data
    with tempfile.TemporaryFile() as file:
        with _refusing():
            _decompress(packed, file)
        # the type of tarfile's own argument asks for more than tarfile uses
        guarded: Any = _Guarded(file)
        with _refusing(), tarfile.open(fileobj=guarded, mode="r:") as tar:
            entries = tuple(_checked(tar))
        yield Archive(file, entries)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise  # the disk, not the archive
        raise PackageError(f"it is no archive of type .tar.gz: {exc}") from exc


def _decompress(packed: BinaryIO, target: BinaryIO) -> None:
    total = 0
    with gzip.GzipFile(fileobj=packed, mode="rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            total += len(chunk)
            if total > MAX_UNPACKED_BYTES:
                raise PackageError(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
            target.write(chunk)
    target.seek(0)


class _Guarded:
    """The file as tarfile sees it, which takes in each header as a whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise PackageError(f"a header in it is larger than {MAX_HEADER_BYTES >> 10} KiB")
        return self._file.read(size)


def _checked(tar: tarfile.TarFile) -> Iterator[Entry]:
    total = 0
    files = set()
    for count, member in enumerate(tar, start=1):
        if count > MAX_ENTRIES:
            raise PackageError(f"it has more than {MAX_ENTRIES} entries")
        is_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        if not (is_file or member.isdir()):
            raise PackageError(f"entry {member.name!r} is neither file nor directory")
        if member.size < 0:
            raise PackageError(f"entry {member.name!r} has no size")
        total += member.size
        if total > MAX_UNPACKED_BYTES:
            raise PackageError(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
        entry = Entry(_name(member), member.size, member.mode, not is_file, member.offset_data)
        if is_file and (not entry.place or entry.place in files):
            raise PackageError(f"entry {entry.name!r} is there twice, or is no name of a file")
        files.add(entry.place)
        yield entry


def _name(member: tarfile.TarInfo) -> str:
    name = member.name
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise PackageError(f"entry {name!r} lies outside the package")
    if not name or not name.isprintable() or "\\" in name:
        raise PackageError(f"entry {name!r} has a name that not every system can store")
    return name


def pack(files: Mapping[str, bytes | Path]) -> bytes:
    """Return a ``.tar.gz`` of `files`, name → content or the file that holds it.

    Equal files give equal bytes: ordered by name, times zero, user and group 500, the mode 0644.
    """
    packed = io.BytesIO()
    # GzipFile itself, whose header is the same in every version of Python
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.mode = 0o644
            member.uid, member.gid = PACKED_UID, PACKED_GID
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                continue
            with content.open("rb") as file:
                found = os.fstat(file.fileno())
                member.size = found.st_size
                tar.addfile(member, file)
    return packed.getvalue()


def files_below(directory: Path, *, without: Iterable[str] = ()) -> dict[str, Path]:
    """Return relative name → path of every regular file, links to files included.

    Args:
        without: names of files and directories that are passed over wherever they are.
    """
    skipped = set(without)
    found = {}
    for root, directories, names in os.walk(directory):
        directories[:] = sorted(set(directories) - skipped)
        for name in names:
            path = Path(root, name)
            if name not in skipped and stat.S_ISREG(_mode(path)):
                found[path.relative_to(directory).as_posix()] = path
    return found


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:  # a link to nowhere
        return 0
