"""The ledger of a real peer, and copies of it with something changed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.shared_fixtures import shared_fixture

CHAIN = "ledgersData/chains/chains/testchannel/blockfile_000000"


@pytest.fixture(scope="session")
def real_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only block file of a real peer's channel: 20 blocks."""
    directory = tmp_path_factory.mktemp("fabric")
    with zipfile.ZipFile(shared_fixture("fabric-v20-ledger/ledgersData.zip")) as archive:
        archive.extract(CHAIN, directory)
    return directory / CHAIN
