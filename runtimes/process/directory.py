"""The private directory of one instance.

Room:      runtimes.process
Loop:      none
Lifetime:  instance; after a SIGKILL of the peer until its next start
Fabric:    none
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType


class PrivateDirectory:
    """Holds an instance's files, home and temporary files, readable by the peer's user alone.

    Args:
        files: absolute path as the chaincode knows it → content.
        metadata: file name → content, of the directory `metadata`.

    Attributes:
        token: names the directory and marks the instance's processes.
    """

    def __init__(
        self,
        parent: Path,
        files: Mapping[str, bytes],
        metadata: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self.token = secrets.token_hex(16)
        self.path = parent / self.token
        self.home = self.path / "home"
        self.tmp = self.path / "tmp"
        self.metadata = self.path / "metadata"
        self._paths = {
            path: self.path / f"{number}-{os.path.basename(path)}"
            for number, path in enumerate(files)
        }
        self._contents = {self._paths[path]: content for path, content in files.items()}
        self._contents |= {self.metadata / name: content for name, content in metadata.items()}

    @property
    def has_files(self) -> bool:
        """There is something to write."""
        return bool(self._contents)

    def create(self) -> None:
        """Create it and write the files.

        Raises:
            OSError: no space, no permission.
        """
        for directory in (self.path, self.home, self.tmp, self.metadata):
            directory.mkdir(mode=0o700)
        for path, content in self._contents.items():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "wb") as file:
                file.write(content)

    def actual(self, value: str) -> str:
        """Return where a file really is; any other value as it came."""
        return str(self._paths.get(value, value))

    def remove(self) -> None:
        """Remove it; what cannot be removed is tried again at the peer's next start."""
        shutil.rmtree(self.path, ignore_errors=True)
