"""A container engine of the tests' own, beside whatever engine the machine already runs.

Room:      tests.engines
Loop:      none; it blocks
Lifetime:  from `start` to `remove`, across the processes of a test run

Everything of an engine lies in two directories: sockets, logs and configuration under `STATE`,
storage in the cache. It has its own bridge and address pools and changes no rule of the firewall
by itself; what its containers reach through a bridge is this machine.
"""

from __future__ import annotations

import fcntl
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, ClassVar

from tests.engines.processes import (
    arguments_of,
    every_pid,
    holds,
    is_alive,
    send_signal,
    with_descendants,
)
from tests.engines.rootfs import Unavailable, archive, cache_directory

STATE = Path("/run/triopeer-tests")
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
REQUEST_LIMIT_S = 120.0
ROOT_IMAGES = ("node", "python")
USER_IMAGES = ("base", "builder", "golang")
"""Names for one file system; those run as root, these as `chaincode`, as it is in Fabric."""
MARK = "TRIOPEER_TEST_ENGINE"
"""Marks an engine's processes in their environment; the value is the engine's id."""


class EngineBroken(Exception):
    """The engine is installed, and does not do as it should."""


class Engine:
    """One engine; the base of `Docker` and `Podman`.

    Args:
        number: tells the engines of one kind apart; all tests share number 0.

    Attributes:
        name: ``docker`` or ``podman``.
        endpoint: its address, ``unix:///path``.
        images: kind of chaincode → name of its base image, as this engine wants it.
    """

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    repository: ClassVar[str]

    def __init__(self, number: int = 0) -> None:
        self.id = f"{self.name}-{number}" if number else self.name
        self.bridge = f"tptest-{self.name}{number}"
        self.prefix = f"10.{212 - number}"
        self.state = STATE / self.id
        self.storage = cache_directory() / "engines" / self.id
        self.socket = self.state / "engine.sock"
        self.log = self.state / "engine.log"
        self._kept = self.state / "kept"
        self.endpoint = f"unix://{self.socket}"
        self.images: Mapping[str, str] = MappingProxyType(
            {kind: f"{self.repository}/{kind}:latest" for kind in ROOT_IMAGES + USER_IMAGES}
        )

    def missing(self) -> str:
        """Return why this engine cannot be run here, or nothing."""
        if os.geteuid() != 0:
            return "a private engine needs root"
        absent = [program for program in self.programs if shutil.which(program) is None]
        return f"not installed: {', '.join(absent)}" if absent else ""

    def up(self) -> None:
        """Run the engine with its images until `down`; returns at once where it runs already.

        Raises:
            Unavailable: something it needs is missing here.
            EngineBroken: it does not start, or refuses an image.
        """
        with self._locked():
            self._ensure()
            self._kept.touch()

    @contextmanager
    def used(self) -> Iterator[Engine]:
        """Run the engine while inside; the last of all users removes it, unless `up` started it.

        Raises:
            Unavailable, EngineBroken: as `up`.
        """
        with open(cache_directory() / f"engine-{self.id}-users.lock", "w") as users:
            with self._locked():
                self._ensure()
                fcntl.flock(users, fcntl.LOCK_SH)
            try:
                yield self
            finally:
                with self._locked(), suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not self._kept.exists():
                        self._remove()

    def down(self) -> None:
        """Remove the engine with all its containers, images, networks, mounts and processes."""
        with self._locked():
            self._remove()

    def start(self) -> None:
        """Start the daemon on the storage that exists, and return when it answers.

        Raises:
            EngineBroken: with the end of its log.
        """
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.storage.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._prepare()
        environment = {**os.environ, **self._environment(), MARK: self.id}
        with open(self.log, "ab") as log:
            subprocess.run(  # as no child of this process, which may end first
                ["setsid", "--fork", *self._command()],
                env=environment,
                stdin=subprocess.DEVNULL,
                cwd=self.state,  # Podman's monitors leave files where they were started
                stdout=log,
                stderr=log,
                check=True,
                timeout=START_LIMIT_S,
            )
        if not holds(self.is_ready, START_LIMIT_S):
            log_end = self.log.read_text(errors="replace")[-3000:]
            raise EngineBroken(f"{self.name} does not answer within {START_LIMIT_S} s:\n{log_end}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon; its storage stays. SIGKILL leaves the containers running.

        Raises:
            EngineBroken: it did not end.
        """
        program = self._command()[0]
        daemons = [pid for pid in self._marked() if arguments_of(pid)[0].endswith(program)]
        for pid in daemons:
            send_signal(pid, how)
        if not holds(lambda: not any(map(is_alive, daemons)), STOP_LIMIT_S):
            raise EngineBroken(f"{self.name} ignores {how.name} for {STOP_LIMIT_S} s")
        self.socket.unlink(missing_ok=True)

    def processes(self) -> set[int]:
        """Return every process of the engine, those in its containers among them."""
        return with_descendants(self._marked())

    def is_ready(self) -> bool:
        """Tell whether the daemon answers."""
        try:
            return self.request("GET", "/_ping", limit_s=5.0)[0] == 200
        except OSError:
            return False

    def request(
        self,
        method: str,
        path: str,
        body: IO[bytes] | bytes | Mapping[str, object] | None = None,
        *,
        limit_s: float = REQUEST_LIMIT_S,
    ) -> tuple[int, Any]:
        """Return status and decoded answer of one call of the engine's Docker API.

        Args:
            body: a tar, or a mapping that is sent as JSON.

        Raises:
            OSError: no answer.
        """
        connection = _UnixConnection(self.socket, limit_s)
        try:
            if isinstance(body, Mapping):
                content, kind = json.dumps(body).encode(), "application/json"
            else:
                content, kind = body, "application/x-tar"
            headers = {} if body is None else {"Content-Type": kind}
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            answer = response.read()
        except http.client.HTTPException as exc:
            raise OSError(f"{method} {path}: {exc!r}") from exc
        finally:
            connection.close()
        try:
            return response.status, json.loads(answer)
        except ValueError:
            return response.status, answer.decode(errors="replace")

    def _ensure(self) -> None:
        if reason := self.missing():
            raise Unavailable(reason)
        if not self.is_ready():
            self._remove()
            self.start()
        self._provide_images()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        return {}

    def _prepare(self) -> None:
        """Make what the daemon needs, every time it starts."""

    def _provide_images(self) -> None:
        root, *rest = (self.images[kind] for kind in ROOT_IMAGES)
        if not self._has(root):
            with open(archive(), "rb") as packed:
                self.load(packed, root)
        self._tag(root, rest)
        user, *rest = (self.images[kind] for kind in USER_IMAGES)
        if not self._has(user):
            context = _context(f"FROM {root}\nUSER chaincode\n".encode())
            _, answer = self.request("POST", f"/build?t={user}", context)
            if not self._has(user):
                raise EngineBroken(f"{self.name} does not build {user}: {answer}")
        self._tag(user, rest)

    def _has(self, image: str) -> bool:
        return self.request("GET", f"/images/{image}/json")[0] == 200

    def _tag(self, image: str, others: list[str]) -> None:
        for other in others:
            repository, tag = other.rsplit(":", 1)
            query = f"repo={repository}&tag={tag}"
            status, answer = self.request("POST", f"/images/{image}/tag?{query}")
            if status != 201:
                raise EngineBroken(f"{self.name} refuses the tag {other}: {answer}")

    def load(self, packed: IO[bytes], image: str) -> None:
        """Make an image of the tar of a root file system."""
        raise NotImplementedError

    def _remove(self) -> None:
        if self.state.exists() and not self.is_ready():  # killed: it knows best what to clean
            with suppress(EngineBroken, OSError, subprocess.SubprocessError):
                self.start()
        if self.is_ready():
            _, containers = self.request("GET", "/containers/json?all=true")
            for container in containers:
                self.request("DELETE", f"/containers/{container['Id']}?force=true&v=true")
            _, networks = self.request("GET", "/networks")
            for network in networks:
                if network["Name"] not in ("bridge", "host", "none", "podman"):
                    self.request("DELETE", f"/networks/{network['Id']}")
            self.stop()
        self._kill_all()
        _delete_link(self.bridge)
        for directory in (self.state, self.storage):
            _unmount_below(directory)
            shutil.rmtree(directory, ignore_errors=True)

    def _kill_all(self) -> None:
        """Kill what a killed daemon has left: its shims, and the containers below them."""
        left = self.processes()
        for pid in left:
            send_signal(pid, signal.SIGKILL)
        if not holds(lambda: not any(map(is_alive, left)), STOP_LIMIT_S):
            raise EngineBroken(f"processes of {self.name} survive: {sorted(left)}")

    def _marked(self) -> set[int]:
        mark = f"{MARK}={self.id}".encode()
        found = set()
        for pid in every_pid():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark in environment or self._owns(arguments_of(pid)):
                found.add(pid)
        return found

    def _owns(self, arguments: list[str]) -> bool:
        """Tell whether these are the arguments of a process that lost the mark."""
        return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(cache_directory() / f"engine-{self.id}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Docker(Engine):
    """A private dockerd."""

    name = "docker"
    programs = ("dockerd", "containerd", "runc", "ip", "setsid")
    repository = "triopeer-test"

    def _command(self) -> list[str]:
        return [
            "dockerd",
            f"--host={self.endpoint}",
            f"--data-root={self.storage}",
            f"--exec-root={self.state}/exec",
            f"--pidfile={self.state}/pid",
            f"--config-file={self.state}/daemon.json",
            f"--bridge={self.bridge}",
            # No --default-address-pool: with it, a restarted dockerd deletes the machine's docker0.
            # The chains of iptables belong to the machine's own dockerd: a second one flushes them.
            "--iptables=false",
            "--ip-masq=false",
            "--ip-forward=false",
            "--userland-proxy=false",
        ]

    def _prepare(self) -> None:
        (self.state / "daemon.json").write_text("{}")
        # A killed dockerd takes containerd with it, and believes in what its number now is.
        for stale in ("pid", "exec/containerd/containerd.pid"):
            (self.state / stale).unlink(missing_ok=True)
        if Path("/sys/class/net", self.bridge).exists():  # with containers that still run
            return
        for command in (
            f"ip link add {self.bridge} type bridge",
            f"ip address add {self.prefix}.0.1/24 dev {self.bridge}",
            f"ip link set {self.bridge} up",
        ):
            subprocess.run(command.split(), check=True, timeout=STOP_LIMIT_S)

    def load(self, packed: IO[bytes], image: str) -> None:
        repository, tag = image.rsplit(":", 1)
        query = f"fromSrc=-&repo={repository}&tag={tag}"
        status, answer = self.request("POST", f"/images/create?{query}", packed)
        if status != 200 or "errorDetail" in str(answer):
            raise EngineBroken(f"docker refuses the image {image}: {answer}")


class Podman(Engine):
    """A private podman service."""

    name = "podman"
    programs = ("podman", "conmon", "runc", "iptables", "ip", "setsid")
    repository = "localhost/triopeer-test"

    def _command(self) -> list[str]:
        return [
            "podman",
            f"--root={self.storage}",
            f"--runroot={self.state}/run",
            f"--tmpdir={self.state}/tmp",
            f"--network-config-dir={self.state}/networks",
            "system",
            "service",
            "--time=0",
            self.endpoint,
        ]

    def _environment(self) -> Mapping[str, str]:
        return {
            "CONTAINERS_CONF": f"{self.state}/containers.conf",
            "CONTAINERS_REGISTRIES_CONF": f"{self.state}/registries.conf",
        }

    def _prepare(self) -> None:
        networks = self.state / "networks"
        networks.mkdir(exist_ok=True)
        (networks / "87-podman.conflist").write_text(json.dumps(self._network(), indent=2))
        (self.state / "registries.conf").write_text("unqualified-search-registries = []\n")
        (self.state / "containers.conf").write_text(
            "[containers]\n"
            'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
            "[engine]\n"
            'runtime = "runc"\n'
            'cgroup_manager = "cgroupfs"\n'
            'events_logger = "file"\n'
            'lock_type = "file"\n'  # the usual one is a single memory segment of the machine
            "[network]\n"
            'network_backend = "cni"\n'
            f'default_subnet_pools = [{{base = "{self.prefix}.192.0/18", size = 24}}]\n'
        )

    def load(self, packed: IO[bytes], image: str) -> None:
        query = f"reference={image}"
        status, answer = self.request("POST", f"/v4.0.0/libpod/images/import?{query}", packed)
        if status != 200:
            raise EngineBroken(f"podman refuses the image {image}: {answer}")

    def _owns(self, arguments: list[str]) -> bool:
        return Path(arguments[0]).name in ("conmon", "podman") and any(
            f"{self.state}/" in argument for argument in arguments
        )

    def _network(self) -> Mapping[str, object]:
        subnet = f"{self.prefix}.1"
        addresses = {
            "type": "host-local",
            "dataDir": f"{self.state}/addresses",
            "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": f"{subnet}.0/24", "gateway": f"{subnet}.1"}]],
        }
        bridge = {"type": "bridge", "bridge": self.bridge, "isGateway": True, "ipam": addresses}
        return {"cniVersion": "0.4.0", "name": "podman", "plugins": [bridge, {"type": "tuning"}]}


ENGINES: Mapping[str, type[Engine]] = {"docker": Docker, "podman": Podman}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, limit_s: float) -> None:
        super().__init__("localhost", timeout=limit_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _context(dockerfile: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        header = tarfile.TarInfo("Dockerfile")
        header.size = len(dockerfile)
        tar.addfile(header, io.BytesIO(dockerfile))
    return packed.getvalue()


def _delete_link(name: str) -> None:
    if Path("/sys/class/net", name).exists():
        subprocess.run(["ip", "link", "delete", name], check=True, timeout=STOP_LIMIT_S)


def _unmount_below(directory: Path) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    for point in reversed(points):
        if point.startswith(f"{directory}/") or point == str(directory):
            subprocess.run(["umount", "--lazy", point], check=False, timeout=STOP_LIMIT_S)
