"""Fixtures for every test."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

from tests.engines.fixtures import docker_engine as docker_engine
from tests.engines.fixtures import podman_engine as podman_engine

settings.register_profile("untimed", deadline=None)  # others may use the machine, too
settings.load_profile("untimed")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Take SIGINT, which whoever is started in the background of a shell finds ignored.

    Subprocesses of the tests would inherit that, and those that wait for it would wait for ever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
