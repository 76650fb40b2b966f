"""Networks of two organisations, and peers of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peer.channel.network import Network, NetworkDescription, create
from tests.unit.scc.channels import Site, open_site


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    description = NetworkDescription(organisations=("Org1", "Org2"))
    return create(tmp_path_factory.mktemp("network") / "net", description)


@pytest.fixture(scope="session")
def legacy_network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    description = NetworkDescription(organisations=("Org1", "Org2"), capability="V1_4_2")
    return create(tmp_path_factory.mktemp("legacy") / "net", description)


@pytest.fixture
async def site(network: Network, tmp_path: Path) -> AsyncIterator[Site]:
    """A peer of Org1, on a channel of the new lifecycle."""
    async with open_site(network, tmp_path) as site:
        yield site


@pytest.fixture
async def legacy_site(legacy_network: Network, tmp_path: Path) -> AsyncIterator[Site]:
    """A peer of Org1, on a channel of the old one."""
    async with open_site(legacy_network, tmp_path / "legacy") as site:
        yield site
