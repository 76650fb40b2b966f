"""What ``doctor`` asks a container engine itself, without the backend.

Room:      peer.cli   (imports runtimes.containers.address; used by diagnosis)
Loop:      none; it blocks, each request for a bounded time
Fabric:    none
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from peer.cli.findings import Finding, advice, broken, ok, space
from peer.config import PeerConfig
from peer.config.settings import settings_of
from runtimes.api import OptionRejected
from runtimes.containers.address import EngineAddress, find_engine
from runtimes.containers.options import ContainerOptions

API_VERSION = (1, 41)
"""What the backends speak."""
REQUEST_LIMIT_S = 5.0

_IMAGES = frozenset(
    f"chaincode.{name}"
    for name in ("builder", "golang.runtime", "node.runtime", "java.runtime", "python.runtime")
)
"""Keys that name base images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """What is known about an engine before it is asked.

    Attributes:
        variable: names its address in the environment.
        sockets: where it usually listens; ``~run`` stands for the user's runtime directory.
        start: how to start it.
    """

    title: str
    variable: str
    has_contexts: bool
    sockets: tuple[str, ...]
    start: str


KINDS: Mapping[str, EngineKind] = {
    "docker": EngineKind(
        title="Docker",
        variable="DOCKER_HOST",
        has_contexts=True,
        sockets=("/run/docker.sock", "/var/run/docker.sock", "~run/docker.sock"),
        start="systemctl start docker, or install Docker",
    ),
    "podman": EngineKind(
        title="Podman",
        variable="CONTAINER_HOST",
        has_contexts=False,
        sockets=("~run/podman/podman.sock", "/run/podman/podman.sock"),
        start="systemctl start podman.socket (rootless: systemctl --user start podman.socket), "
        "or install Podman",
    ),
}


class Refused(Exception):
    """The engine answered with an error; the text is its own."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"{text} (status {status})")


class EngineHttp:
    """Asks one engine, with a connection for each request."""

    def __init__(self, address: EngineAddress) -> None:
        self._address = address

    def get(self, path: str) -> Any:
        """Return the decoded answer; raises `Refused`, or OSError where there is none."""
        return self.request("GET", path)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Return the decoded answer, None if it is empty.

        Raises:
            Refused: a status of 400 or above.
            OSError: no answer within `REQUEST_LIMIT_S`, or one that is not HTTP and JSON.
        """
        connection = self._connection()
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read() or b"null")
        except (http.client.HTTPException, ValueError) as exc:
            raise OSError(errno.EPROTO, f"the answer is not an engine's: {exc!r}") from exc
        finally:
            connection.close()
        if response.status >= 400:
            text = answer.get("message", "") if isinstance(answer, dict) else str(answer)
            raise Refused(response.status, text)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        address = self._address
        if address.socket:
            return _UnixConnection(address.socket)
        if (context := address.tls_context()) is not None:
            return http.client.HTTPSConnection(
                address.host, address.port, timeout=REQUEST_LIMIT_S, context=context
            )
        return http.client.HTTPConnection(address.host, address.port, timeout=REQUEST_LIMIT_S)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=REQUEST_LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def engine(config: PeerConfig, env: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check the engine that the configuration chooses; stops where it cannot be reached."""
    name = config.vm.runtime
    kind = KINDS[name]
    try:
        options = ContainerOptions.read(config.vm.options, name)
        address = find_engine(
            endpoint=config.vm.endpoint,
            tls=options.tls,
            env=env,
            variable=kind.variable,
            has_contexts=kind.has_contexts,
            sockets=kind.sockets,
        )
        http_ = EngineHttp(address)
        version = http_.get("/version")
        info = http_.get("/info")
    except OptionRejected as exc:
        for problem in exc.problems:
            yield broken("engine options", problem, "correct it; docs/runtimes.md lists the keys")
        return
    except Refused as exc:
        yield broken("engine", f"{address}: {exc}", f"check that {kind.title} listens there")
        return
    except OSError as exc:
        yield _unreachable(kind, address, exc)
        return
    yield ok("engine", f"{_title(version)} at {address}")
    yield api_version(version)
    yield from limits(info)
    yield storage(info)
    yield from security(info, is_hardened=options.hardened)
    if _is_rootless(info) and options.network != "host":
        yield advice(
            "rootless",
            "networks of an engine without root do not reach this machine",
            "for Node and Java chaincodes set vm.docker.hostConfig.NetworkMode to host; "
            "Go and Python dial a Unix socket",
        )
    if address.is_local and (root := info.get("DockerRootDir")):
        yield space("engine's disk", Path(root), "move the engine's storage to a larger one")
    yield networks(http_)
    yield from images(http_, config)


def _title(version: Mapping[str, Any]) -> str:
    components = version.get("Components") or [{}]
    return f"{components[0].get('Name', 'engine')} {version.get('Version', '?')}"


def _unreachable(kind: EngineKind, address: EngineAddress, failure: OSError) -> Finding:
    detail = f"{address}: {failure.strerror or failure}"
    match failure.errno:
        case errno.ENOENT:
            return broken("engine", detail, f"{kind.start}; or set vm.endpoint or {kind.variable}")
        case errno.EACCES | errno.EPERM:
            return broken("engine", detail, _permission(address.socket))
        case errno.ECONNREFUSED:
            return broken("engine", detail, f"nobody listens there any more: {kind.start}")
    return broken("engine", detail, "check vm.endpoint, and that the engine is healthy")


def _permission(path: str) -> str:
    import grp  # of Unix alone, and needed once

    try:
        group = grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        group = "docker"
    if group == "root":
        return "run the peer as root, or use a rootless engine of your own"
    return f"usermod -aG {group} YOU, and log in again; its members are as good as root"


def api_version(version: Mapping[str, Any]) -> Finding:
    """Check that the engine speaks the pinned version of its API."""
    pinned = ".".join(map(str, API_VERSION))
    newest = _numbers(version.get("ApiVersion"))
    oldest = _numbers(version.get("MinAPIVersion"))
    said = f"{version.get('MinAPIVersion') or '?'} to {version.get('ApiVersion') or '?'}"
    detail = f"the peer speaks {pinned}, the engine {said}"
    if newest < API_VERSION:
        return broken("API version", detail, "upgrade to Docker 20.10 or Podman 4 at least")
    if oldest > API_VERSION:
        return broken(
            "API version",
            detail,
            f"let the engine accept {pinned}: DOCKER_MIN_API_VERSION={pinned} in dockerd's "
            'environment, or "min-api-version" in daemon.json',
        )
    return ok("API version", detail)


def _numbers(text: object) -> tuple[int, ...]:
    parts = str(text or "0").split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def limits(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that the limits of a hardened container hold."""
    mode = f"cgroup v{info.get('CgroupVersion') or '?'}, driver {info.get('CgroupDriver') or '?'}"
    missing = [
        what
        for what, key in (("memory", "MemoryLimit"), ("processes", "PidsLimit"))
        if info.get(key) is False
    ]
    if missing:
        yield advice(
            "cgroups",
            f"{mode}; no limit on {' and '.join(missing)}",
            "boot with cgroup v2 and delegate the controllers to the engine's user"
            if _is_rootless(info)
            else "enable those controllers in the kernel; chaincodes run without the limits",
        )
    else:
        yield ok("cgroups", f"{mode}; limits on memory and processes hold")


def storage(info: Mapping[str, Any]) -> Finding:
    """Check how the engine keeps its layers."""
    driver = str(info.get("Driver") or "?")
    if driver == "vfs":
        return advice(
            "storage",
            "driver vfs copies every layer into each container",
            "put the engine's storage on a file system that overlay works on (ext4, xfs)",
        )
    return ok("storage", f"driver {driver}")


def security(info: Mapping[str, Any], *, is_hardened: bool) -> Iterator[Finding]:
    """Check what keeps a chaincode in its container."""
    options = [str(option) for option in info.get("SecurityOptions") or ()]
    names = {option.removeprefix("name=").partition(",")[0] for option in options}
    detail = ", ".join(sorted(names)) or "none"
    if "seccomp" not in names:
        yield advice("security", detail, "enable seccomp; system calls are not filtered")
    else:
        yield ok("security", detail)
    if not is_hardened:
        yield advice(
            "hardening", "switched off", "remove vm.docker.hardening unless a chaincode needs it"
        )


def _is_rootless(info: Mapping[str, Any]) -> bool:
    return any("rootless" in str(option) for option in info.get("SecurityOptions") or ())


def networks(http_: EngineHttp) -> Finding:
    """Check that networks can be made: a trial one is made and removed."""
    name = f"triopeer-doctor-{secrets.token_hex(6)}"
    try:
        http_.request("POST", "/networks/create", {"Name": name, "Internal": True})
        http_.request("DELETE", f"/networks/{name}")
        known = len(http_.get("/networks"))
    except (Refused, OSError) as exc:
        return broken(
            "networks",
            str(exc),
            "look into the engine's log; its network plugins, iptables or free subnets are missing",
        )
    return ok("networks", f"{known} there, and a new one can be made")


def base_images(config: PeerConfig) -> Mapping[str, str]:
    """Return the images that chaincodes are built from and run in, by key."""
    return {
        setting.key: getattr(getattr(config, section), attribute)
        for section, attribute, setting in settings_of(PeerConfig)
        if setting.key in _IMAGES
    }


def images(http_: EngineHttp, config: PeerConfig) -> Iterator[Finding]:
    """Check that the base images are there."""
    for key, image in base_images(config).items():
        try:
            found = http_.get(f"/images/{quote(image, safe='/:@')}/json")
        except Refused as exc:
            if exc.status != 404:
                yield broken(key, f"{image}: {exc}", "look into the engine's log")
                continue
            yield advice(key, f"{image} is not there", "pull or load it before the first launch")
        except OSError as exc:
            yield broken(key, f"{image}: {exc}", "look into the engine's log")
        else:
            yield ok(key, f"{image}, {found.get('Size', 0) / 1e6:.0f} MB")
