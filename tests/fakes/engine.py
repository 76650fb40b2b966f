"""A container engine in memory.

Room:      tests.fakes   (implements Engine of runtimes.containers; kept honest by tests/contract)
Loop:      Trio
Lifetime:  one test

`containers` is what is left: a test asserts that it is empty.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import trio
from trio.testing import MemoryReceiveStream

from runtimes.containers.engine import (
    ContainerState,
    EngineRefused,
    Found,
    Image,
    ImageMissing,
    Labels,
    NameTaken,
    Network,
)

KILLED = 137
_pids = itertools.count(1_000_000_000)  # above any real one


class FakeContainer:
    """A container; the test decides when what runs in it ends."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.name = name
        self.config = config
        self.files: dict[str, bytes] = {}
        self.output = MemoryReceiveStream()
        self.pid = 0
        self.oom_killed = False
        self.code: int | None = None
        self.removed = False
        self.changed = trio.Event()

    def exit(self, code: int, *lines: str, oom_killed: bool = False) -> None:
        """End what runs in it, after some last output."""
        if self.pid:
            for line in lines:
                self.output.put_data(f"{line}\n".encode())
            self.pid, self.code, self.oom_killed = 0, code, oom_killed
            self.output.put_eof()
            self.changed.set()


class FakeEngine:
    """Keeps the contract of an engine in memory.

    Args:
        on_start: called with each container once it runs.

    Attributes:
        calls: the methods called, in order.
        failures: method → raised by its next call; with ``method!`` it takes effect before.
        hanging: methods that never return; they have no effect.
        build_lines: what a build says.
        internal_gateway: address of this machine on internal networks, if any.
    """

    def __init__(self, on_start: Callable[[FakeContainer], None] = lambda container: None) -> None:
        self.on_start = on_start
        self.calls: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.hanging: set[str] = set()
        self.containers_by_name: dict[str, FakeContainer] = {}
        self.images: dict[str, Image] = {}
        self.removed_images: list[str] = []
        self.networks_by_name: dict[str, tuple[bool, Labels]] = {}
        self.contexts: list[bytes] = []
        self.build_lines: tuple[str, ...] = ()
        self.internal_gateway = "127.0.0.1"
        self.rootless = False
        self._image_ids = itertools.count(1)

    async def ping(self) -> None:
        await self._call("ping")

    async def is_rootless(self) -> bool:
        await self._call("is_rootless")
        return self.rootless

    async def image(self, name: str) -> Image | None:
        await self._call("image")
        return self.images.get(name)

    async def build(
        self,
        name: str,
        context: BinaryIO,
        *,
        labels: Labels,
        arguments: Mapping[str, str],
        offline: bool,
        on_line: Callable[[str], None],
    ) -> None:
        await self._call("build")
        self.contexts.append(context.read())
        for line in self.build_lines:
            on_line(line)
        image = Image(id=f"sha256:{next(self._image_ids)}", user="", labels=labels)
        self.images[name] = image
        self._fail("build!")

    async def remove_image(self, name: str) -> None:
        await self._call("remove_image")
        self.removed_images.append(name)

    async def create(self, name: str, config: Mapping[str, Any]) -> None:
        await self._call("create")
        if config["Image"] not in self.images:
            raise ImageMissing(404, f"No such image: {config['Image']}")
        if name in self.containers_by_name:
            raise NameTaken(409, f"the name {name} is in use")
        self.containers_by_name[name] = FakeContainer(name, config)
        self._fail("create!")

    async def attach(self, name: str) -> trio.abc.ReceiveStream:
        await self._call("attach")
        return self._container(name).output

    async def upload(self, name: str, directory: str, archive: bytes) -> None:
        await self._call("upload")
        self._container(name).files[directory] = archive
        self._fail("upload!")

    async def start(self, name: str) -> None:
        await self._call("start")
        container = self._container(name)
        container.pid = next(_pids)
        self.on_start(container)
        self._fail("start!")

    async def stop(self, name: str, grace_s: float) -> None:
        await self._call("stop")
        if name in self.containers_by_name:
            self.containers_by_name[name].exit(143)

    async def remove(self, name: str) -> None:
        await self._call("remove")
        if container := self.containers_by_name.pop(name, None):
            container.exit(KILLED)
            container.removed = True
            container.changed.set()

    async def wait(self, name: str) -> int | None:
        await self._call("wait")
        container = self.containers_by_name.get(name)
        if container is None:
            return None
        await container.changed.wait()
        return container.code

    async def inspect(self, name: str) -> ContainerState | None:
        await self._call("inspect")
        container = self.containers_by_name.get(name)
        if container is None:
            return None
        return ContainerState(
            pid=container.pid, oom_killed=container.oom_killed, addresses=frozenset({"10.0.0.2"})
        )

    async def containers(self, label: str) -> list[Found]:
        await self._call("containers")
        return [
            Found(name, container.config["Labels"])
            for name, container in self.containers_by_name.items()
            if _carries(container.config["Labels"], label)
        ]

    async def network(self, name: str) -> Network | None:
        await self._call("network")
        if name not in self.networks_by_name:
            return None
        internal, _ = self.networks_by_name[name]
        gateway = self.internal_gateway if internal else "127.0.0.1"
        return Network(gateway=gateway, subnet="127.0.0.0/8" if gateway else "")

    async def create_network(self, name: str, *, internal: bool, labels: Labels) -> None:
        await self._call("create_network")
        self.networks_by_name.setdefault(name, (internal, labels))

    async def remove_network(self, name: str) -> None:
        await self._call("remove_network")
        self.networks_by_name.pop(name, None)

    async def networks(self, label: str) -> list[Found]:
        await self._call("networks")
        return [
            Found(name, labels)
            for name, (_, labels) in self.networks_by_name.items()
            if _carries(labels, label)
        ]

    def _container(self, name: str) -> FakeContainer:
        if name not in self.containers_by_name:
            raise EngineRefused(404, f"No such container: {name}")
        return self.containers_by_name[name]

    async def _call(self, method: str) -> None:
        """Begin a call: it can be cancelled now, and not between here and its effect."""
        self.calls.append(method)
        await trio.lowlevel.checkpoint()
        if method in self.hanging:
            await trio.sleep_forever()
        self._fail(method)

    def _fail(self, method: str) -> None:
        if failure := self.failures.pop(method, None):
            raise failure


def _carries(labels: Labels, label: str) -> bool:
    key, _, value = label.partition("=")
    return labels.get(key) == value
