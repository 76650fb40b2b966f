"""Python, which Fabric has no platform for.

Room:      peer.lifecycle.platforms
Loop:      Trio
Lifetime:  one build
Fabric:    none; packages look like those of Node
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from peer.lifecycle.archive import Entry
from peer.lifecycle.platforms.platform import (
    Code,
    Images,
    Recipe,
    Run,
    check_names,
)
from runtimes.api import BUILD_INPUT, BUILD_OUTPUT, PEER_ADDRESS, PEER_HOST, PEER_PORT, BuildFailed

ENTRY_FILES = ("chaincode.py", "main.py")
REQUIREMENTS = "requirements.txt"
WHEELHOUSES = ("wheelhouse", "vendor")
"""Directories of wheels; a package that brings one is built without a network."""

_NAMES = re.compile(r"(?!/).*")
_MODES = 0o100777
_PROBE = "import socket, sys; socket.create_connection(sys.argv[1:])"


class Python:
    """Makes a virtual environment with what ``requirements.txt`` names.

    Code without one, and without wheels, runs with the interpreter of the peer or of the image.
    """

    name = "python"
    markers = ENTRY_FILES

    def check(self, entries: Sequence[Entry]) -> None:
        """See `Platform.check`; code lies in ``src`` or, without it, at the top."""
        check_names(entries, _NAMES, _MODES)

    def is_ready(self, code: Code) -> bool:
        """It has its environment, or needs none."""
        return (code.source / "venv").is_dir() or not _needs_environment(code)

    def fingerprint(self) -> str:
        """Return the interpreter an environment is tied to."""
        return f"{self.name} {sys.version_info[:2]} {sys.base_prefix}"

    async def build(self, code: Code, out: Path, run: Run) -> None:
        """Make the environment beside the code."""
        await run(sys.executable, "-m", "venv", "venv", cwd=code.source)
        interpreter = str(code.source / "venv" / "bin" / "python")
        await run(interpreter, "-m", "pip", *_install(code), cwd=code.source)

    def recipe(self, code: Code, images: Images) -> Recipe:
        """See `Platform.recipe`; the environment is made where it will be used."""
        entry = next((name for name in ENTRY_FILES if name in code.names), None)
        if entry is None:
            raise BuildFailed(f"neither {' nor '.join(ENTRY_FILES)} in the package")
        needs = _needs_environment(code)
        interpreter = "venv/bin/python" if needs else "python3"
        lines = [
            "set -e",
            f"mkdir -p {BUILD_OUTPUT}",
            f"cd {BUILD_INPUT}",
            "[ ! -d src ] || cd src",
            f"cp -R . {BUILD_OUTPUT}",
            f"cd {BUILD_OUTPUT}",
        ]
        if needs:
            lines.append("python3 -m venv venv")
            lines.append(f"venv/bin/python -m pip {' '.join(_install(code))}")
        return Recipe(
            builder=images.python,
            script="\n".join(lines),
            runtime=images.python,
            target=BUILD_OUTPUT,
            command=(
                "/bin/sh",
                "-c",
                f'cd {BUILD_OUTPUT} && exec {interpreter} {entry} -peer.address "$0"',
                PEER_ADDRESS,
            ),
            probe=("python3", "-c", _PROBE, PEER_HOST, PEER_PORT),
            offline=not needs or _wheelhouse(code) is not None,
        )


def _needs_environment(code: Code) -> bool:
    return REQUIREMENTS in code.names or _wheelhouse(code) is not None


def _wheelhouse(code: Code) -> str | None:
    return next((name for name in WHEELHOUSES if _wheels(code, name)), None)


def _wheels(code: Code, directory: str) -> list[str]:
    return sorted(
        name for name in code.names if re.fullmatch(rf"{directory}/[A-Za-z0-9_.+-]+\.whl", name)
    )


def _install(code: Code) -> list[str]:
    arguments = ["install", "--no-input", "--disable-pip-version-check", "--no-compile"]
    wheelhouse = _wheelhouse(code)
    if wheelhouse is not None:
        arguments += ["--no-index", "--find-links", wheelhouse]
        if REQUIREMENTS not in code.names:
            return arguments + _wheels(code, wheelhouse)
    return [*arguments, "-r", REQUIREMENTS]
