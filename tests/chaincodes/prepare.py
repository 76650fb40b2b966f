"""Build the test chaincodes once, outside the repository, and find them again.

Room:      tests.chaincodes   (imports pytest; used by tests, or run by hand)
Loop:      none; it blocks
Lifetime:  what it builds stays in the cache until its sources or tools change
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

SOURCES = Path(__file__).resolve().parent
STEP_LIMIT_S = 300.0
"""Limit of one command of a build; a waiter on another process's build is bounded by it too."""


class Unavailable(Exception):
    """A counterpart cannot be had here, for a reason outside this repository."""


class ToolMissing(Unavailable):
    """A program of the tool chain is not installed."""


class FetchFailed(Unavailable):
    """The library could not be downloaded."""


class BuildBroken(Exception):
    """The tool chain is there, and refuses the chaincode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """A chaincode that is ready to start.

    Attributes:
        library: what it is written with; the key of `PREPARATIONS`.
        type: chaincode type of its package, as `runtimes.api.ChaincodePackage` has it.
        path: directory a runtime starts it from.
        command: the same by hand, in `path`; append ``--peer.address ADDRESS`` to make it dial.
        dials: whether it can dial; otherwise it only serves (CHAINCODE_SERVER_ADDRESS).
    """

    library: str
    type: str
    path: Path
    command: tuple[str, ...]
    dials: bool = True


def golang() -> Counterpart:
    """Build the Go chaincode."""
    source = SOURCES / "golang"
    go = _tool("go")
    env = {"CGO_ENABLED": "0"}

    def build(target: Path) -> None:
        _run(FetchFailed, [go, "mod", "download"], source, env)
        _run(BuildBroken, [go, "build", "-trimpath", "-o", f"{target}/chaincode", "."], source, env)

    target = _cached(source, ["go.mod", "go.sum", "main.go", "behaviour.go"], go, build)
    return Counterpart(
        library="golang", type="golang", path=target, command=(f"{target}/chaincode",)
    )


def node() -> Counterpart:
    """Install the Node chaincode's library beside a copy of it."""
    target, engine = _node_program(SOURCES / "node", "index.js")
    return Counterpart(library="node", type="node", path=target, command=(engine, "index.js"))


def couchdb() -> tuple[str, ...]:
    """Install PouchDB's server; return the command that starts it."""
    target, engine = _node_program(SOURCES.parent / "couchdb", "server.js")
    return engine, str(target / "server.js")


def application() -> tuple[str, ...]:
    """Install the official client library beside an application; return what starts that."""
    target, engine = _node_program(SOURCES.parent / "application", "application.js")
    return engine, str(target / "application.js")


def official_python() -> Counterpart:
    """Make an environment for the official Python library: it pins another protobuf than ours.

    It does not start on Python 3.12 or later: its gRPC server belongs to another event loop there.
    """
    files = ["requirements.txt", "chaincode.py"]
    interpreter = sys.executable if sys.version_info < (3, 12) else _tool("python3.11")

    def build(target: Path) -> None:
        for name in files:
            shutil.copy(SOURCES / "official_python" / name, target)
        _run(BuildBroken, [interpreter, "-m", "venv", f"{target}/venv"], target)
        install = [f"{target}/venv/bin/python", "-m", "pip", "install", "-q"]
        _run(FetchFailed, [*install, "-r", "requirements.txt"], target)

    target = _cached(SOURCES / "official_python", files, interpreter, build)
    return Counterpart(
        library="official_python",
        type="python",
        path=target,
        command=(f"{target}/venv/bin/python", "chaincode.py"),
        dials=False,
    )


def ours(library: str = "ours") -> Counterpart:
    """Find the chaincode on our own library; there is nothing to build."""
    return Counterpart(
        library=library,
        type="python",
        path=SOURCES / library,
        command=(sys.executable, "chaincode.py"),
    )


PREPARATIONS: Mapping[str, Callable[[], Counterpart]] = {
    "golang": golang,
    "node": node,
    "official_python": official_python,
    "ours": ours,
    "ours_sync": functools.partial(ours, "ours_sync"),
}


def counterpart(library: str) -> Counterpart:
    """Return the chaincode written with `library`, for a test; see `prepared`."""
    return prepared(library, PREPARATIONS[library])


def prepared(library: str, preparation: Callable[[], T]) -> T:
    """Return what a preparation gives, for a test.

    Skips the test when it cannot be had, and fails it when PEER_TEST_REQUIRE (a comma list) names
    the library.
    """
    try:
        return preparation()
    except Unavailable as exc:
        if library in os.environ.get("PEER_TEST_REQUIRE", "").split(","):
            pytest.fail(f"PEER_TEST_REQUIRE names {library}: {exc}", pytrace=False)
        pytest.skip(f"{library}: {exc}")


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ToolMissing(f"{name} is not installed")
    return path


def _run(
    failure: type[Exception], command: list[str], cwd: Path, env: Mapping[str, str] | None = None
) -> None:
    what = " ".join([Path(command[0]).name, *command[1:3]])
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STEP_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise failure(f"{what} took more than {STEP_LIMIT_S:g} s") from None
    if done.returncode:
        raise failure(f"{what} failed with exit code {done.returncode}: {done.stdout[-2000:]}")


def _node_program(source: Path, program: str) -> tuple[Path, str]:
    """Return where a program of Node.js lies beside its libraries, and what runs it."""
    files = ["package.json", "package-lock.json", program]
    npm, engine = _tool("npm"), _tool("node")

    def build(target: Path) -> None:
        for name in files:
            shutil.copy(source / name, target)
        _run(FetchFailed, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], target)

    return _cached(source, files, engine, build), engine


def _cached(source: Path, files: list[str], tool: str, build: Callable[[Path], None]) -> Path:
    """Return the directory `build` filled for these files and this tool, by now or earlier.

    One process builds, others wait for it; what an interrupted build left is removed.
    """
    library = source.name
    digest = hashlib.sha256(os.path.realpath(tool).encode())
    digest.update(
        subprocess.run([tool, _VERSION.get(library, "--version")], capture_output=True).stdout
    )
    for name in files:
        digest.update(name.encode() + b"\0" + (source / name).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triopeer-tests"
    target = cache / f"{library}-{digest.hexdigest()[:16]}"
    complete = target / ".complete"
    cache.mkdir(parents=True, exist_ok=True)
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            build(target)
            complete.touch()
    return target


_VERSION = {"golang": "version"}


def main() -> int:
    """Prepare the named libraries, or all, and say where they are."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("library", nargs="*", help=", ".join(PREPARATIONS))
    failed = False
    for library in parser.parse_args().library or PREPARATIONS:
        try:
            line = str(PREPARATIONS[library]().path)
        except (Unavailable, BuildBroken) as exc:
            line, failed = str(exc), True
        sys.stdout.write(f"{library}: {line}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
