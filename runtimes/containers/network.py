"""The way a chaincode in a container reaches the peer.

Room:      runtimes.containers   (imports engine, options; used by runtime)
Loop:      Trio
Lifetime:  as long as the backend
Fabric:    `vm.docker.hostConfig.NetworkMode`

Where its library can, a chaincode dials a Unix socket mounted into its container and has no network
at all. For the others the peer makes a network of its own, on which there is nothing but the peer,
and listens on its end of it.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import trio

from runtimes.api import RuntimeFailure, StartFailed
from runtimes.containers.address import EngineAddress
from runtimes.containers.engine import Engine, EngineRefused, Labels, Network
from runtimes.containers.options import ContainerOptions

log = logging.getLogger("runtimes.containers")

LOOPBACK = "127.0.0.1"
SOCKET_IN_CONTAINER = "/run/peer/peer.sock"

_UNIX = "unix://"


class Networks:
    """Knows which network a container joins, and makes the peer's own when it is first needed.

    Args:
        name: of the peer's own network.
        labels: what that network carries.
    """

    def __init__(
        self,
        engine: Engine,
        address: EngineAddress,
        options: ContainerOptions,
        *,
        name: str,
        labels: Labels,
    ) -> None:
        self._engine = engine
        self._address = address
        self._options = options
        self._own = name
        self._labels = labels
        self._made = False
        self._making = trio.Lock()

    async def join(self, peer_address: str) -> str:
        """Return the network of a container that is to dial `peer_address`; it exists.

        Raises:
            RuntimeUnavailable: the engine does not answer.
            StartFailed: there is none.
        """
        if self._options.network:
            return self._options.network
        if not self._options.hardened:
            return "host"
        if socket_of(peer_address):
            return "none"
        if not self._address.is_local:
            return "bridge"
        await self._own_gateway()
        return self._own

    async def listen_host(self) -> str:
        """Return the address of this machine that a container can reach by TCP.

        Raises:
            RuntimeUnavailable: the engine does not answer.
            StartFailed: there is none.
        """
        if not self._address.is_local:
            return _local_address(self._address.host)
        match self._options.network or ("" if self._options.hardened else "host"):
            case "":
                return await self._own_gateway()
            case "host":
                return LOOPBACK
            case "none":
                raise StartFailed(
                    "this chaincode needs TCP, and hostConfig.NetworkMode none leaves it no way to "
                    "the peer; remove that setting"
                )
            case name:
                return await self._on_named("bridge" if name == "default" else name)

    async def _on_named(self, name: str) -> str:
        with _refused(name):
            found = await self._engine.network(name)
        address = "" if found is None else _address_on(found)
        if not address:
            raise StartFailed(f"network {name} does not exist, or this machine is not on it")
        return address

    async def _own_gateway(self) -> str:
        """Return this machine's address on the peer's own network, which is made if need be."""
        async with self._making:
            with _refused(self._own):
                found = await self._engine.network(self._own)
                if found is None or not found.gateway:
                    found = await self._create_own()
            self._made = True
            return found.gateway

    async def _create_own(self) -> Network:
        if await self._engine.is_rootless():
            raise StartFailed(
                "this chaincode needs TCP, and the networks of an engine without root do not reach "
                "this machine; set hostConfig.NetworkMode to host"
            )
        for internal in (True, False):  # some engines keep this machine off internal networks
            await self._engine.remove_network(self._own)
            await self._engine.create_network(self._own, internal=internal, labels=self._labels)
            found = await self._engine.network(self._own)
            if found is not None and found.gateway:
                return found
        raise StartFailed(f"network {self._own} gives this machine no address")

    async def close(self) -> None:
        """Remove the peer's own network; what fails is left to the next start."""
        if self._made:
            try:
                await self._engine.remove_network(self._own)
            except (RuntimeFailure, EngineRefused) as exc:
                log.warning("network %s could not be removed: %s", self._own, exc)


@contextmanager
def _refused(network: str) -> Iterator[None]:
    try:
        yield
    except EngineRefused as exc:
        raise StartFailed(f"network {network}: {exc}") from exc


def own_network_name(network_id: str, peer_id: str) -> str:
    """Return the name of a peer's own network."""
    parts = ("triopeer", network_id, peer_id)
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", "-".join(part for part in parts if part))


def socket_of(peer_address: str) -> str:
    """Return the path of a Unix socket, empty for a TCP address."""
    return peer_address.removeprefix(_UNIX) if peer_address.startswith(_UNIX) else ""


def _address_on(network: Network) -> str:
    """Return this machine's address on a network; if it has none there, the gateway's.

    They differ where the peer is in a container that has joined the network, too.
    """
    if not network.subnet:
        return network.gateway
    subnet = ip_network(network.subnet)
    own = _local_address(network.gateway or str(next(subnet.hosts())))
    return own if ip_address(own) in subnet else network.gateway


def _local_address(towards: str) -> str:
    """Return the address from which this machine would send there; nothing is sent."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))
        except OSError:
            return towards
        return str(probe.getsockname()[0])
