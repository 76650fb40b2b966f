"""A Hyperledger-Fabric-compatible peer on Trio.

async with open_peer() as peer:
    await peer.install("examples/asset_transfer", name="assets")
    result = await peer.invoke("mychannel", "assets", ["put", "greeting", "hello"])
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peer.app import open_peer as open_peer
    from peer.config import PeerConfig as PeerConfig
    from peer.library import Peer as Peer
    from peer.library import Result as Result

__all__ = ["Peer", "PeerConfig", "Result", "open_peer"]


_HOMES = {
    "Peer": "peer.library",
    "PeerConfig": "peer.config",
    "Result": "peer.library",
    "open_peer": "peer.app",
}


def __getattr__(name: str) -> object:
    """Import on first use, so that the command line's help stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'peer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
