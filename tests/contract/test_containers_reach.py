"""The address given to a chaincode, looked at from inside a real container."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest
import trio

from runtimes.api import PEER_HOST, PEER_PORT, ExitStatus, InstanceSpec, RuntimeBackend, StartFailed
from tests.contract.containers import ContainerHarness
from tests.contract.harness import EXITS, LIMIT_S, SERVES
from tests.contract.test_containers_start import configured

engines = pytest.mark.parametrize("harness", ["docker", "podman"], indirect=True)

PROBE = "import socket, sys; socket.create_connection(sys.argv[1:])"


@asynccontextmanager
async def listening(backend: RuntimeBackend) -> AsyncIterator[tuple[socket.socket, str]]:
    """Listen where chaincodes reach the peer, as the peer does: before that address exists."""
    with socket.socket() as server:
        server.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
        server.bind((await backend.listen_host(), 0))
        server.listen()
        server.setblocking(False)
        host, port = server.getsockname()
        yield server, f"{host}:{port}"


def dialling(harness: ContainerHarness, address: str, script: str = SERVES) -> InstanceSpec:
    spec = harness.spec(script)
    assert spec.package.image is not None
    plan = replace(spec.package.image, probe=("python3", "-c", PROBE, PEER_HOST, PEER_PORT))
    return replace(spec, peer_address=address, package=replace(spec.package, image=plan))


@contextmanager
def refused(address: str, reason: str) -> Iterator[None]:
    text = rf"cannot reach the peer at {re.escape(address)} from its network .*{reason}"
    with pytest.raises(StartFailed, match=text):
        yield


@engines
@pytest.mark.parametrize("mode", ["own network", "host", "bridge"])
async def test_an_address_where_the_peer_listens(harness: ContainerHarness, mode: str) -> None:
    if mode != "own network":
        configured(harness, hostConfig={"NetworkMode": mode})
    async with harness.open() as backend, listening(backend) as (server, address):
        await backend.start(dialling(harness, address))
        server.accept()[0].close()
        await backend.start(dialling(harness, address))
        with pytest.raises(BlockingIOError):
            server.accept()  # it has been reached from that network before


@engines
async def test_an_address_where_nobody_listens(harness: ContainerHarness) -> None:
    async with harness.open() as backend:
        async with listening(backend) as (_, address):
            pass
        with refused(address, "refused"):
            await backend.start(dialling(harness, address))
        assert not harness.left()


@engines
async def test_a_network_that_does_not_lead_to_the_peer(harness: ContainerHarness) -> None:
    house = harness.house
    network = f"nowhere-{harness.mark}"
    configuration = {"Name": network, "Internal": True}
    assert house.engine.request("POST", "/networks/create", configuration)[0] == 201
    try:
        configured(harness, hostConfig={"NetworkMode": network})
        async with harness.open() as backend:
            with refused("192.0.2.1:7052", "(unreachable|no answer within)"):
                await backend.start(dialling(harness, "192.0.2.1:7052"))
            assert not harness.left()
    finally:
        house.call("DELETE", f"/networks/{network}")


@engines
async def test_an_image_that_cannot_look(harness: ContainerHarness) -> None:
    async with harness.open() as backend:
        async with listening(backend) as (_, address):
            pass
        spec = dialling(harness, address)
        assert spec.package.image is not None
        plan = replace(spec.package.image, probe=("/no/such/program",))
        await backend.start(replace(spec, package=replace(spec.package, image=plan)))
        assert len(harness.left()) == 1


@engines
async def test_a_chaincode_that_ends_at_once_is_no_matter_of_the_address(
    harness: ContainerHarness,
) -> None:
    async with harness.open() as backend, listening(backend) as (_, address):
        instance = await backend.start(dialling(harness, address, EXITS))
        with trio.fail_after(LIMIT_S):
            assert await instance.wait() == ExitStatus(3)
        assert instance.tail() == ("first", "last")
