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

    Skips the test where it cannot be had, and fails it when PEER_TEST_REQUIRE (a comma list) names
    the engine. An engine that is there and does not work fails the test in any case.
    """
    engine = ENGINES[name]()
    try:
        with engine.used():
            yield engine
    except Unavailable as exc:
        if name in os.environ.get("PEER_TEST_REQUIRE", "").split(","):
            pytest.fail(f"PEER_TEST_REQUIRE names {name}: {exc}", pytrace=False)
        pytest.skip(f"{name}: {exc}")
