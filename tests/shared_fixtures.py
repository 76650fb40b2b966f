"""Recordings of real Fabric networks, which lie beside the repository and are not part of it.

Room:      tests   (imports pytest)
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


def shared_fixture(name: str) -> Path:
    """Return a recording's path; skip the test, or fail it where PEER_TEST_REQUIRE asks for it."""
    path = DIRECTORY / name
    if path.exists():
        return path
    text = f"no {name} beside the repository"
    if "fixtures" in os.environ.get("PEER_TEST_REQUIRE", "").split(","):
        pytest.fail(text)
    pytest.skip(text)
