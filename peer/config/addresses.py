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


def chaincode_address(config: PeerConfig, *, detect: Callable[[], str] = local_ip) -> str:
    """Return what a chaincode is told to dial, ``host:port``.

    In development mode a wrong address is no error, as nothing is started: ``0.0.0.0:7052`` is
    returned then.

    Raises:
        ConfigError: the address is one that nobody can dial.
    """
    try:
        return _chaincode_address(config, detect)
    except ConfigError:
        if config.chaincode.mode == "dev":
            return join_address("0.0.0.0", CHAINCODE_PORT)
        raise


def chaincode_listen_address(config: PeerConfig, *, detect: Callable[[], str] = local_ip) -> str:
    """Return where the peer listens for chaincodes, ``host:port``.

    Raises:
        ConfigError: ``peer.address``, whose host is the default, cannot be used.
    """
    if config.peer.chaincode_listen_address:
        return config.peer.chaincode_listen_address
    host, _ = split_address(peer_address(config, detect=detect))
    return join_address(host, CHAINCODE_PORT)


def _chaincode_address(config: PeerConfig, detect: Callable[[], str]) -> str:
    if given := config.peer.chaincode_address:
        if is_unspecified(split_address(given)[0]):
            raise _invalid(f"peer.chaincodeAddress is {given}")
        return given
    port = CHAINCODE_PORT
    if listen := config.peer.chaincode_listen_address:
        host, port = split_address(listen)
        if not is_unspecified(host):
            return listen
    try:
        host, _ = split_address(peer_address(config, detect=detect))
    except ConfigError as exc:
        raise _invalid(str(exc)) from exc
    return join_address(host, port)


def is_unspecified(host: str) -> bool:
    """Tell whether a host means every address of the machine, so that nobody can dial it."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _invalid(reason: str) -> ConfigError:
    # The first half is Fabric's, word for word.
    text = f"invalid endpoint for chaincode to connect: {reason}"
    return ConfigError([f"{text}; set peer.chaincodeAddress to a host:port it can dial"])
