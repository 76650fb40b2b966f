"""Chaincodes that speak the protocol by hand, as directories that become images.

Room:      tests.integration.containers   (imports tests.integration.peer)
Loop:      none
Lifetime:  one test
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.chaincodes.prepare import SOURCES
from tests.integration.peer.scene import HERE, Code

MESSAGES = SOURCES.parent.parent / "proto" / "fabric_protos"


class ImageCode(Code):
    """Brings the messages along; grpclib comes with the base images."""

    def node(self, main: str, name: str = "") -> Path:
        path = self.python(main, name)
        scripts = {"start": "exec python3 chaincode.py"}
        manifest = {"scripts": scripts, "bundleDependencies": True}  # npm has nothing to do
        (path / "package.json").write_text(json.dumps(manifest))
        (path / "node_modules").mkdir()
        (path / "node_modules" / "none").touch()
        return path

    def book_over_tcp(self, name: str = "") -> Path:
        """Return the chaincode of ledgerbook.py as a Node package."""
        path = self.node("", name)
        shutil.copy(HERE / "ledgerbook.py", path / "chaincode.py")
        return path

    def _directory(self, name: str) -> Path:
        path = super()._directory(name)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(MESSAGES, path / "fabric_protos", ignore=ignored)
        return path
