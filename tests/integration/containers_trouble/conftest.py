"""Engines to break under a whole peer. Every test ends with a look for what it left on one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.engine import Engine
from tests.engines.processes import arguments_of, holds
from tests.integration.containers.code import ImageCode
from tests.integration.containers_trouble.own_engine import Ballast, own_engine

DAEMONS = {"dockerd", "containerd", "podman"}
NETWORKS = {"bridge", "host", "none", "podman"}


@pytest.fixture(params=["docker", "podman"], scope="module")
def running_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    request.getfixturevalue(f"{request.param}_engine")  # skips where it is not asked for
    with own_engine(request.param) as engine:
        yield engine


@pytest.fixture
def engine(running_engine: Engine) -> Iterator[Engine]:
    """An engine of the test's own, running, with all its room."""
    yield running_engine
    Ballast(running_engine).drop()
    if not running_engine.is_ready():
        running_engine.start()
    assert left(running_engine) == []
    assert holds(lambda: _programs(running_engine) <= DAEMONS, 10.0), _programs(running_engine)


@pytest.fixture
def ballast(engine: Engine) -> Ballast:
    return Ballast(engine)


@pytest.fixture
def code(tmp_path: Path) -> ImageCode:
    return ImageCode(tmp_path, f"cc{secrets.token_hex(4)}x")


def left(engine: Engine) -> list[str]:
    """Return containers, networks and images without a name."""
    _, containers = engine.request("GET", "/containers/json?all=true")
    _, networks = engine.request("GET", "/networks")
    _, images = engine.request("GET", "/images/json")
    return [
        *(container["Id"] for container in containers),
        *(network["Name"] for network in networks if network["Name"] not in NETWORKS),
        *(image["Id"] for image in images if set(image["RepoTags"] or ()) <= {"<none>:<none>"}),
    ]


def _programs(engine: Engine) -> set[str]:
    """Return the names of what runs because of the engine."""
    return {Path(arguments_of(pid)[0]).name for pid in engine.processes()} - {""}
