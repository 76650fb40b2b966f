"""One network for all tests of channels, which leave it as it is."""

from __future__ import annotations

import pytest

from peer.channel.network import NetworkDescription, create
from tests.unit.channel.networks import Scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Three organisations, so that a majority is two of them."""
    description = NetworkDescription(organisations=("Org1", "Org2", "Org3"))
    return Scene(create(tmp_path_factory.mktemp("network") / "net", description))
