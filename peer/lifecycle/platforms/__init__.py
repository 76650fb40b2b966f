"""What the peer knows of each language: what a package of it holds, and how it is built."""

from collections.abc import Mapping

from peer.lifecycle.platforms.golang import Golang
from peer.lifecycle.platforms.java import Java
from peer.lifecycle.platforms.node import Node
from peer.lifecycle.platforms.platform import Platform
from peer.lifecycle.platforms.python import Python

PLATFORMS: Mapping[str, Platform] = {
    platform.name: platform for platform in (Node(), Golang(), Java(), Python())
}
"""Platform of each chaincode type, lower case; a directory is asked about in this order."""
