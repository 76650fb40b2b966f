"""A Hyperledger-Fabric-compatible peer on Trio.

async with open_peer() as peer:
    await peer.install("examples/asset_transfer", name="assets")
    result = await peer.invoke("mychannel", "assets", ["create", "a1", "blue"])
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peer.app import Peer as Peer
    from peer.app import Result as Result
    from peer.app import open_peer as open_peer
    from peer.config import PeerConfig as PeerConfig

__all__ = ["Peer", "PeerConfig", "Result", "open_peer"]


def __getattr__(name: str) -> object:
    """Import on first use, so that the command line's help stays quick."""
    if name == "PeerConfig":
        from peer.config import PeerConfig

        return PeerConfig
    if name in __all__:
        from peer import app

        return getattr(app, name)
    raise AttributeError(f"module 'peer' has no attribute {name!r}")
