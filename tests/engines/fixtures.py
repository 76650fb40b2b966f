"""The engines as pytest fixtures; `tests/conftest.py` hands them to every test.

Room:      tests.engines   (imports pytest)
Loop:      none
Lifetime:  session
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.engines.engine import ENGINES, Engine
from tests.engines.rootfs import Unavailable


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """A private Docker engine with the base images."""
    yield from provided("docker")


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[Engine]:
    """A private Podman service with the base images."""
    yield from provided("podman")


def provided(name: str) -> Iterator[Engine]:
    """Yield the engine of that name while tests use it.

    Skips the test unless PEER_TEST_REQUIRE (a comma list) names the engine: making one takes root
    and, the first time, minutes. Where it is named it must be had.
    """
    if name not in os.environ.get("PEER_TEST_REQUIRE", "").split(","):
        pytest.skip(f"PEER_TEST_REQUIRE does not name {name}")
    try:
        with ENGINES[name]().used() as engine:
            yield engine
    except Unavailable as exc:
        pytest.fail(f"PEER_TEST_REQUIRE names {name}: {exc}", pytrace=False)
