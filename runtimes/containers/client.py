"""A container engine behind its HTTP interface.

Room:      runtimes.containers   (imports aiodocker; its room's only asyncio besides bridge)
Loop:      Trio outside, asyncio inside
Lifetime:  as long as the backend
Fabric:    core/container/dockercontroller/dockercontroller.go (release-2.5)

Docker and Podman differ in a few words and in the status of some refusals; `Dialect` has them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, BinaryIO, ParamSpec, TypeVar

import aiodocker
import aiohttp
import trio
from aiodocker.containers import DockerContainer
from aiodocker.networks import DockerNetwork
from aiodocker.stream import Stream
from yarl import URL

from runtimes.api import RuntimeUnavailable
from runtimes.containers import bridge
from runtimes.containers.address import EngineAddress
from runtimes.containers.engine import (
    ContainerState,
    EngineRefused,
    Found,
    FoundImage,
    Image,
    ImageMissing,
    Labels,
    NameTaken,
    Network,
    PullFailed,
)

API_VERSION = "v1.41"
"""Of Docker 20.10 and Podman 4, spoken by everything newer."""

_UNREACHABLE = 900
"""The status aiodocker makes up for an engine it cannot connect to."""
_NO_NAME = "<none>:<none>"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """In what an engine's interface differs.

    Attributes:
        network_exists: status of the creation of a network whose name is taken.
        network_in_use: status of the removal of one with containers on it.
        name_taken: status of the creation of a container whose name is taken.
        wait: path of the wait for the end of a container, whose name goes into it.
    """

    network_exists: frozenset[int]
    network_in_use: frozenset[int]
    name_taken: frozenset[int]
    wait: str


class EngineClient:
    """Implements `Engine`; opened by `open_engine`."""

    def __init__(self, docker: aiodocker.Docker, address: EngineAddress, dialect: Dialect):
        self._docker = docker
        self._address = address
        self._dialect = dialect

    async def ping(self) -> None:
        await self._request(self._ping)

    async def is_rootless(self) -> bool:
        info = await self._request(self._docker.system.info)
        return any("rootless" in option for option in info.get("SecurityOptions") or ())

    async def image(self, name: str) -> Image | None:
        found = await self._if_there(self._docker.images.inspect, name)
        if found is None:
            return None
        config = found.get("Config") or {}
        return Image(
            id=found["Id"], user=config.get("User") or "", labels=config.get("Labels") or {}
        )

    async def images(self, label: str) -> list[FoundImage]:
        listed = await self._request(self._docker.images.list, filters={"label": [label]})
        return [
            FoundImage(
                id=image["Id"],
                has_name=any(name != _NO_NAME for name in image["RepoTags"] or ()),
                labels=image["Labels"] or {},
            )
            for image in listed
        ]

    async def pull(self, name: str) -> None:
        with self._translated():
            await bridge.follow(self._pull, name)

    async def _pull(self, name: str) -> None:
        if "@" not in name and ":" not in name.rpartition("/")[2]:
            name = f"{name}:latest"  # without it, some engines pull every tag there is
        params = {"fromImage": name}
        async with (
            self._docker._query("images/create", "POST", params=params) as response,
            response,
        ):
            async for packet in response.content:
                report = json.loads(packet)
                if failure := report.get("error") or report.get("errorDetail"):
                    raise PullFailed(_text_of(failure))

    async def commit(self, container: str, image: str) -> None:
        await self._request(
            self._container(container).commit,
            repository=image,
            tag="latest",
            pause=False,
            config={},
        )

    async def remove_image(self, name: str) -> None:
        with _fine(404, 409):
            await self._request(self._docker.images.delete, name)

    async def create(self, name: str, config: Mapping[str, Any]) -> None:
        try:
            await self._request(self._docker.containers.create, config, name=name)
        except EngineRefused as exc:
            if exc.status == 404:
                raise ImageMissing(exc.status, exc.text) from exc
            if exc.status in self._dialect.name_taken:
                raise NameTaken(exc.status, exc.text) from exc
            raise

    async def attach(self, name: str) -> trio.abc.ReceiveStream:
        url = URL(f"containers/{name}/attach").with_query(stream=1, stdout=1, stderr=1)

        async def setup() -> tuple[URL, None, bool]:
            return url, None, False

        # not by way of the container: it would inspect it first, to learn that it has no terminal
        stream = Stream(self._docker, setup)
        await self._request(stream.__aenter__)
        return Attached(stream)

    async def upload(self, name: str, directory: str, archive: bytes) -> None:
        await self._request(self._container(name).put_archive, directory, archive)

    async def fill(self, name: str, directory: str, archive: BinaryIO) -> None:
        with self._translated():
            await bridge.follow(self._container(name).put_archive, directory, archive)

    async def fetch(self, name: str, path: str, target: BinaryIO) -> None:
        with self._translated():
            await bridge.follow(self._fetch, name, path, target)

    async def _fetch(self, name: str, path: str, target: BinaryIO) -> None:
        # aiodocker's own keeps all of it in memory
        async with (
            self._docker._query(f"containers/{name}/archive", params={"path": path}) as response,
            response,
        ):
            async for chunk in response.content.iter_any():
                target.write(chunk)

    async def execute(self, name: str, argv: Sequence[str]) -> tuple[int | None, str]:
        with self._translated():
            return await bridge.follow(self._execute, name, argv)

    async def _execute(self, name: str, argv: Sequence[str]) -> tuple[int | None, str]:
        program = await self._container(name).exec(argv)
        said = b""
        async with program.start() as stream:
            while message := await stream.read_out():
                said += message.data
        state = await program.inspect()
        return state["ExitCode"], said.decode(errors="replace")

    async def start(self, name: str) -> None:
        with _fine(304):
            await self._request(self._container(name).start)

    async def stop(self, name: str, grace_s: float) -> None:
        with _fine(304, 404), self._translated():
            await bridge.follow(self._container(name).stop, t=round(grace_s))

    async def remove(self, name: str) -> None:
        container = self._container(name)
        try:
            with _fine(404):
                await self._request(container.delete, force=True, v=True)
        except EngineRefused as exc:
            if exc.status != 409:  # somebody else is removing it
                raise
            with _fine(404):
                await self._request(container.wait, condition="removed")

    async def wait(self, name: str) -> int | None:
        path = self._dialect.wait.format(name)
        try:
            with self._translated():
                answer = await bridge.follow(
                    self._docker._query_json, path, "POST", versioned_api=False
                )
        except EngineRefused as exc:
            if exc.status == 404:
                return None
            raise
        return int(answer["StatusCode"] if isinstance(answer, dict) else answer)

    async def inspect(self, name: str) -> ContainerState | None:
        found = await self._if_there(self._container(name).show)
        if found is None:
            return None
        networks = found["NetworkSettings"].get("Networks") or {}
        addresses = (end.get(key) for end in networks.values() for key in _ADDRESS_KEYS)
        return ContainerState(
            pid=found["State"]["Pid"],
            oom_killed=bool(found["State"].get("OOMKilled")),
            addresses=frozenset(address for address in addresses if address),
        )

    async def containers(self, label: str) -> list[Found]:
        listed = await self._request(
            self._docker.containers.list, all=True, filters=json.dumps({"label": [label]})
        )
        return [
            Found(name.removeprefix("/"), container["Labels"] or {})
            for container in listed
            for name in container["Names"][:1]
        ]

    async def network(self, name: str) -> Network | None:
        found = await self._if_there(self._network(name).show)
        if found is None:
            return None
        pools = [pool for pool in found["IPAM"].get("Config") or () if pool.get("Subnet")]
        for pool in pools:
            gateway = pool.get("Gateway", "").partition("/")[0]
            if _is_address(gateway):
                return Network(gateway=gateway, subnet=pool["Subnet"])
        return Network(gateway="", subnet=pools[0]["Subnet"] if pools else "")

    async def create_network(self, name: str, *, internal: bool, labels: Labels) -> None:
        config = {"Name": name, "CheckDuplicate": True, "Internal": internal, "Labels": labels}
        try:
            await self._request(self._docker.networks.create, config)
        except EngineRefused as exc:
            if exc.status not in self._dialect.network_exists or await self.network(name) is None:
                raise

    async def remove_network(self, name: str) -> None:
        with _fine(404, *self._dialect.network_in_use):
            await self._request(self._network(name).delete)

    async def networks(self, label: str) -> list[Found]:
        listed = await self._request(self._docker.networks.list, filters={"label": [label]})
        return [Found(network["Name"], network["Labels"] or {}) for network in listed]

    def _container(self, name: str) -> DockerContainer:
        return self._docker.containers.container(name)

    def _network(self, name: str) -> DockerNetwork:
        return DockerNetwork(self._docker, name)  # type: ignore[no-untyped-call]  # aiodocker's

    async def _ping(self) -> None:
        async with self._docker._query("_ping") as response:
            await response.read()

    async def _request(
        self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with self._translated():
            return await bridge.request(call, *args, **kwargs)

    async def _if_there(
        self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        try:
            return await self._request(call, *args, **kwargs)
        except EngineRefused as exc:
            if exc.status == 404:
                return None
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Let nothing of aiodocker, aiohttp or the operating system out of this module."""
        try:
            yield
        except aiodocker.DockerError as exc:
            if exc.status != _UNREACHABLE:
                raise EngineRefused(exc.status, str(exc.message)) from exc
            raise self._unavailable(exc.__context__ or exc.message) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, cause: object) -> RuntimeUnavailable:
        return RuntimeUnavailable(f"no answer from the engine at {self._address}: {cause}")


class Attached(trio.abc.ReceiveStream):
    """The output of a container, stdout and stderr in one, in the order it came."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next piece, nothing at the end; a connection that breaks is an end."""
        try:
            message = await bridge.follow(self._stream.read_out)
        except (aiohttp.ClientError, OSError):
            return b""
        return message.data if message is not None else b""

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # it sends nothing and waits for nothing
            await bridge.follow(self._stream.close)


@asynccontextmanager
async def open_engine(address: EngineAddress, dialect: Dialect) -> AsyncIterator[EngineClient]:
    """Hold a client; it connects when it is first used.

    Raises:
        OptionRejected: TLS files cannot be used.
    """
    docker = await bridge.request(_connect, address)
    try:
        yield EngineClient(docker, address, dialect)
    finally:
        with trio.CancelScope(shield=True):
            await bridge.follow(_disconnect, docker)


async def _connect(address: EngineAddress) -> aiodocker.Docker:
    # Two connections stay open per chaincode, so their number must have no limit.
    connector: aiohttp.BaseConnector
    if address.socket:
        connector = aiohttp.UnixConnector(address.socket, limit=0)
        url = "unix://localhost"
    else:
        tls = address.tls_context()
        connector = aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True)
        url = f"{'https' if tls else 'http'}://{address.host}:{address.port}"
    return aiodocker.Docker(url=url, connector=connector, api_version=API_VERSION)


async def _disconnect(docker: aiodocker.Docker) -> None:
    await docker.close()
    await docker.connector.close()  # what it was given is not its own


_ADDRESS_KEYS = ("IPAddress", "GlobalIPv6Address")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:  # Podman writes "<nil>"
        return False
    return True


def _text_of(failure: object) -> str:
    text = failure.get("message") if isinstance(failure, Mapping) else failure
    return str(text).strip()


@contextmanager
def _fine(*statuses: int) -> Iterator[None]:
    """Pass over the refusals that say there is nothing to do."""
    try:
        yield
    except EngineRefused as exc:
        if exc.status not in statuses:
            raise
