"""A real peer to install at, and files to install.

Room:      tests.integration.builds   (imports peer)
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from peer import Peer, PeerConfig, open_peer
from tests.chaincodes.prepare import SOURCES

OURS = (SOURCES / "ours" / "chaincode.py").read_bytes()


def config(data: Path, **chaincode: object) -> PeerConfig:
    default = PeerConfig()
    return replace(
        default,
        peer=replace(default.peer, file_system_path=str(data)),
        chaincode=replace(default.chaincode, startup_timeout_s=60.0, **chaincode),
    )


@asynccontextmanager
async def peer_at(data: Path, **chaincode: object) -> AsyncIterator[Peer]:
    async with open_peer(config(data, **chaincode)) as peer:
        yield peer


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
