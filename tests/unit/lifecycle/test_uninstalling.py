"""What goes with a package, and what a backend is told to keep."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from peer.errors import NotInstalled
from peer.lifecycle.external import ExternalBuilders
from runtimes.api import Capabilities
from tests.fakes.runtime import FakeRuntime
from tests.unit.lifecycle.archives import package
from tests.unit.lifecycle.test_builds import PYTHON, registry, written


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(capabilities=Capabilities(image_build=True))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    source = tmp_path / "cc"
    source.mkdir()
    (source / "chaincode.py").write_text("pass")
    return source


async def test_images_of_what_is_installed_stay(
    tmp_path: Path, runtime: FakeRuntime, directory: Path
) -> None:
    packages = registry(tmp_path / "data", runtime)
    await packages.prune()
    kept = (await packages.install(written(tmp_path / "p", package(PYTHON)))).ccid
    linked = (await packages.install(directory)).ccid
    await packages.prune()
    await packages.uninstall(linked)
    await packages.uninstall(linked)  # none there is fine
    await packages.prune()
    assert runtime.pruned == [set(), {kept, linked}, {kept}]
    for ccid in (linked, "nothing:1"):
        with pytest.raises(NotInstalled):
            packages.check_installed(ccid)
    packages.check_installed(kept)
    await packages.uninstall(kept)
    assert packages.list() == []


@pytest.mark.parametrize("keeps_packages", [False, True])
async def test_the_end_of_a_peer(
    tmp_path: Path, runtime: FakeRuntime, directory: Path, keeps_packages: bool
) -> None:
    packages = registry(tmp_path / "data", runtime)
    kept = (await packages.install(written(tmp_path / "p", package(PYTHON)))).ccid
    await packages.install(directory)
    with trio.CancelScope() as scope:
        scope.cancel()
        await packages.close(keeps_packages=keeps_packages)
    assert runtime.pruned == [{kept} if keeps_packages else set()]


async def test_images_that_cannot_be_removed_now(
    tmp_path: Path, runtime: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.available = False
    await registry(tmp_path, runtime).prune()
    assert "stay for now: the fake engine is switched off" in caplog.text


async def test_a_build_ends_before_its_package_goes(
    tmp_path: Path, runtime: FakeRuntime, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, finish = trio.Event(), trio.Event()

    async def build(package: object) -> None:
        begun.set()
        await finish.wait()

    packages = registry(tmp_path / "data", runtime)
    ccid = (await packages.install(directory)).ccid
    monkeypatch.setattr(runtime, "build", build)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(packages.build, ccid)
        await begun.wait()
        nursery.start_soon(packages.uninstall, ccid)
        await trio.testing.wait_all_tasks_blocked()
        packages.check_installed(ccid)
        finish.set()
    with pytest.raises(NotInstalled):
        await packages.build(ccid)


def test_the_result_of_an_external_builder_goes(tmp_path: Path) -> None:
    builders = ExternalBuilders([], tmp_path / "built")
    (tmp_path / "built" / "a-1").mkdir(parents=True)
    builders.forget("a:1")
    builders.forget("a:1")
    assert not (tmp_path / "built" / "a-1").exists()
