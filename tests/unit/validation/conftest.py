"""One network for all tests of validation, and a new channel on it for each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peer.channel.network import NetworkDescription, create
from peer.ledger import open_ledger
from peer.ledger.api import ValidationCode
from tests.unit.channel.networks import Scene
from tests.unit.validation.forging import CC, CHANNEL, World, definition, endorsed_by


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two organisations of two peers each."""
    description = NetworkDescription(organisations=("Org1", "Org2"), peers=2)
    return Scene(create(tmp_path_factory.mktemp("network") / "net", description))


@pytest.fixture(scope="session")
def legacy_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two organisations on a channel without V2_0."""
    description = NetworkDescription(organisations=("Org1", "Org2"), capability="V1_4_2")
    return Scene(create(tmp_path_factory.mktemp("legacy") / "net", description))


@pytest.fixture
async def legacy(legacy_scene: Scene, tmp_path: Path) -> AsyncIterator[World]:
    """Such a channel with its genesis block."""
    async with open_ledger(tmp_path, CHANNEL) as ledger:
        await ledger.commit(legacy_scene.network.genesis_block(), [ValidationCode.VALID])
        yield World(legacy_scene, ledger)


@pytest.fixture
async def bare(scene: Scene, tmp_path: Path) -> AsyncIterator[World]:
    """A channel with its genesis block."""
    async with open_ledger(tmp_path, CHANNEL) as ledger:
        await ledger.commit(scene.network.genesis_block(), [ValidationCode.VALID])
        yield World(scene, ledger)


@pytest.fixture
async def world(bare: World) -> World:
    """A channel with a chaincode that a peer of each organisation has to endorse."""
    both = endorsed_by("AND('Org1MSP.peer', 'Org2MSP.peer')")
    await bare.define(CC, definition(both))
    return bare
