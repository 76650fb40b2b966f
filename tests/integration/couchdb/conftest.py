"""Fixtures of the ledger's own tests."""

from tests.unit.ledger.conftest import public_set as public_set
