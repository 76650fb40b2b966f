"""Go.

Room:      peer.lifecycle.platforms
Loop:      Trio
Lifetime:  one build
Fabric:    core/chaincode/platforms/golang/platform.go (release-2.5)
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from peer.lifecycle.archive import Entry
from peer.lifecycle.platforms.platform import (
    BASH_PROBE,
    Code,
    Images,
    Recipe,
    Run,
    check_names,
)
from runtimes.api import BUILD_INPUT, BUILD_OUTPUT, PEER_ADDRESS, BuildFailed

PROGRAM = "chaincode"
_NAMES = re.compile(r"(src|META-INF)/.*")
_MODULE = re.compile(r"(?!-)[A-Za-z0-9._~+/-]*")
_MODES = 0o100777
_STATIC = "-ldflags=-linkmode external -extldflags '-static'"
_COPY = f"""\
set -e
mkdir -p {BUILD_OUTPUT}
cp {BUILD_INPUT}/src/{PROGRAM} {BUILD_OUTPUT}
chmod 755 {BUILD_OUTPUT}/{PROGRAM}
"""


class Golang:
    """Builds one program: a module with or without vendored libraries, or a GOPATH tree."""

    name = "golang"
    markers = (PROGRAM, "go.mod")

    def check(self, entries: Sequence[Entry]) -> None:
        """See `Platform.check`."""
        check_names(entries, _NAMES, _MODES)

    def is_ready(self, code: Code) -> bool:
        """A program that is built needs no compiler, whatever lies beside it."""
        return os.access(code.source / PROGRAM, os.X_OK)

    def fingerprint(self) -> str:
        """See `Platform.fingerprint`."""
        return self.name

    async def build(self, code: Code, out: Path, run: Run) -> None:
        """Compile; cgo is used where there is a C compiler, the program stays on this machine.

        A program that is built lacks no more than the right to run, which packages do not keep.
        """
        built = code.source / PROGRAM
        if built.is_file():
            built.chmod(0o755)
            return
        directory, mode, target = _layout(code)
        env = {"GO111MODULE": "on" if mode else "off"}
        if not mode:
            tree = str(code.source.parent)
            env["GOPATH"] = os.pathsep.join(filter(None, (tree, os.environ.get("GOPATH"))))
        program = str(out / PROGRAM)
        arguments = [*mode, "-buildvcs=false", "-o", program, target]
        await run("go", "build", *arguments, cwd=code.source / directory, env=env)

    def recipe(self, code: Code, images: Images) -> Recipe:
        """See `Platform.recipe`; a program that came alone is taken as it is."""
        built = PROGRAM in code.names and "go.mod" not in code.names
        return Recipe(
            builder=images.builder,
            script=_COPY if built else "\n".join(_script(code, static=not images.go_dynamic_link)),
            runtime=images.golang,
            target="/usr/local/bin",
            command=(PROGRAM, f"-peer.address={PEER_ADDRESS}"),
            probe=BASH_PROBE,
            offline=built or _is_vendored(code),
            env={name: os.environ[name] for name in ("GOPROXY", "GOSUMDB") if name in os.environ},
        )


def _layout(code: Code) -> tuple[str, tuple[str, ...], str]:
    """Return directory, module mode (empty: GOPATH) and what to build there.

    Raises:
        BuildFailed: the module is no import path; it would become an option or lead elsewhere.
    """
    module = code.module.strip("/")
    if not _MODULE.fullmatch(module) or ".." in module.split("/"):
        raise BuildFailed(f"path {code.module!r} of the package's metadata is no import path")
    for directory, target in (("", module or "."), (module, ".")):
        prefix = f"{directory}/" if directory else ""
        if f"{prefix}go.mod" in code.names:
            vendored = code.has(f"{prefix}vendor")
            return directory, ("-mod=vendor" if vendored else "-mod=readonly",), target
    return "", (), module or "."


def _is_vendored(code: Code) -> bool:
    _, mode, _ = _layout(code)
    return mode != ("-mod=readonly",)


def _script(code: Code, *, static: bool) -> Iterator[str]:
    directory, mode, target = _layout(code)
    yield "set -e"
    yield f"mkdir -p {BUILD_OUTPUT}"
    yield f"cd {shlex.quote(os.path.join(BUILD_INPUT, 'src', directory))}"
    if mode:
        yield "export GO111MODULE=on"
    else:
        yield f'export GO111MODULE=off GOPATH="{BUILD_INPUT}:$GOPATH"'
    yield "set --"
    if static:  # without a C compiler there is nothing that could be dynamic
        yield f'[ "$(go env CGO_ENABLED)" != 1 ] || set -- {shlex.quote(_STATIC)}'
    arguments = [*mode, "-buildvcs=false", "-o", f"{BUILD_OUTPUT}/{PROGRAM}", target]
    yield f'go build "$@" {shlex.join(arguments)}'
