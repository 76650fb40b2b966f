"""External builders: programs of the operator that recognise, build and run packages.

Room:      peer.lifecycle   (imports archive, packages, peer.config, runtimes; used by builds)
Loop:      Trio
Lifetime:  peer; what was built survives it
Fabric:    core/container/externalbuilder/externalbuilder.go (release-2.5)
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from peer.config.model import ExternalBuilder
from peer.errors import PackageError
from peer.lifecycle import archive
from peer.lifecycle.packages import METADATA, Package
from runtimes.api import BuildFailed, Launcher, ReportStage, RuntimeFailure, unreported
from runtimes.process.tool import Ended, run_tool

BUILD_INFO = "build-info.json"
PART_PREFIX = ".part-"
_ALWAYS_PROPAGATED = ("LD_LIBRARY_PATH", "LIBPATH", "PATH", "TMPDIR")
_UNSAFE = re.compile(r'[<>:"/\\|?*&]')


class ExternalBuild(NamedTuple):
    """What a builder made of a package.

    Attributes:
        builder: which one.
        path: holds its outputs, ``bld`` and ``release``.
        env: the environment of its programs.
    """

    builder: ExternalBuilder
    path: Path
    env: Mapping[str, str]

    @property
    def output(self) -> Path:
        """What its ``bin/build`` wrote."""
        return self.path / "bld"

    def connection(self) -> bytes | None:
        """Return the ``connection.json`` that makes the chaincode a service, if there is one."""
        try:
            return (self.path / "release/chaincode/server/connection.json").read_bytes()
        except FileNotFoundError:
            return None

    def indexes(self) -> dict[str, bytes]:
        """Return the index files it released, from ``META-INF/`` on: they replace the package's."""
        root = self.path / "release" / "statedb"
        files = archive.files_below(root)
        return {f"META-INF/statedb/{name}": path.read_bytes() for name, path in files.items()}

    def launcher(self) -> Launcher:
        """
        Raises:
            BuildFailed: it cannot run what it built.
        """
        program = self.builder.path / "bin" / "run"
        if not program.is_file():
            raise BuildFailed(
                f"external builder '{self.builder.name}' has no bin/run, and released no "
                "chaincode/server/connection.json"
            )
        return Launcher(program=program, env=self.env)


class ExternalBuilders:
    """The configured builders, asked in their order.

    Args:
        directory: of durable results, ``externalbuilder/builds``.
        environment: of the peer; programs see a few names of it.
        on_output: hears of every line a builder writes, with the chaincode's id.
    """

    def __init__(
        self,
        builders: Sequence[ExternalBuilder],
        directory: Path,
        environment: Mapping[str, str] = os.environ,
        on_output: Callable[[str, str], None] | None = None,
    ) -> None:
        self._builders = tuple(builders)
        self._directory = directory
        self._environment = environment
        self._on_output = on_output
        for part in directory.glob(f"{PART_PREFIX}*"):  # of a peer that was killed
            shutil.rmtree(part, ignore_errors=True)

    async def build(
        self, package: Package, on_stage: ReportStage = unreported
    ) -> ExternalBuild | None:
        """Return the result of the first builder that claims the package, None if none does.

        A result is kept; the next call returns it.

        Raises:
            BuildFailed: its builder failed, or is not configured any more.

        Cancellation: ends the program that runs and leaves nothing of the build.
        """
        if not self._builders:
            return None
        on_stage("build")
        durable = self._durable(package.ccid)
        if durable.is_dir():
            return self._kept(package.ccid, durable)
        async with _work_directory(package) as work:
            await trio.to_thread.run_sync(_unpack, package, work)
            for builder in self._builders:
                if await self._claims(builder, package.ccid, work):
                    await self._build(builder, package.ccid, work)
                    await trio.to_thread.run_sync(_keep, builder, work, durable)
                    return self._result(builder, durable)
        return None

    def forget(self, ccid: str) -> None:
        """Remove the result for a package; none there is fine."""
        shutil.rmtree(self._durable(ccid), ignore_errors=True)

    def _durable(self, ccid: str) -> Path:
        return self._directory / _UNSAFE.sub("-", ccid)

    def _kept(self, ccid: str, durable: Path) -> ExternalBuild:
        try:
            name = json.loads((durable / BUILD_INFO).read_bytes())["builder_name"]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise BuildFailed(f"{durable / BUILD_INFO} cannot be read: {exc}") from exc
        for builder in self._builders:
            if builder.name == name:
                return self._result(builder, durable)
        raise BuildFailed(
            f"chaincode '{ccid}' was built by external builder '{name}', which is not configured "
            f"any more; configure it again or remove {durable}"
        )

    def _result(self, builder: ExternalBuilder, durable: Path) -> ExternalBuild:
        return ExternalBuild(builder, durable, self._variables(builder))

    async def _claims(self, builder: ExternalBuilder, ccid: str, work: Path) -> bool:
        try:
            ended = await self._run(builder, ccid, "detect", work / "src", work / "metadata")
        except RuntimeFailure as exc:
            _log(builder).warning("detect: %s", exc)
            return False
        return ended.status.code == 0

    async def _build(self, builder: ExternalBuilder, ccid: str, work: Path) -> None:
        """Build and release."""
        directories = {
            "build": (work / "src", work / "metadata", work / "bld"),
            "release": (work / "bld", work / "release"),
        }
        for command, arguments in directories.items():
            if command == "release" and not (builder.path / "bin" / command).exists():
                continue
            try:
                ended = await self._run(builder, ccid, command, *arguments)
            except RuntimeFailure as exc:
                raise BuildFailed(f"external builder '{builder.name}' failed: {exc}") from exc
            if ended.status.code != 0:
                lines = "\n  ".join((f"{command}: {ended.status}", *ended.tail))
                raise BuildFailed(f"external builder '{builder.name}' failed: {lines}")

    async def _run(
        self, builder: ExternalBuilder, ccid: str, command: str, *arguments: Path
    ) -> Ended:
        argv = [str(builder.path / "bin" / command), *map(str, arguments)]

        def on_line(line: str) -> None:
            _log(builder).info("%s: %s", command, line)
            if self._on_output is not None:
                self._on_output(ccid, line)

        return await run_tool(argv, cwd=Path.cwd(), env=self._variables(builder), on_line=on_line)

    def _variables(self, builder: ExternalBuilder) -> dict[str, str]:
        names = (*_ALWAYS_PROPAGATED, *builder.propagate_environment)
        return {name: self._environment[name] for name in names if name in self._environment}


def _log(builder: ExternalBuilder) -> logging.Logger:
    return logging.getLogger(f"peer.chaincode.externalbuilder.{builder.name}")


@asynccontextmanager
async def _work_directory(package: Package) -> AsyncIterator[Path]:
    work = Path(tempfile.mkdtemp(prefix=f"fabric-{_UNSAFE.sub('-', package.ccid)}"))
    try:
        for directory in ("src", "metadata", "bld", "release"):
            (work / directory).mkdir(mode=0o700)
        yield work
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, work, ignore_errors=True))


def _unpack(package: Package, work: Path) -> None:
    try:
        with archive.opened(package.code) as opened:
            opened.extract(work / "src")
        (work / "metadata" / METADATA).write_bytes(package.metadata)
    except OSError as exc:
        raise PackageError(f"the code cannot be unpacked: {exc}") from exc


def _keep(builder: ExternalBuilder, work: Path, durable: Path) -> None:
    """Copy the outputs to their place, which is there complete or not at all."""
    try:
        durable.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = Path(tempfile.mkdtemp(prefix=PART_PREFIX, dir=durable.parent))
        try:
            for directory in ("bld", "release"):
                shutil.copytree(work / directory, part / directory, symlinks=True)
                (part / directory).chmod(0o700)
            (part / BUILD_INFO).write_text(json.dumps({"builder_name": builder.name}))
            part.rename(durable)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except (OSError, shutil.Error) as exc:
        raise BuildFailed(f"what '{builder.name}' built cannot be kept: {exc}") from exc
