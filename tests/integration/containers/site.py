"""One engine, and the peer that a session of tests opens on it again and again.

Room:      tests.integration.containers   (imports peer, tests.contract; conftest.py makes fixtures)
Loop:      Trio; the engine itself is asked by blocking calls in threads
Lifetime:  session
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from peer import Peer, PeerConfig, open_peer
from peer.directories import LEDGERS
from tests.contract.containers import ContainerHouse

CHANNEL = "mychannel"
LAUNCH_LIMIT_S = 60.0


class Site:
    """One peer to the engine, with one data directory: what it built serves every test."""

    def __init__(self, house: ContainerHouse, directory: Path) -> None:
        self.house = house
        self.engine = house.engine
        self._directory = directory

    @asynccontextmanager
    async def peer(self, *, tls: bool = False) -> AsyncIterator[Peer]:
        async with open_peer(self.config(tls)) as peer:
            yield peer

    def forget_channels(self) -> None:
        """Remove the ledgers, and with them the definitions that the next peer would launch."""
        shutil.rmtree(self._directory / LEDGERS, ignore_errors=True)

    def config(self, tls: bool) -> PeerConfig:
        """Return the defaults, but for names and places."""
        default, images = PeerConfig(), self.engine.images
        return replace(
            default,
            peer=replace(
                default.peer,
                id=self.house.peer_id,
                file_system_path=str(self._directory),
                tls_enabled=tls,
            ),
            chaincode=replace(
                default.chaincode,
                startup_timeout_s=LAUNCH_LIMIT_S,
                builder=images["builder"],
                golang_runtime=images["golang"],
                node_runtime=images["node"],
                python_runtime=images["python"],
            ),
            vm=replace(
                default.vm,
                runtime=self.engine.name,
                endpoint=self.engine.endpoint,
                options={"endpoint": self.engine.endpoint},
            ),
        )

    def left(self) -> list[str]:
        """Return the peer's containers, running or not, and its networks."""
        return [*self.house.containers(), *self.house.networks()]

    async def inspect(self, ccid: str) -> Any:
        """Wait until the chaincode's container runs, and return what the engine says of it."""
        label = f"io.triopeer.ccid={ccid}"
        with trio.fail_after(LAUNCH_LIMIT_S):
            while True:
                for container in await trio.to_thread.run_sync(self.house.containers, label):
                    path = f"/containers/{container}/json"
                    status, found = await trio.to_thread.run_sync(self.engine.request, "GET", path)
                    if status == 200 and found["State"]["Running"]:  # it may be in the making
                        return found
                await trio.sleep(0.02)

    async def execute(self, container: str, *command: str) -> None:
        """Start a program in a container."""
        created = await self.ask("POST", f"/containers/{container}/exec", {"Cmd": command})
        await self.ask("POST", f"/exec/{created['Id']}/start", {"Detach": True})

    async def run(
        self,
        image: str,
        *command: str,
        environment: Mapping[str, str],
        directory: str,
        mounts: Mapping[Path, str],
    ) -> str:
        """Return what a program writes in a container that is not the peer's.

        Args:
            directory: to run it in.
            mounts: path on this machine → in the container.
        """
        config = {
            "Image": image,
            "Cmd": command,
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "WorkingDir": directory,
            "Tty": True,  # else the engine frames the output
            "HostConfig": {
                "NetworkMode": "none",
                "Mounts": [
                    {"Type": "bind", "Source": str(source), "Target": target}
                    for source, target in mounts.items()
                ],
            },
        }
        created = await self.ask("POST", "/containers/create", config)
        path = f"/containers/{created['Id']}"
        try:
            await self.ask("POST", f"{path}/start")
            await self.ask("POST", f"{path}/wait")
            return str(await self.ask("GET", f"{path}/logs?stdout=1&stderr=1")).strip()
        finally:
            with trio.CancelScope(shield=True):
                await self.ask("DELETE", f"{path}?force=true&v=true")

    async def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Return the engine's answer.

        Raises:
            AssertionError: it refuses.
        """
        status, answer = await trio.to_thread.run_sync(self.engine.request, method, path, body)
        assert status < 400, (method, path, answer)
        return answer
