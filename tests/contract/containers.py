"""What the contract suite needs of the container backends.

Room:      tests.contract   (imports runtimes, tests.engines, tests.fakes)
Loop:      Trio; the engine itself is asked by blocking calls
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from peer.rpc.loop import open_loop
from runtimes.api import (
    BUILD_OUTPUT,
    PEER_ADDRESS,
    BackendFactory,
    Capabilities,
    ChaincodePackage,
    ExitStatus,
    ImagePlan,
    Instance,
    InstanceSpec,
    Origin,
    RuntimeBackend,
    RuntimeSettings,
    UnixOrigin,
)
from runtimes.containers import runtime
from runtimes.containers.address import EngineAddress
from runtimes.containers.network import Networks
from runtimes.containers.options import ContainerOptions
from runtimes.containers.session import PEER, open_session
from runtimes.upload import pack_files
from tests.contract.harness import EXITS, SERVES
from tests.engines.engine import Engine
from tests.fakes.engine import FakeContainer, FakeEngine

TEST = "peer.test"
NETWORK_ID = "dev"
FILES = {
    "/etc/hyperledger/fabric/client.key": b"secret\n",
    "/etc/hyperledger/fabric/client.crt": b"public\n",
}


class ContainerHouse:
    """All that one session of tests makes on one engine.

    The engine may serve other sessions at the same time, so this one is a peer of its own.
    """

    def __init__(self, engine: Engine, backend: BackendFactory) -> None:
        self.engine = engine
        self.backend = backend
        self.peer_id = f"test-{uuid.uuid4().hex[:8]}"

    @contextmanager
    def held(self) -> Iterator[ContainerHouse]:
        """Remove everything in the end."""
        try:
            yield self
        finally:
            for container in self.containers():
                self.call("DELETE", f"/containers/{container}?force=true&v=true")
            for network in self.networks():
                self.call("DELETE", f"/networks/{network}")
            for image in self.images():
                self.call("DELETE", f"/images/{image}?force=true")

    def call(self, method: str, path: str) -> Any:
        """Return the engine's answer."""
        return self.engine.request(method, path)[1]

    def containers(self, label: str = "") -> list[str]:
        """Return the ids of containers, running or not."""
        found = self.listed("/containers/json?all=true&", label)
        return [container["Id"] for container in found]

    def networks(self) -> list[str]:
        return [network["Name"] for network in self.listed("/networks?")]

    def images(self) -> list[str]:
        return [image["Id"] for image in self.listed("/images/json?")]

    def nameless(self, label: str) -> list[str]:
        """Return the ids of images that carry `label` and no name."""
        found = self.listed("/images/json?", label)
        return [image["Id"] for image in found if set(image["RepoTags"] or ()) <= {"<none>:<none>"}]

    def listed(self, path: str, label: str = "") -> list[dict[str, Any]]:
        wanted = label or f"{PEER}={NETWORK_ID}.{self.peer_id}"
        listed: list[dict[str, Any]] = self.call(
            "GET", f"{path}filters={quote(json.dumps({'label': [wanted]}))}"
        )
        return listed


class ContainerHarness:
    """One backend on a real engine."""

    stopped = ExitStatus(signal=9)

    def __init__(
        self,
        house: ContainerHouse,
        directory: Path,
        options: Mapping[str, object] | None = None,
        endpoint: str = "",
    ) -> None:
        self.house = house
        self.lines: list[tuple[str, str]] = []
        self.directory = directory
        self.mark = uuid.uuid4().hex
        self.state_dir = directory / "state"
        self.state_dir.mkdir(mode=0o700)
        self.socket = directory / "peer.sock"
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(self.socket))
        self.socket.chmod(0o666)
        host = {"Labels": {TEST: self.mark}, **(options or {}).get("hostConfig", {})}
        self.options = {
            "endpoint": endpoint or house.engine.endpoint,
            house.engine.name: {**(options or {}), "hostConfig": host},
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[RuntimeBackend]:
        failure: BaseException | None = None
        async with open_loop():
            try:
                async with self.house.backend(self.settings()) as backend:
                    yield backend
            except (Exception, KeyboardInterrupt) as exc:
                failure = exc  # raised below, outside the loop's nursery that would wrap it
        if failure is not None:
            raise failure

    def settings(self) -> RuntimeSettings:
        return RuntimeSettings(
            network_id=NETWORK_ID,
            peer_id=self.house.peer_id,
            state_dir=self.state_dir,
            options=self.options,
            on_output=lambda ccid, line: self.lines.append((ccid, line)),
        )

    def spec(self, script: str, ccid: str = "asset:1.0") -> InstanceSpec:
        return InstanceSpec(
            package=package(ccid, self.house.engine.images["base"], script),
            peer_address=f"unix://{self.socket}",
            env={},
        )

    def left(self) -> Collection[object]:
        return self.house.containers(f"{TEST}={self.mark}")

    def inspect(self) -> Any:
        """Return what the engine says of the one container there is."""
        (container,) = self.left()
        return self.house.call("GET", f"/containers/{container}/json")

    async def origin(self, instance: Instance) -> Origin:
        return UnixOrigin(pid=self.inspect()["State"]["Pid"], uid=os.getuid())


class FakeEngineHarness:
    """The container backend on an engine in memory."""

    stopped = ExitStatus(signal=9)

    def __init__(self, directory: Path, options: Mapping[str, object] | None = None) -> None:
        self.engine = FakeEngine(self._run)
        self.lines: list[tuple[str, str]] = []
        self.settings = RuntimeSettings(
            network_id=NETWORK_ID,
            peer_id="peer0",
            state_dir=directory,
            options={"docker": options or {}},
            on_output=lambda ccid, line: self.lines.append((ccid, line)),
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[runtime.ContainerRuntime]:
        options = ContainerOptions.read(self.settings.options, "docker")
        with open_session(self.settings) as session:
            networks = Networks(
                self.engine,
                EngineAddress(socket="/nowhere"),
                options,
                name="own",
                labels=session.labels,
            )
            async with runtime.run(
                self.engine,
                networks,
                session,
                options,
                self.settings,
                "docker",
                Capabilities(image_build=True),
            ) as backend:
                yield backend

    def spec(self, script: str, ccid: str = "asset:1.0") -> InstanceSpec:
        return InstanceSpec(
            package=package(ccid, "base", script),
            peer_address="127.0.0.1:7052",
            env={},
            files=FILES,
        )

    def _run(self, container: FakeContainer) -> None:
        if EXITS in container.config["Cmd"]:
            container.exit(3, "first", "last")

    def left(self) -> Collection[object]:
        return list(self.engine.containers_by_name.values())

    async def origin(self, instance: Instance) -> Origin:
        (container,) = self.engine.containers_by_name.values()
        await trio.lowlevel.checkpoint()
        return UnixOrigin(pid=container.pid, uid=os.getuid())


def package(ccid: str, base: str, script: str) -> ChaincodePackage:
    """Return a package whose chaincode does as the script says; the image is the same for all."""
    if script.startswith("#!"):
        command = ("python3", "-IS", "-c", script, f"-peer.address={PEER_ADDRESS}")
    else:
        command = ("/bin/sh", "-c", script, "sh", PEER_ADDRESS)
    return ChaincodePackage(
        ccid=ccid, type="golang", path=Path("/nowhere"), image=image(base, command=command)
    )


def steps_spec(
    *, base: str, peer_id: str, mark: str, built: str, run: str, address: str = "127.0.0.1:7052"
) -> InstanceSpec:
    """Return what takes every step there is: build, files, and a network if the address is TCP.

    Args:
        peer_id: is in the environment of every process of the build and of the chaincode.
        mark: label of the image.
        built: makes the image one of its own; without it, all have the same.
        run: what the build does.
    """
    command = ("/bin/sh", "-c", f"echo {peer_id}; {SERVES}")
    return InstanceSpec(
        package=ChaincodePackage(
            ccid=f"steps:{built}1",
            type="golang",
            path=Path("/nowhere"),
            image=replace(
                image(base, f"echo begun; {run}", command),
                build_env={"OF_PEER": peer_id},
                labels={TEST: mark if built else peer_id},
            ),
        ),
        peer_address=address,
        env={"OF_PEER": peer_id},
        files=FILES,
    )


def image(base: str, script: str = "", command: tuple[str, ...] = ()) -> ImagePlan:
    """Return a plan whose build does as the script says, and whose address is good."""
    return ImagePlan(
        builder=base,
        script=f"set -e; mkdir -p {BUILD_OUTPUT}; {script}",
        runtime=base,
        target="/usr/local/src",
        command=command,
        probe=("true",),
        offline=True,
        code=partial(pack_files, {}),
    )
