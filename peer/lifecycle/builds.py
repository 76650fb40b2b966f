"""Make installed code startable: find who builds it, build it once, say how to start it.

Room:      peer.lifecycle   (imports its room, runtimes.api; implements peer.chaincode's Packages)
Loop:      Trio; archives are read in threads
Lifetime:  peer; what was built survives it
Fabric:    core/container/container.go `Router`, core/chaincode/lifecycle/lifecycle.go
           `InstallChaincode` (release-2.5)
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from peer.chaincode.connections import ChaincodeServerInfo
from peer.errors import AlreadyInstalled, PackageError
from peer.lifecycle import archive
from peer.lifecycle.directories import InstalledPackage, copy_files, index_files_of, link
from peer.lifecycle.external import ExternalBuilders
from peer.lifecycle.legacy import Deployment
from peer.lifecycle.packages import Package, code_files
from peer.lifecycle.platforms import PLATFORMS
from peer.lifecycle.platforms.platform import Code, Images, Platform
from peer.lifecycle.service import CONNECTION, SERVICE_TYPES, connection_info, expand
from peer.lifecycle.store import MAX_PACKAGE_BYTES, Installed, PackageStore
from runtimes.api import (
    BuildFailed,
    ChaincodePackage,
    ReportStage,
    RuntimeBackend,
    RuntimeFailure,
    StartFailed,
    unreported,
)
from runtimes.process.tool import run_tool

log = logging.getLogger("peer.lifecycle")

COMPLETE = "complete"
"""Marks a build that was finished; its content is the platform's fingerprint."""

_PRIVATE_VARIABLES = ("CORE_", "FABRIC_")


class BuildRegistry:
    """Installs and builds the code of one peer.

    A package file is kept in the store. A directory is run where it stands if it is ready to run,
    so that an author can edit, restart and look again; it is forgotten when the peer closes.

    Args:
        directory: of builds for processes; one of a package that has gone is removed.
        backend: runs what is built, and builds images itself.
        environment: of the peer; the tools of a build see it without the peer's own variables.
        on_line: hears of every line a build writes.
        on_installed: is awaited with the id of each package once it is built.
    """

    def __init__(
        self,
        *,
        store: PackageStore,
        directory: Path,
        backend: RuntimeBackend,
        external: ExternalBuilders,
        images: Images,
        on_line: Callable[[str, str], None],
        install_timeout_s: float,
        environment: Mapping[str, str] = os.environ,
        on_installed: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._backend = backend
        self._external = external
        self._images = images
        self._on_line = on_line
        self._install_timeout_s = install_timeout_s
        self._environment = environment
        self._on_installed = on_installed
        self._linked: dict[str, InstalledPackage] = {}
        self._startable: dict[str, ChaincodePackage] = {}
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._remove_leftovers()

    async def install(
        self,
        source: Path,
        label: str = "",
        *,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> InstalledPackage:
        """Install and build a package file or a directory of code.

        Args:
            label: of a directory; its name if empty. A package file brings its own.
            command: of a directory; runs it in place of what its type says, without a build on
                this machine. `runtimes.api.PEER_ADDRESS` in it becomes the address to dial.
            env: of a directory; variables for what runs.

        Raises:
            PackageError: it is not acceptable, or cannot be built; nothing of it is kept.
            AlreadyInstalled: the same package is installed, and built by now.

        Cancellation: nothing of it is kept.
        """
        if await trio.Path(source).is_dir():
            package = await trio.to_thread.run_sync(link, source, label, command, env)
            former = self._linked.get(package.ccid)
            self._linked[package.ccid] = package
            if former != package:
                self._startable.pop(package.ccid, None)
            try:
                await self._build_in_time(package.ccid)
            except BaseException:
                if former is None:
                    self._linked.pop(package.ccid, None)
                raise
            return package
        if command or env:
            raise PackageError(f"{source} is no directory: a package brings its own command")
        return await self._install_file(source)

    async def build(
        self, ccid: str, on_stage: ReportStage = unreported
    ) -> ChaincodePackage | ChaincodeServerInfo:
        """Return how to start a package, built, or where it runs as a service.

        One caller builds, others wait. A build that failed is tried again by the next one.

        Args:
            on_stage: hears of `build` once the package is found and is no service.

        Raises:
            PackageError: it is not installed, or what it holds cannot be used.
            BuildFailed: with the last output of the build.
            RuntimeUnavailable: the engine that builds does not answer.

        Cancellation: ends the build and removes it; the next caller begins anew.
        """
        lock = self._locks[ccid]
        if lock.locked():
            on_stage("build")
        async with lock:
            found: ChaincodePackage | ChaincodeServerInfo | None = self._startable.get(ccid)
            if isinstance(found, ChaincodePackage) and not (found.image or found.path.is_dir()):
                found = None  # somebody removed it
            if found is None:
                found = await self._make(ccid, on_stage)
            if isinstance(found, ChaincodePackage):
                on_stage("build")
                if found.launcher is None:
                    await self._backend.build(found)
                self._startable[ccid] = found
            return found

    def check_installed(self, ccid: str) -> None:
        """
        Raises:
            NotInstalled: nothing is installed under this id.
        """
        if ccid not in self._linked:
            self._store.find(ccid)

    def is_directory(self, ccid: str) -> bool:
        """Tell whether a directory was installed under this id."""
        return ccid in self._linked

    async def uninstall(self, ccid: str) -> None:
        """Remove a package and what was built of it, except images; see `prune`.

        None there is fine.

        Cancellation: before it is removed. Then what is left of it goes with the next start.
        """
        async with self._locks[ccid]:
            if self._linked.pop(ccid, None) is None:
                self._store.delete(ccid)
            self._startable.pop(ccid, None)
            await trio.to_thread.run_sync(self._external.forget, ccid)
            await trio.to_thread.run_sync(_remove, self._home(ccid))

    async def close(self, *, keeps_packages: bool) -> None:
        """Remove images of directories; of package files, too, if these are not kept.

        Cancellation: shielded; bounded by the backend's limits.
        """
        self._linked.clear()
        installed = [package.ccid for package in self._store.list()] if keeps_packages else []
        with trio.CancelScope(shield=True):
            await self._prune(installed)

    async def prune(self) -> None:
        """Remove images of packages that are not installed; what fails is left to the next call."""
        await self._prune({package.ccid for package in self._store.list()} | self._linked.keys())

    async def _prune(self, installed: Collection[str]) -> None:
        try:
            await self._backend.prune(installed)
        except RuntimeFailure as exc:
            log.warning("images of packages that have gone stay for now: %s", exc)

    def list(self) -> list[Installed]:
        """Return every package file that is installed, ordered by id."""
        return self._store.list()

    def is_installed(self, ccid: str) -> bool:
        """Tell whether a package of this id is here."""
        return ccid in self._linked or self._store.has(ccid)

    def deployment(self, ccid: str) -> Deployment | None:
        """Return what an installed deployment spec is; None if there is none."""
        return self._store.deployment(ccid)

    async def find(self, ccid: str) -> InstalledPackage:
        """
        Raises:
            PackageError: nothing is installed under this id.
        """
        linked = self._linked.get(ccid)
        if linked is not None:
            return linked
        found = self._store.find(ccid)
        return _describe(found, await trio.to_thread.run_sync(found.read))

    async def indexes(self, ccid: str) -> Mapping[str, bytes]:
        """Return the index files of a package by name, from ``META-INF/`` on.

        Those that an external builder released replace the package's own.

        Raises:
            PackageError: nothing is installed under this id, or an index is no index.
            BuildFailed: its external builder fails.
        """
        linked = self._linked.get(ccid)
        if linked is not None:
            return await trio.to_thread.run_sync(index_files_of, linked.path)
        package = await self._read(ccid)
        build = await self._external.build(package)
        return package.indexes if build is None else build.indexes()

    async def _install_file(self, source: Path) -> InstalledPackage:
        return await self.install_package(await trio.to_thread.run_sync(_read_file, source))

    async def install_package(self, data: bytes) -> InstalledPackage:
        """Install and build the content of a package file; otherwise like `install`."""
        kept = False
        try:
            saved, package = await trio.to_thread.run_sync(self._store.save, data)
        except AlreadyInstalled as exc:
            await self._build_in_time(exc.ccid)
            raise
        except OSError as exc:
            raise PackageError(f"the package cannot be kept: {exc}") from exc
        try:
            await self._build_in_time(saved.ccid)
            kept = True
        finally:
            if not kept:
                self._store.delete(saved.ccid)
        return _describe(saved, package)

    async def _build_in_time(self, ccid: str) -> None:
        with trio.move_on_after(self._install_timeout_s) as limit:
            try:
                await self.build(ccid)
            except RuntimeFailure as exc:
                raise PackageError(f"could not build chaincode: {exc}") from exc
        if limit.cancelled_caught:
            raise PackageError(
                f"could not build chaincode: not done within {self._install_timeout_s:g} s "
                "(chaincode.installTimeout)"
            )
        if self._on_installed is not None:
            await self._on_installed(ccid)

    async def _read(self, ccid: str) -> Package:
        return await trio.to_thread.run_sync(self._store.find(ccid).read)

    async def _make(
        self, ccid: str, on_stage: ReportStage
    ) -> ChaincodePackage | ChaincodeServerInfo:
        linked = self._linked.get(ccid)
        if linked is not None:
            return await self._make_linked(linked, on_stage)
        package = await self._read(ccid)
        external = await self._external.build(package, on_stage)
        if external is not None:
            connection = external.connection()
            if connection is not None:
                return connection_info(ccid, connection)
            return ChaincodePackage(
                ccid=ccid, type=package.type, path=external.output, launcher=external.launcher()
            )
        if package.type in SERVICE_TYPES:
            connection = await trio.to_thread.run_sync(_connection_of, package)
            return connection_info(ccid, expand(ccid, connection, self._environment))
        on_stage("build")
        platform = _platform(package.type)
        names, source = await trio.to_thread.run_sync(_look_into, package, platform)
        home = self._home(ccid)
        code = Code(source=home / "code" / source, names=names, module=package.module)
        if self._backend.capabilities.image_build:
            recipe = platform.recipe(code, self._images)
            code_of = partial(_packaged_code, self._store, ccid)
            plan = recipe.plan(package.type, self._images.version, code_of)
            return ChaincodePackage(ccid=ccid, type=package.type, path=self._directory, image=plan)
        path = await self._compile(ccid, platform, code, partial(_extract, package.code))
        return ChaincodePackage(ccid=ccid, type=package.type, path=path)

    async def _make_linked(
        self, linked: InstalledPackage, on_stage: ReportStage
    ) -> ChaincodePackage | ChaincodeServerInfo:
        ccid = linked.ccid
        if linked.type in SERVICE_TYPES:
            connection = (linked.path / CONNECTION).read_bytes()
            return connection_info(ccid, expand(ccid, connection, self._environment))
        on_stage("build")
        package = ChaincodePackage(
            ccid=ccid, type=linked.type, path=linked.path, command=linked.command, env=linked.env
        )
        if package.command and not self._backend.capabilities.image_build:
            return package
        platform = _platform(linked.type)
        files = await trio.to_thread.run_sync(code_files, linked.path)
        names = frozenset(name.removeprefix("src/") for name in files if name.startswith("src/"))
        code = Code(source=linked.path, names=names)
        if self._backend.capabilities.image_build:
            recipe = platform.recipe(code, self._images)
            code_of = partial(_directory_code, linked.path)
            plan = recipe.plan(linked.type, self._images.version, code_of)
            command = package.command or plan.command
            return replace(package, image=replace(plan, command=command))
        if platform.is_ready(code):
            return package
        copy = Code(source=self._home(ccid) / "code" / "src", names=names)
        path = await self._compile(ccid, platform, copy, partial(copy_files, files))
        return replace(package, path=path)

    def _home(self, ccid: str) -> Path:
        return self._directory / ccid.replace(":", ".", 1)

    async def _compile(
        self, ccid: str, platform: Platform, code: Code, fill: Callable[[Path], None]
    ) -> Path:
        """Return the directory to run in: that of the code, or where its build put something.

        Args:
            fill: puts the code below a directory.
        """
        home = self._home(ccid)
        out = home / "out"
        complete = home / COMPLETE
        if not (complete.is_file() and complete.read_text() == platform.fingerprint()):
            done = False
            try:
                await trio.to_thread.run_sync(_prepare, home, fill)
                if not platform.is_ready(code):
                    await platform.build(code, out, partial(self._run, ccid))
                complete.write_text(platform.fingerprint())
                done = True
            except OSError as exc:
                raise BuildFailed(f"{home} cannot be used: {exc}") from exc
            finally:
                if not done:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(_remove, home)
        return out if os.listdir(out) else code.source

    async def _run(
        self, ccid: str, *argv: str, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Run a tool of a build; see `platforms.platform.Run`."""
        own = {
            name: value
            for name, value in self._environment.items()
            if not name.startswith(_PRIVATE_VARIABLES)
        }
        try:
            ended = await run_tool(
                argv, cwd=cwd, env={**own, **(env or {})}, on_line=partial(self._on_line, ccid)
            )
        except StartFailed as exc:
            raise BuildFailed(f"{exc}; building this package needs it") from exc
        if ended.status.code != 0:
            command = " ".join([Path(argv[0]).name, *argv[1:]])
            lines = (f"{command}: {ended.status}; last output:", *ended.tail)
            raise BuildFailed("\n  ".join(lines))

    def _remove_leftovers(self) -> None:
        """Remove the builds of packages that have gone, and those that were never finished."""
        if not self._directory.is_dir():
            return
        wanted = {self._home(package.ccid).name for package in self._store.list()}
        for home in self._directory.iterdir():
            if home.name not in wanted or not (home / COMPLETE).is_file():
                _remove(home)


def _platform(kind: str) -> Platform:
    try:
        return PLATFORMS[kind]
    except KeyError:
        raise BuildFailed(f"unknown chaincodeType: {kind}") from None


def _describe(found: Installed, package: Package) -> InstalledPackage:
    return InstalledPackage(
        ccid=package.ccid, label=package.label, type=package.type, path=found.path
    )


def _read_file(source: Path) -> bytes:
    try:
        if source.stat().st_size > MAX_PACKAGE_BYTES:
            raise PackageError(f"{source} is larger than {MAX_PACKAGE_BYTES >> 20} MiB")
        return source.read_bytes()
    except FileNotFoundError:
        raise PackageError(f"there is no package or directory {source}") from None
    except OSError as exc:
        raise PackageError(f"{source} cannot be read: {exc}") from exc


def _look_into(package: Package, platform: Platform) -> tuple[frozenset[str], str]:
    """Return the names of the code's files and the directory they are in, once checked."""
    with archive.opened(package.code) as opened:
        platform.check(opened.entries)
        names = [entry.place for entry in opened.entries if not entry.is_dir]
    source = "src/" if any(name.startswith("src/") for name in names) else ""
    below = (name.removeprefix(source) for name in names if name.startswith(source))
    return frozenset(below), source


def _connection_of(package: Package) -> bytes:
    with archive.opened(package.code) as opened:
        for entry in opened.entries:
            if entry.place == CONNECTION and not entry.is_dir:
                return opened.read(entry)
    raise PackageError(f"{CONNECTION} not found in the package of {package.ccid}")


def _extract(code: bytes, directory: Path) -> None:
    with archive.opened(code) as opened:
        opened.extract(directory)


def _prepare(home: Path, fill: Callable[[Path], None]) -> None:
    _remove(home)
    for directory in (home, home / "code", home / "out"):
        directory.mkdir(parents=True, mode=0o700)
    fill(home / "code")


def _remove(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)


def _packaged_code(store: PackageStore, ccid: str) -> bytes:
    return store.find(ccid).read().code


def _directory_code(directory: Path) -> bytes:
    return archive.pack(code_files(directory))
