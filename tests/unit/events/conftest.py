"""A channel of two organisations, with a chaincode on it."""

from __future__ import annotations

from tests.unit.validation.conftest import bare as bare
from tests.unit.validation.conftest import scene as scene
from tests.unit.validation.conftest import world as world
