"""Fixtures for every test."""

from __future__ import annotations

from tests.engines.fixtures import docker_engine as docker_engine
from tests.engines.fixtures import podman_engine as podman_engine
