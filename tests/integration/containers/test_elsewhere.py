"""An engine that is reached over the network: nothing of this machine is taken for its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from peer import PeerConfig, open_peer
from peer.config.addresses import local_ip
from peer.errors import StartError
from tests.contract.containers import ContainerHouse
from tests.integration.containers.code import ImageCode
from tests.integration.containers.site import CHANNEL, Site

NAME = "peer.example.com"


@asynccontextmanager
async def on_the_network(house: ContainerHouse) -> AsyncIterator[str]:
    """Let the engine be reached at an address of this machine, and give that."""
    host = local_ip()
    if not host:
        pytest.skip("this machine is on no network")

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for chunk in source:
                await sink.send_all(chunk)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def carry(peer: trio.SocketStream) -> None:
        socket = str(house.engine.socket)
        async with await trio.open_unix_socket(socket) as engine, trio.open_nursery() as both:
            both.start_soon(copy, peer, engine)
            both.start_soon(copy, engine, peer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, carry, 0, host=host))
        port = listeners[0].socket.getsockname()[1]
        yield f"{host}:{port}"
        nursery.cancel_scope.cancel()


def elsewhere(site: Site, where: str, directory: Path, *, tls: bool, knows: str) -> PeerConfig:
    """Return a configuration for the engine as if it were not on this machine.

    Args:
        knows: what its containers take the peer's name for.
    """
    config = site.config(tls)
    host: dict[str, Any] = {"ExtraHosts": [f"{NAME}:{knows}"]}
    options = {"endpoint": f"tcp://{where}", "docker": {"hostConfig": host}}
    return replace(
        config,
        peer=replace(
            config.peer, chaincode_address=f"{NAME}:1", file_system_path=str(directory / "peer")
        ),
        vm=replace(config.vm, endpoint=f"tcp://{where}", options=options),
    )


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_its_chaincodes_dial_the_peer_by_name(
    site: Site, code: ImageCode, tmp_path: Path, tls: bool
) -> None:
    source = code.book()
    async with on_the_network(site.house) as where:
        here = where.partition(":")[0]
        async with open_peer(elsewhere(site, where, tmp_path, tls=tls, knows=here)) as peer:
            ccid = (await peer.install(source)).ccid
            result = await peer.invoke(CHANNEL, source.name, ["put", "key", "value"])
            assert result.committed, result.message
            container = await site.inspect(ccid)
            assert any(NAME in word for word in container["Config"]["Cmd"])
            assert container["HostConfig"]["NetworkMode"] in ("bridge", "podman")


async def test_a_name_that_leads_elsewhere_fails_the_launch_at_once(
    site: Site, code: ImageCode, tmp_path: Path
) -> None:
    source = code.book()
    async with on_the_network(site.house) as where:
        config = elsewhere(site, where, tmp_path, tls=False, knows="127.0.0.1")
        async with open_peer(config) as peer:
            await peer.install(source)
            with pytest.raises(StartError, match=rf"the peer at {NAME}:\d+ .*refused") as caught:
                await peer.query(CHANNEL, source.name, ["get", "key"])
            assert caught.value.stages[-1].stage == "start"
