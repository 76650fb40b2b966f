"""Chaincode in containers of Podman, through the Docker API of its service.

Room:      runtimes.podman   (imports runtimes.containers; found by runtimes.loader)
Loop:      Trio; asyncio lives in the shared client
Lifetime:  peer
Fabric:    core/container/dockercontroller (release-2.5), which Podman 4 serves as well
"""

from __future__ import annotations

from functools import partial

from runtimes.containers.client import Dialect
from runtimes.containers.runtime import Flavour, open_runtime

FLAVOUR = Flavour(
    name="podman",
    variable="CONTAINER_HOST",
    has_contexts=False,
    sockets=("~run/podman/podman.sock", "/run/podman/podman.sock"),
    dialect=Dialect(
        network_exists=frozenset({409, 500}),
        network_in_use=frozenset({409, 500}),
        name_taken=frozenset({409, 500}),
        # its own interface: Podman 4 answers Docker's wait by asking itself without any pause
        wait="v4.0.0/libpod/containers/{}/wait",
    ),
)

backend = partial(open_runtime, FLAVOUR)

__all__ = ["backend"]
