"""Where chaincodes find the peer.

Room:      peer.config
Loop:      none
Fabric:    `computeChaincodeEndpoint` and `createChaincodeServer`, internal/peer/node/start.go;
           `getLocalAddress`, core/peer/config.go (release-2.5)
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

from peer.config.model import PeerConfig
from peer.config.values import join_address, split_address
from peer.errors import ConfigError

CHAINCODE_PORT = 7052


def local_ip() -> str:
    """Return the address this machine's traffic leaves from, empty if it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address; connecting sends nothing
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def peer_address(config: PeerConfig, *, detect: Callable[[], str] = local_ip) -> str:
    """Return where others reach the peer, with the machine's address where it is asked for.

    Raises:
        ConfigError: ``peer.address`` is empty, or the machine's address cannot be found.
    """
    if not config.peer.address:
        raise ConfigError(["peer.address isn't set"])
    host, port = split_address(config.peer.address)
    if not (is_unspecified(host) or config.peer.address_auto_detect):
        return config.peer.address
    if found := detect():
        return join_address(found, port)
    reason = f"peer.address is {config.peer.address} and this machine's address cannot be found"
    raise ConfigError([f"{reason}; set peer.address to one that others can reach"])


def chaincode_host(config: PeerConfig) -> str:
    """Return the host of ``peer.chaincodeAddress``, empty if that is not set.

    Chaincodes on an engine of another machine dial it, each at the port of its own launch.

    Raises:
        ConfigError: nobody can dial it, and chaincodes are started by the peer.
    """
    given = config.peer.chaincode_address
    if not given:
        return ""
    host, _ = split_address(given)
    if not is_unspecified(host):
        return host
    if config.chaincode.mode == "dev":
        return ""
    # The first half is Fabric's, word for word.
    text = f"invalid endpoint for chaincode to connect: peer.chaincodeAddress is {given}"
    raise ConfigError([f"{text}; set it to a host:port that chaincodes can dial"])


def chaincode_listen_address(config: PeerConfig, *, detect: Callable[[], str] = local_ip) -> str:
    """Return where the peer listens for chaincodes, ``host:port``.

    Raises:
        ConfigError: ``peer.address``, whose host is the default, cannot be used.
    """
    if config.peer.chaincode_listen_address:
        return config.peer.chaincode_listen_address
    host, _ = split_address(peer_address(config, detect=detect))
    return join_address(host, CHAINCODE_PORT)


def is_unspecified(host: str) -> bool:
    """Tell whether a host means every address of the machine, so that nobody can dial it."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
