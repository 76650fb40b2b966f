"""The backends under the contract."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes import docker, podman
from runtimes.process import link, zygotes
from tests.contract.containers import ContainerHarness, ContainerHouse, FakeEngineHarness
from tests.contract.harness import FakeHarness, Harness, ProcessHarness
from tests.engines.engine import Engine
from tests.fakes.runtime import (
    ExitsBeforeReady,
    FailsToStart,
    FakeRuntime,
    HangsInStart,
    HangsInStop,
    NeverReadyRuntime,
)

ROOT = Path(__file__).parents[2]

FAKES = {
    "fake": FakeRuntime,
    "never_ready": NeverReadyRuntime,
    "exits": ExitsBeforeReady,
    "hangs_in_start": HangsInStart,
    "fails_to_start": FailsToStart,
    "hangs_in_stop": HangsInStop,
}


@pytest.fixture(scope="session", autouse=True)
def _covered_programs() -> None:
    """Let keeper and zygote, processes of their own, take part in a measurement of coverage."""
    coverage = sys.modules.get("coverage")
    if coverage is not None and coverage.Coverage.current() is not None:
        program = Path(__file__).parent / "covered_keeper.py"
        link.KEEPER_COMMAND = (sys.executable, str(program))
        zygotes.PROGRAM = Path(__file__).parent / "covered_zygote.py"


@pytest.fixture
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    """The backend that the parameter names; `process` where a test names none."""
    match getattr(request, "param", "process"):
        case "process":
            return ProcessHarness(tmp_path)
        case "docker" | "podman" as name:
            return request.getfixturevalue(f"{name}_harness")
        case "fake_engine":
            return FakeEngineHarness(tmp_path)
        case name:
            return FakeHarness(FAKES[name]())


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment that holds what this interpreter's does, and more if a test wants."""
    base = tmp_path / "environment"
    (base / "bin").mkdir(parents=True)
    (base / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    home = Path(os.path.realpath(sys.executable)).parent
    (base / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    packages = base / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    packages.mkdir(parents=True)
    found = (sysconfig.get_path("platlib"), ROOT, ROOT / "proto")
    (packages / "library.pth").write_text("".join(f"{place}\n" for place in found))
    return packages


@pytest.fixture(scope="session")
def docker_house(docker_engine: Engine) -> Iterator[ContainerHouse]:
    """What the tests of a session make on Docker; all of it is removed at the end."""
    with ContainerHouse(docker_engine, docker.backend).held() as house:
        yield house


@pytest.fixture(scope="session")
def podman_house(podman_engine: Engine) -> Iterator[ContainerHouse]:
    """What the tests of a session make on Podman; all of it is removed at the end."""
    with ContainerHouse(podman_engine, podman.backend).held() as house:
        yield house


@pytest.fixture
def docker_harness(docker_house: ContainerHouse, tmp_path: Path) -> Iterator[ContainerHarness]:
    """The Docker backend."""
    with (harness := ContainerHarness(docker_house, tmp_path)).listening:
        yield harness


@pytest.fixture
def podman_harness(podman_house: ContainerHouse, tmp_path: Path) -> Iterator[ContainerHarness]:
    """The Podman backend."""
    with (harness := ContainerHarness(podman_house, tmp_path)).listening:
        yield harness
