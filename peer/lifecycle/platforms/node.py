"""Node.js.

Room:      peer.lifecycle.platforms
Loop:      Trio
Lifetime:  one build
Fabric:    core/chaincode/platforms/node/platform.go (release-2.5)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from peer.errors import PackageError
from peer.lifecycle.archive import Entry
from peer.lifecycle.platforms.platform import (
    PLAIN_FILE_MODE,
    Code,
    Images,
    Recipe,
    Run,
    check_names,
    require,
)
from runtimes.api import BUILD_INPUT, BUILD_OUTPUT, PEER_ADDRESS, PEER_HOST, PEER_PORT

CACHE = "npm-cache"
"""A package that brings npm's cache in this directory is built without a network."""

_NAMES = re.compile(r"(src|META-INF)/.*")
_LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
_QUIET = ("--omit=dev", "--no-audit", "--no-fund")
_QUICKLY = "export npm_config_update_notifier=false"
"""Else npm looks for its own updates, and where there is no network it waits for that."""
_START = f"""\
set -e
{_QUICKLY}
if [ -x /chaincode/start.sh ]; then exec /chaincode/start.sh --peer.address "$0"; fi
cd /usr/local/src
exec npm start -- --peer.address "$0"
"""
_PROBE = """\
require("net").connect(process.argv[2], process.argv[1])
  .on("connect", () => process.exit(0))
  .on("error", error => { console.error(error.message); process.exit(1); });
"""


class Node:
    """Installs what ``package.json`` names, by the lock file if there is one."""

    name = "node"
    markers = ("package.json",)

    def check(self, entries: Sequence[Entry]) -> None:
        """See `Platform.check`."""
        check_names(entries, _NAMES, PLAIN_FILE_MODE)
        require(entries, "src/package.json")

    def is_ready(self, code: Code) -> bool:
        """It brings a start script, its libraries, or needs none."""
        source = code.source
        return (
            os.access(source / "start.sh", os.X_OK)
            or (source / "node_modules").is_dir()
            or not _dependencies(source / "package.json")
        )

    def fingerprint(self) -> str:
        """See `Platform.fingerprint`."""
        return self.name

    async def build(self, code: Code, out: Path, run: Run) -> None:
        """Install the libraries beside the code."""
        await run("npm", *_install(code), cwd=code.source)

    def recipe(self, code: Code, images: Images) -> Recipe:
        """See `Platform.recipe`; an image with a build script of its own uses that."""
        install = "" if code.has("node_modules") else f"npm {' '.join(_install(code))}"
        # its own install script would ask a registry for what the package brings along
        own = "-x /chaincode/build.sh" if not _is_complete(code) else "1 = 0"
        return Recipe(
            builder=images.node,
            script=f"""\
set -e
{_QUICKLY}
if [ {own} ]; then exec /chaincode/build.sh; fi
mkdir -p {BUILD_OUTPUT}
cp -R {BUILD_INPUT}/src/. {BUILD_OUTPUT}
cd {BUILD_OUTPUT}
{install}
""",
            runtime=images.node,
            target="/usr/local/src",
            command=("/bin/sh", "-c", _START, PEER_ADDRESS),
            probe=("node", "-e", _PROBE, PEER_HOST, PEER_PORT),
            offline=_is_complete(code),
        )


def _is_complete(code: Code) -> bool:
    return code.has("node_modules") or code.has(CACHE)


def _install(code: Code) -> tuple[str, ...]:
    command = "ci" if code.names.intersection(_LOCKS) else "install"
    if code.has(CACHE):
        return (command, *_QUIET, "--offline", "--cache", CACHE)
    return (command, *_QUIET, "--prefer-offline")


def _dependencies(file: Path) -> object:
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise PackageError(f"package.json is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise PackageError("package.json is no JSON object")
    return document.get("dependencies") or document.get("optionalDependencies")
