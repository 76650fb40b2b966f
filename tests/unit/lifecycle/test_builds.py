"""Who builds what, how often, and what a backend that makes images is given."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from fabric_protos.codec import encode
from peer.chaincode.connections import ChaincodeServerInfo
from peer.errors import AlreadyInstalled, PackageError
from peer.lifecycle import builds
from peer.lifecycle.builds import BuildRegistry
from peer.lifecycle.directories import link
from peer.lifecycle.external import ExternalBuilders
from peer.lifecycle.platforms.platform import Images
from peer.lifecycle.store import PackageStore
from runtimes.api import BuildFailed, Capabilities, ChaincodePackage, ImagePlan, RuntimeUnavailable
from tests.fakes.runtime import FakeRuntime
from tests.unit.lifecycle.archives import files, package
from tests.unit.lifecycle.test_packages import spec

IMAGES = Images(builder="b", golang="g", node="n", java="j", python="p", version="9")
PYTHON = files({"src/chaincode.py": b"pass", "src/requirements.txt": b"x\n"})


def registry(
    directory: Path, runtime: FakeRuntime, *, install_timeout_s: float = 60.0
) -> BuildRegistry:
    return BuildRegistry(
        store=PackageStore(directory),
        directory=directory / "lifecycle" / "builds",
        backend=runtime,
        external=ExternalBuilders([], directory / "external"),
        images=IMAGES,
        on_line=lambda ccid, line: None,
        install_timeout_s=install_timeout_s,
        environment={},
    )


def images() -> FakeRuntime:
    return FakeRuntime(capabilities=Capabilities(image_build=True))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


async def plan_of(packages: BuildRegistry, ccid: str) -> ImagePlan:
    found = await packages.build(ccid)
    assert isinstance(found, ChaincodePackage)
    assert found.image is not None
    return found.image


def names_in(code: bytes) -> Sequence[str]:
    with tarfile.open(fileobj=io.BytesIO(code)) as tar:
        return tar.getnames()


async def test_a_plan_for_a_package(tmp_path: Path) -> None:
    runtime = images()
    packages = registry(tmp_path, runtime)
    ccid = (await packages.install(written(tmp_path / "p", package(PYTHON)))).ccid
    plan = await plan_of(packages, ccid)
    assert plan.code() == PYTHON
    assert (plan.builder, plan.runtime) == ("p", "p")
    assert not plan.offline
    assert plan.argv("unix:///s")[-1] == "unix:///s"
    assert runtime.built == [ccid, ccid]  # the engine itself knows whether it has the image
    assert not (tmp_path / "lifecycle" / "builds").exists()


async def test_a_plan_for_a_directory(tmp_path: Path) -> None:
    source = tmp_path / "cc"
    source.mkdir()
    (source / "go.mod").write_text("module cc")
    (source / "main.go").write_text("package main")
    packages = registry(tmp_path / "data", images())
    installed = await packages.install(source)
    plan = await plan_of(packages, installed.ccid)
    assert (plan.builder, plan.runtime) == ("b", "g")
    assert names_in(plan.code()) == ["src/go.mod", "src/main.go"]
    assert plan.code() == plan.code()


async def test_an_image_that_cannot_be_built(tmp_path: Path) -> None:
    runtime = images()
    runtime.build_failure = "no space left"
    packages = registry(tmp_path, runtime)
    source = written(tmp_path / "p", package(PYTHON))
    with pytest.raises(PackageError, match="could not build chaincode: no space left"):
        await packages.install(source)
    assert packages.list() == []
    runtime.build_failure = ""
    ccid = (await packages.install(source)).ccid
    runtime.build_failure = "engine in trouble"
    with pytest.raises(BuildFailed, match="engine in trouble"):
        await packages.build(ccid)
    runtime.build_failure = ""  # the next launch tries again
    assert await plan_of(packages, ccid)


async def test_a_directory_that_cannot_be_built_is_not_installed(tmp_path: Path) -> None:
    source = tmp_path / "cc"
    source.mkdir()
    (source / "chaincode.py").write_text("pass")
    runtime = FakeRuntime()
    packages = registry(tmp_path / "data", runtime)
    ccid = (await packages.install(source)).ccid
    runtime.build_failure = "broken"
    with pytest.raises(PackageError, match="could not build chaincode: broken"):
        await packages.install(source)
    assert (await packages.find(ccid)).path == source  # it was there before
    (source / "chaincode.py").write_text("changed")
    with pytest.raises(PackageError, match="could not build chaincode: broken"):
        await packages.install(source)
    with pytest.raises(PackageError, match="not found"):
        await packages.find(link(source, "").ccid)


async def test_a_directory_with_a_command_of_its_own_is_not_built(tmp_path: Path) -> None:
    source = tmp_path / "cc"
    source.mkdir()
    (source / "requirements.txt").write_text("x")
    (source / "main.rs").write_text("fn main() {}")
    packages = registry(tmp_path / "data", FakeRuntime())
    with pytest.raises(PackageError, match="it is no chaincode"):
        await packages.install(source)
    ccid = (await packages.install(source, command=["cargo", "run"], env={"A": "1"})).ccid
    expected = {"ccid": ccid, "type": "unknown", "path": source, "env": {"A": "1"}}
    assert await packages.build(ccid) == ChaincodePackage(**expected, command=("cargo", "run"))
    await packages.install(source, command=["cargo", "test"], env={"A": "1"})
    assert await packages.build(ccid) == ChaincodePackage(**expected, command=("cargo", "test"))
    file = written(tmp_path / "p", package(PYTHON))
    with pytest.raises(PackageError, match="is no directory"):
        await packages.install(file, env={"A": "1"})
    assert packages.list() == []


async def test_a_command_of_its_own_in_an_image(tmp_path: Path) -> None:
    source = tmp_path / "cc"
    source.mkdir()
    (source / "chaincode.py").write_text("pass")
    packages = registry(tmp_path / "data", images())
    ccid = (await packages.install(source, command=["run", "{peer.address}"])).ccid
    plan = await plan_of(packages, ccid)
    assert (plan.runtime, plan.argv("unix:///s")) == ("p", ("run", "unix:///s"))


async def test_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    at_once = 0
    most = 0

    class Counting(FakeRuntime):
        async def build(self, package: ChaincodePackage) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await trio.testing.wait_all_tasks_blocked()
            at_once -= 1

    packages = registry(tmp_path, Counting())
    source = tmp_path / "cc"
    source.mkdir()
    (source / "chaincode.py").write_text("pass")
    ccid = (await packages.install(source)).ccid
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(packages.build, ccid)
    assert most == 1


async def test_installing_again_builds_what_is_missing(tmp_path: Path) -> None:
    runtime = images()
    source = written(tmp_path / "p", package(PYTHON))
    ccid = (await registry(tmp_path, runtime).install(source)).ccid
    with pytest.raises(AlreadyInstalled) as caught:
        await registry(tmp_path, runtime).install(source)
    assert caught.value.ccid == ccid
    assert runtime.built == [ccid, ccid]


async def test_a_service_needs_no_backend(tmp_path: Path) -> None:
    runtime = images()
    packages = registry(tmp_path, runtime)
    code = files({"connection.json": json.dumps({"address": "host:9"}).encode()})
    source = written(tmp_path / "p", package(code, kind="external"))
    ccid = (await packages.install(source)).ccid
    found = await packages.build(ccid)
    assert isinstance(found, ChaincodeServerInfo)
    assert found.address == "host:9"
    assert runtime.built == []


async def test_what_is_not_installed(tmp_path: Path) -> None:
    packages = registry(tmp_path, FakeRuntime())
    for ask in (packages.build, packages.find, packages.indexes):
        with pytest.raises(PackageError, match="'cc:1' not found"):
            await ask("cc:1")


async def test_a_package_without_code(tmp_path: Path) -> None:
    empty = spec()
    empty.code_package = b""
    packages = registry(tmp_path, images())
    with pytest.raises(PackageError, match="no archive"):
        await packages.install(written(tmp_path / "p", encode(empty)))
    assert packages.list() == []


class Away(FakeRuntime):
    async def build(self, package: ChaincodePackage) -> None:
        raise RuntimeUnavailable("the engine does not answer")


async def test_an_engine_that_is_away(tmp_path: Path) -> None:
    packages = registry(tmp_path, Away())
    with pytest.raises(PackageError, match="the engine does not answer"):
        await packages.install(written(tmp_path / "p", package(files({"src/main.py": b""}))))
    assert packages.list() == []


@pytest.mark.parametrize("step", ["_prepare", "_write"])
async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "_prepare":
        monkeypatch.setattr(builds, step, full)
    else:
        monkeypatch.setattr("peer.lifecycle.store._write", full)
    packages = registry(tmp_path, FakeRuntime())
    source = written(tmp_path / "p", package(files({"src/chaincode.py": b"pass"})))
    with pytest.raises(PackageError, match="No space left on device"):
        await packages.install(source)
    assert packages.list() == []
    assert list((tmp_path / "lifecycle").rglob("*.py")) == []


async def test_what_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "MAX_PACKAGE_BYTES", 10)
    with pytest.raises(PackageError, match="is larger than 0 MiB"):
        await registry(tmp_path, FakeRuntime()).install(written(tmp_path / "p", bytes(11)))
