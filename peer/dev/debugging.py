"""Python chaincode under debugpy.

Room:      peer.dev   (imports lifecycle, errors; used by cli)
Loop:      none
Lifetime:  none
Fabric:    none

From outside nobody sees whether a program is stopped at a breakpoint. Whether a debugger is
connected can be seen: the kernel lists its TCP connection with debugpy's port. So time limits are
lifted while a debugger is connected.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from peer.errors import PackageError
from peer.lifecycle.platforms.python import ENTRY_FILES, REQUIREMENTS
from runtimes.api import PEER_ADDRESS

HOST = "127.0.0.1"
_CONNECTIONS = Path("/proc/net/tcp")
_ESTABLISHED = "01"


def command(directory: Path, port: int) -> tuple[str, ...]:
    """Return what runs the Python chaincode of a directory so that a debugger can connect.

    Raises:
        PackageError: it is none, or its interpreter has no debugpy.
    """
    entry = next((name for name in ENTRY_FILES if (directory / name).is_file()), None)
    if entry is None:
        raise PackageError(f"{directory} holds neither {' nor '.join(ENTRY_FILES)} to debug")
    interpreter = _interpreter(directory)
    return (
        interpreter,
        "-Xfrozen_modules=off",  # breakpoints in the standard library, and no warning about them
        "-m",
        "debugpy",
        "--listen",
        f"{HOST}:{port}",
        entry,
        "-peer.address",
        PEER_ADDRESS,
    )


def is_attached(port: int) -> bool:
    """Tell whether a debugger is connected with debugpy on this port."""
    wanted = f":{port:04X}"
    for line in _CONNECTIONS.read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if local.endswith(wanted) and state == _ESTABLISHED:
            return True
    return False


def _interpreter(directory: Path) -> str:
    own = directory / "venv"
    if own.is_dir():
        if not any(own.glob("lib/python*/site-packages/debugpy")):
            raise PackageError(f"no debugpy in {own}: venv/bin/python -m pip install debugpy")
        return str(own.resolve() / "bin" / "python")
    if (directory / REQUIREMENTS).is_file():
        raise PackageError(
            f"{directory} has {REQUIREMENTS}, and no venv that a debugger could use: "
            f"python -m venv venv && venv/bin/python -m pip install debugpy -r {REQUIREMENTS}"
        )
    if find_spec("debugpy") is None:
        raise PackageError(f"no debugpy for {sys.executable}: pip install debugpy")
    return sys.executable
