"""What every platform can do.

Room:      peer.lifecycle.platforms   (imports archive, peer.errors; used by its modules and builds)
Loop:      Trio in `Platform.build` alone
Lifetime:  one build
Fabric:    core/chaincode/platforms/platforms.go (release-2.5)

A platform builds in one of two places. On this machine `build` works in a copy of the code, and
what it compiles goes into a directory beside it. In a container it finds the code package unpacked
at `BUILD_INPUT`, and `recipe` says what it does there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from peer.errors import PackageError
from peer.lifecycle.archive import Entry
from runtimes.api import PEER_HOST, PEER_PORT, ImagePlan

BASH_PROBE = ("bash", "-c", 'exec 3<>"/dev/tcp/$1/$2"', "bash", PEER_HOST, PEER_PORT)
"""See `runtimes.api.ImagePlan.probe`."""

PLAIN_FILE_MODE = 0o100666

_PRELUDE = '[ -w "$HOME" ] || export HOME=/tmp\n'


class Run(Protocol):
    """Runs one program of a build."""

    async def __call__(self, *argv: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        """Return once it has ended well.

        Args:
            env: variables besides those of the peer.

        Raises:
            BuildFailed: it is not there, or failed; with its last output.

        Cancellation: ends all of its processes.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What images are made from; the names of Fabric's own by default.

    Attributes:
        builder: builds Go code.
        golang, node, java, python: run the code; node, java and python build it too.
        go_dynamic_link: Go programs may need libraries of the image they run in.
        version: of this peer; becomes a label of every image.
    """

    builder: str = "hyperledger/fabric-ccenv:2.5"
    golang: str = "hyperledger/fabric-baseos:2.5"
    node: str = "hyperledger/fabric-nodeenv:2.5"
    java: str = "hyperledger/fabric-javaenv:2.5"
    python: str = "python:3.12-slim"
    go_dynamic_link: bool = False
    version: str = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Code as a platform sees it.

    Attributes:
        source: directory of the code, ``src`` of a package; where it will be, before it is there.
        names: every file in it, relative.
        module: what to build of it; empty for the directory itself.
    """

    source: Path
    names: frozenset[str]
    module: str = ""

    def has(self, directory: str) -> bool:
        """Tell whether there are files below `directory`."""
        return any(name.startswith(f"{directory}/") for name in self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an engine builds the code; see `runtimes.api.ImagePlan`.

    Attributes:
        env: variables of the build.
    """

    builder: str
    script: str
    runtime: str
    target: str
    command: tuple[str, ...]
    probe: tuple[str, ...]
    offline: bool
    env: Mapping[str, str] = field(default_factory=dict)

    def plan(self, kind: str, version: str, code: Callable[[], bytes]) -> ImagePlan:
        """Return it as the backend needs it; labels and variable are those of Fabric's images."""
        return ImagePlan(
            builder=self.builder,
            script=_PRELUDE + self.script,
            build_env=self.env,
            offline=self.offline,
            runtime=self.runtime,
            target=self.target,
            env={"CORE_CHAINCODE_BUILDLEVEL": version},
            labels={
                "org.hyperledger.fabric.chaincode.type": kind.upper(),
                "org.hyperledger.fabric.version": version,
            },
            command=self.command,
            probe=self.probe,
            code=code,
        )


class Platform(Protocol):
    """One language."""

    @property
    def name(self) -> str:
        """The chaincode type, lower case."""
        ...

    @property
    def markers(self) -> Sequence[str]:
        """Files any one of which makes a directory one of this platform."""
        ...

    def check(self, entries: Sequence[Entry]) -> None:
        """
        Raises:
            PackageError: these are not the files of a package of this platform.
        """
        ...

    def is_ready(self, code: Code) -> bool:
        """Tell whether the code runs as it is, on this machine."""
        ...

    def fingerprint(self) -> str:
        """Return what a build depends on besides the code; another one needs another build."""
        ...

    async def build(self, code: Code, out: Path, run: Run) -> None:
        """Build in the code's own directory; what shall run elsewhere goes into `out`.

        Raises:
            BuildFailed: with the last output.
        """
        ...

    def recipe(self, code: Code, images: Images) -> Recipe:
        """Return how an engine builds it."""
        ...


def check_names(entries: Sequence[Entry], allowed: re.Pattern[str], modes: int) -> None:
    """
    Raises:
        PackageError: a file has another name than `allowed`, or a mode beyond `modes`.
    """
    for entry in entries:
        if entry.is_dir:
            continue
        if not allowed.fullmatch(entry.name):
            raise PackageError(f"illegal file detected in payload: {entry.name!r}")
        if entry.mode & ~modes:
            raise PackageError(f"illegal file mode detected for file {entry.name}: {entry.mode:o}")


def require(entries: Sequence[Entry], *names: str) -> None:
    """
    Raises:
        PackageError: none of `names` is there.
    """
    if not {entry.name for entry in entries}.intersection(names):
        raise PackageError(f"no {' or '.join(names)} found in the package")
