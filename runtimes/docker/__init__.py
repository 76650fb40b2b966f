"""Chaincode in containers of Docker.

Room:      runtimes.docker   (imports runtimes.containers; found by runtimes.loader)
Loop:      Trio; asyncio lives in the shared client
Lifetime:  peer
Fabric:    core/container/dockercontroller (release-2.5)
"""

from __future__ import annotations

from functools import partial

from runtimes.containers.client import API_VERSION, Dialect
from runtimes.containers.runtime import Flavour, open_runtime

FLAVOUR = Flavour(
    name="docker",
    variable="DOCKER_HOST",
    has_contexts=True,
    sockets=("/run/docker.sock", "/var/run/docker.sock", "~run/docker.sock"),
    dialect=Dialect(
        network_exists=frozenset({409}),
        network_in_use=frozenset({403}),
        name_taken=frozenset({409}),
        wait=f"{API_VERSION}/containers/{{}}/wait",
    ),
)

backend = partial(open_runtime, FLAVOUR)

__all__ = ["backend"]
