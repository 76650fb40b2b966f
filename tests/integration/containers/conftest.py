"""The engines under the whole peer. Every test ends with a look for what it left on the engine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimes import docker, podman
from runtimes.api import ImagePlan
from runtimes.containers import building, runtime
from tests.contract.containers import ContainerHouse
from tests.engines.engine import Engine
from tests.integration.containers.code import ImageCode
from tests.integration.containers.packages import Packages
from tests.integration.containers.site import Site


@pytest.fixture(scope="session")
def docker_site(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ContainerHouse(docker_engine, docker.backend).held() as house:
        yield Site(house, tmp_path_factory.mktemp("docker"))


@pytest.fixture(scope="session")
def podman_site(podman_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ContainerHouse(podman_engine, podman.backend).held() as house:
        yield Site(house, tmp_path_factory.mktemp("podman"))


@pytest.fixture(params=["docker", "podman"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One engine and the peer on it; images stay, nothing else does."""
    found: Site = request.getfixturevalue(f"{request.param}_site")
    yield found
    found.forget_channels()
    assert found.left() == []


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Packages of every language, made once for all engines."""
    return Packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def code(tmp_path: Path) -> ImageCode:
    return ImageCode(tmp_path, f"cc{secrets.token_hex(4)}x")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each build that the engine is asked for has its network cut off, as they come."""
    asked: list[bool] = []

    async def record(engine: object, name: str, plan: ImagePlan, **kwargs: Any) -> None:
        asked.append(plan.offline)
        await building.build_image(engine, name, plan, **kwargs)

    monkeypatch.setattr(runtime, "build_image", record)
    return asked
