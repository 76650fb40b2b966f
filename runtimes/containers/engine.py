"""What a container engine must be able to do.

Room:      runtimes.containers   (imports runtimes.api; implemented by client, faked in tests)
Loop:      Trio
Lifetime:  an engine as long as the backend
Fabric:    `dockerClient`, core/container/dockercontroller/dockercontroller.go (release-2.5)

Containers, images and networks go by their names. That something is not there, or has stopped
already, is an answer and no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import trio

Labels = Mapping[str, str]


class EngineRefused(Exception):
    """The engine answered a request with an error.

    Attributes:
        status: of HTTP; decisions rest on it alone.
        text: the engine's own words, for people.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(status, text)

    def __str__(self) -> str:
        return f"{self.text.strip()} (status {self.status})"


class ImageMissing(EngineRefused):
    """A container was to be created from an image that is not there."""


class NameTaken(EngineRefused):
    """A container was to be created, and another one has its name.

    Engines that have no status for it alone raise it for other failures, too.
    """


class PullFailed(Exception):
    """An image cannot be had; the text is the engine's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that exists.

    Attributes:
        user: whom its programs run as; empty means root.
    """

    id: str
    user: str
    labels: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container that exists.

    Attributes:
        pid: of its first process as this machine counts, 0 if it does not run.
        addresses: its own on the networks it has joined.
    """

    pid: int
    oom_killed: bool
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network that exists.

    Attributes:
        gateway: the address of the engine's machine on it, empty if there is none or the engine
            does not tell.
        subnet: ``address/bits``, empty if it has none.
    """

    gateway: str
    subnet: str


@dataclass(frozen=True, slots=True)
class Found:
    """A container or network with its labels."""

    name: str
    labels: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """An image with its labels.

    Attributes:
        has_name: no other image has taken its name.
    """

    id: str
    has_name: bool
    labels: Labels


class Engine(Protocol):
    """A container engine.

    Raises:
        EngineRefused: from every method: the engine cannot do it.
        RuntimeUnavailable: from every method: it does not answer.

    Cancellation: `pull`, `fill`, `fetch`, `execute`, `wait` and reading output are cut. All else
    takes effect whole or not at all, with a limit on how long it may take.
    """

    async def ping(self) -> None:
        """Return if the engine answers."""
        ...

    async def is_rootless(self) -> bool:
        """Tell whether the engine runs as a user and so has networks the machine cannot reach."""
        ...

    async def image(self, name: str) -> Image | None:
        """Look for an image."""
        ...

    async def images(self, label: str) -> list[FoundImage]:
        """Return all images that carry ``key=value``."""
        ...

    async def pull(self, name: str) -> None:
        """Get an image from its registry.

        Raises:
            PullFailed: with what the engine says of it.
        """
        ...

    async def commit(self, container: str, image: str) -> None:
        """Make an image of a container, its labels and variables included.

        An image that had the name stays, without one.
        """
        ...

    async def remove_image(self, name: str) -> None:
        """Remove an image, unless a container uses it."""
        ...

    async def create(self, name: str, config: Mapping[str, Any]) -> None:
        """Create a container.

        Raises:
            ImageMissing: there is no such image.
            NameTaken: there is a container of that name.
        """
        ...

    async def attach(self, name: str) -> trio.abc.ReceiveStream:
        """Return what the container will write from now on, both its outputs in one."""
        ...

    async def upload(self, name: str, directory: str, archive: bytes) -> None:
        """Extract a gzip tar into a directory of a container."""
        ...

    async def fill(self, name: str, directory: str, archive: BinaryIO) -> None:
        """Extract a tar of any size into a directory of a container."""
        ...

    async def fetch(self, name: str, path: str, target: BinaryIO) -> None:
        """Write a tar of a directory; the names in it begin with the directory's own."""
        ...

    async def execute(self, name: str, argv: Sequence[str]) -> tuple[int | None, str]:
        """Run a program in a container and return its exit code, if known, and its output.

        A program that is not there ends with 126 or 127.
        """
        ...

    async def start(self, name: str) -> None:
        """Start a container."""
        ...

    async def stop(self, name: str, grace_s: float) -> None:
        """Ask a container to end, and kill it after the grace."""
        ...

    async def remove(self, name: str) -> None:
        """Kill a container if it runs, and remove it with its volumes; return when it is gone."""
        ...

    async def wait(self, name: str) -> int | None:
        """Return the exit code once a container has ended, None if it is not there."""
        ...

    async def inspect(self, name: str) -> ContainerState | None:
        """Look for a container."""
        ...

    async def containers(self, label: str) -> list[Found]:
        """Return all containers that carry ``key=value``, running or not."""
        ...

    async def network(self, name: str) -> Network | None:
        """Look for a network."""
        ...

    async def create_network(self, name: str, *, internal: bool, labels: Labels) -> None:
        """Create a network; one of that name is kept."""
        ...

    async def remove_network(self, name: str) -> None:
        """Remove a network, unless a container is on it."""
        ...

    async def networks(self, label: str) -> list[Found]:
        """Return all networks that carry ``key=value``."""
        ...
