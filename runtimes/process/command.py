"""What to execute for a package of each type.

Room:      runtimes.process   (imports runtimes.api)
Loop:      none
Fabric:    `GetArgs`, core/container/dockercontroller/dockercontroller.go (release-2.5)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runtimes.api import ChaincodePackage, dialling

_NODE_SCRIPT = """\
set -e
if [ -x ./start.sh ]; then exec ./start.sh --peer.address "$1"; fi
exec npm start -- --peer.address "$1"
"""
_JARS = ("chaincode.jar", "build/libs/chaincode.jar", "target/chaincode.jar")
_PYTHON_FILES = ("chaincode.py", "main.py")


class EntryMissing(Exception):
    """The package holds nothing that could be started; the text says what to do."""


def command_for(package: ChaincodePackage, peer_address: str) -> tuple[str, ...]:
    """Return program and arguments, to be executed in the package's directory.

    Raises:
        EntryMissing: of a type that is not known, or without an entry of its type.
    """
    if package.command:
        return dialling(package.command, peer_address)
    path = package.path
    match package.type:
        case "golang":
            return (str(_golang_program(path)), f"-peer.address={peer_address}")
        case "node":
            _require_node_entry(path)
            return ("/bin/sh", "-c", _NODE_SCRIPT, "sh", peer_address)
        case "java":
            return ("java", "-jar", _jar(path), "--peerAddress", peer_address)
        case "python":
            return (_interpreter(path), _python_file(path), "-peer.address", peer_address)
        case unknown:
            raise EntryMissing(f"unknown chaincodeType: {unknown}")


def _golang_program(path: Path) -> Path:
    program = path / "chaincode"
    if not program.is_file():
        raise EntryMissing(f"no program {program}; build it there with: go build -o chaincode .")
    return program


def _require_node_entry(path: Path) -> None:
    if not (path / "package.json").is_file() and not os.access(path / "start.sh", os.X_OK):
        raise EntryMissing(
            f"neither package.json nor an executable start.sh in {path}; "
            "add a package.json with a start script"
        )


def _jar(path: Path) -> str:
    for name in _JARS:
        if (path / name).is_file():
            return name
    raise EntryMissing(f"none of {', '.join(_JARS)} in {path}; build one jar with all dependencies")


def _python_file(path: Path) -> str:
    for name in _PYTHON_FILES:
        if (path / name).is_file():
            return name
    raise EntryMissing(
        f"neither {' nor '.join(_PYTHON_FILES)} in {path}; name the file that calls shim.start so"
    )


def _interpreter(path: Path) -> str:
    own = path / "venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable
