"""A container engine in memory.

Room:      tests.fakes   (implements Engine of runtimes.containers; kept honest by tests/contract)
Loop:      Trio
Lifetime:  one test

`containers` is what is left: a test asserts that it is empty.
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import trio
from trio.testing import MemoryReceiveStream

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
)

KILLED = 137
BASES = frozenset({"base"})
"""Images that are there from the beginning."""
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
        missing: those of `BASES` that are not there until they have been pulled.
        build_lines, build_code: what a build says, and how it ends.
        probe: what comes of a program executed in a container.
        internal_gateway: address of this machine on internal networks, if any.
    """

    def __init__(self, on_start: Callable[[FakeContainer], None] = lambda container: None) -> None:
        self.on_start = on_start
        self.calls: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.hanging: set[str] = set()
        self.containers_by_name: dict[str, FakeContainer] = {}
        self.images_by_name: dict[str, Image] = {}
        self.missing: set[str] = set()
        self.removed_images: list[str] = []
        self.networks_by_name: dict[str, tuple[bool, Labels]] = {}
        self.build_lines: tuple[str, ...] = ()
        self.build_code = 0
        self.probe: tuple[int | None, str] = (0, "")
        self.internal_gateway = "127.0.0.1"
        self.rootless = False
        self.executed: list[list[str]] = []
        self._image_ids = itertools.count(1)

    async def ping(self) -> None:
        await self._call("ping")

    async def is_rootless(self) -> bool:
        await self._call("is_rootless")
        return self.rootless

    async def image(self, name: str) -> Image | None:
        await self._call("image")
        return self.images_by_name.get(name)

    async def images(self, label: str) -> list[FoundImage]:
        await self._call("images")
        return [
            FoundImage(id=image.id, has_name=True, labels=image.labels)
            for image in self.images_by_name.values()
            if _carries(image.labels, label)
        ]

    async def pull(self, name: str) -> None:
        await self._call("pull")
        self.missing.discard(name)

    async def commit(self, container: str, image: str) -> None:
        await self._call("commit")
        labels = self._container(container).config["Labels"]
        self.images_by_name[image] = Image(
            id=f"sha256:{next(self._image_ids)}", user="", labels=labels
        )
        self._fail("commit!")

    async def remove_image(self, name: str) -> None:
        await self._call("remove_image")
        self.removed_images.append(name)
        left = {key: image for key, image in self.images_by_name.items() if image.id != name}
        self.images_by_name = left

    async def create(self, name: str, config: Mapping[str, Any]) -> None:
        await self._call("create")
        is_base = config["Image"] in BASES - self.missing
        if not is_base and config["Image"] not in self.images_by_name:
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

    async def fill(self, name: str, directory: str, archive: BinaryIO) -> None:
        await self._call("fill")
        self._container(name).files[directory] = archive.read()

    async def fetch(self, name: str, path: str, target: BinaryIO) -> None:
        await self._call("fetch")
        with tarfile.open(fileobj=target, mode="w"):
            self._container(name)

    async def execute(self, name: str, argv: Sequence[str]) -> tuple[int | None, str]:
        await self._call("execute")
        self.executed.append(list(argv))
        self._container(name)
        return self.probe

    async def start(self, name: str) -> None:
        await self._call("start")
        container = self._container(name)
        container.pid = next(_pids)
        if "Entrypoint" in container.config:  # a build
            container.exit(self.build_code, *self.build_lines)
        else:
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
