"""Chaincodes to build, fetched once for all tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.builds.sources import BRINGS_ALL


@pytest.fixture(scope="session")
def complete_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a chaincode that brings everything along; do not change it."""

    @functools.cache
    def make(language: str) -> Path:
        target = tmp_path_factory.mktemp("sources") / language
        BRINGS_ALL[language](target)
        return target

    return make
