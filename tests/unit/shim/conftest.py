"""Fixtures of the chaincode library's tests."""

from __future__ import annotations

import pytest

from tests.unit.shim.certificates import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    """One certificate authority for all."""
    return Authority()
