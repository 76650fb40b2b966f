"""An engine that tests may stop, kill and fill, with little room for what it stores.

Room:      tests.integration.containers_trouble   (imports tests.engines)
Loop:      none; it blocks
Lifetime:  a module's tests
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.engines.engine import ENGINES, Engine
from tests.engines.rootfs import archive, cache_directory

NUMBER = 2
DISK_BYTES = 1 << 30
BLOCK_BYTES = 4096
IMAGE = "localhost/python:latest"
LARGE = (
    *("usr/local/go", "usr/local/lib/node_modules", "usr/share", "usr/lib/x86_64-linux-gnu/perl"),
    *("usr/lib/x86_64-linux-gnu/libnode", "usr/lib/x86_64-linux-gnu/libicu", "var"),
)
"""What Python does without."""


@contextmanager
def own_engine(name: str) -> Iterator[Engine]:
    """Run an engine on a disk of its own, with an image of Python; nothing is left of it."""
    with open(cache_directory() / f"engine-own-{NUMBER}-{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = ENGINES[name](number=NUMBER)
        engine.down()
        disk = engine.storage.with_suffix(".disk")
        try:
            _mount(disk, engine.storage)
            engine.start()
            with open(_python_only(), "rb") as packed:
                engine.load(packed, IMAGE)
            yield engine
        finally:
            engine.down()
            disk.unlink()


class Ballast:
    """A file on the engine's disk that takes up its room."""

    def __init__(self, engine: Engine) -> None:
        self._path = engine.storage / "ballast"

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave so much room, to a block."""
        storage = str(self._path.parent)
        subprocess.run(["sync", "--file-system", storage], check=True)  # frees what was deleted
        size, step = 0, DISK_BYTES
        with open(self._path, "wb") as file:
            while step >= BLOCK_BYTES:
                disk = os.statvfs(self._path)
                try:
                    if disk.f_bavail * disk.f_frsize - leave_bytes < step:
                        raise OSError(errno.ENOSPC, "no room for such a step")
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError:
                    step //= 2

    def drop(self) -> None:
        """Make room again."""
        self._path.unlink(missing_ok=True)


def _mount(disk: Path, at: Path) -> None:
    at.mkdir(parents=True, mode=0o700)
    with open(disk, "wb") as file:
        file.truncate(DISK_BYTES)
    for command in (["mkfs.ext4", "-q", "-m0", disk], ["mount", "-o", "loop", disk, at]):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _python_only() -> Path:
    """Return the base images' file system without what is large."""
    whole = archive()
    target = whole.with_suffix(".python.tar")
    if not target.exists():
        scratch = target.with_suffix(f".{os.getpid()}")
        try:
            with tarfile.open(whole) as source, tarfile.open(scratch, "w") as packed:
                for member in source:
                    if not member.name.removeprefix("./").startswith(LARGE):
                        packed.addfile(
                            member, source.extractfile(member) if member.isreg() else None
                        )
            scratch.rename(target)
        finally:
            with suppress(FileNotFoundError):
                scratch.unlink()
    return target
