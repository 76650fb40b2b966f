"""Where the engine listens.

Room:      runtimes.containers   (imports runtimes.api; used by client and runtime)
Loop:      none: small files are read when the backend opens
Lifetime:  as long as the backend
Fabric:    `vm.endpoint`, `vm.docker.tls`, core/peer/config.go (release-2.5)

The first of these that is set is the engine: ``vm.endpoint``; the engine's environment variable
(``DOCKER_HOST``, ``CONTAINER_HOST``); for Docker the context of its command line, named by
``DOCKER_CONTEXT`` or in its configuration; the first usual socket that exists.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runtimes.api import OptionRejected


@dataclass(frozen=True, slots=True)
class EngineTls:
    """Files for TLS with the engine; an empty `ca` means the system's authorities."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAddress:
    """A Unix socket, or a host and port.

    Attributes:
        origin: what said so, for people.
    """

    socket: str = ""
    host: str = ""
    port: int = 0
    tls: EngineTls | None = None
    origin: str = field(default="", compare=False)

    def __str__(self) -> str:
        where = f"unix://{self.socket}" if self.socket else f"tcp://{self.host}:{self.port}"
        return f"{where} ({self.origin})" if self.origin else where

    @property
    def is_local(self) -> bool:
        """Whether engine and peer share a machine: its files and its process table."""
        if self.socket or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how to speak TLS with the engine, None for plain text.

        Raises:
            OptionRejected: a file cannot be used.
        """
        if self.tls is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls.ca or None)
            if self.tls.certificate:
                context.load_cert_chain(self.tls.certificate, self.tls.key or None)
        except OSError as exc:  # ssl.SSLError is one
            raise OptionRejected([f"TLS files of the engine at {self}: {exc}"]) from exc
        return context


def find_engine(
    *,
    endpoint: str,
    tls: EngineTls | None,
    env: Mapping[str, str],
    variable: str,
    has_contexts: bool,
    sockets: tuple[str, ...],
) -> EngineAddress:
    """Return where the engine is; see above for the order.

    Args:
        endpoint: ``vm.endpoint``.
        tls: ``vm.docker.tls``, for whatever is found unless it brings its own.
        variable: the environment variable that names this engine.
        has_contexts: the engine's command line keeps contexts.
        sockets: where it usually listens; ``~run`` stands for the user's runtime directory.

    Raises:
        OptionRejected: an address or context cannot be used.
    """
    if endpoint:
        return replace(parse(endpoint, "vm.endpoint"), tls=tls)
    if url := env.get(variable):
        return replace(parse(url, variable), tls=tls or _tls_of_environment(env))
    if has_contexts and (found := _from_context(env)) is not None:
        return replace(found, tls=tls or found.tls)
    usual = list(_expanded(sockets, env))
    existing = [path for path in usual if os.path.exists(path)]
    return EngineAddress(socket=(existing or usual)[0], origin="the usual place")


def parse(url: str, origin: str) -> EngineAddress:
    """Read ``unix:///path``, ``tcp://host:port``, ``http://…`` or ``https://…``.

    Raises:
        OptionRejected: it is none of them.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path:
        return EngineAddress(socket=parts.path, origin=origin)
    try:
        if parts.scheme in ("tcp", "http", "https") and parts.hostname and parts.port:
            return EngineAddress(host=parts.hostname, port=parts.port, origin=origin)
    except ValueError:
        pass
    raise OptionRejected([f"{origin}: {url!r} is neither unix:///path nor tcp://host:port"])


def _expanded(sockets: tuple[str, ...], env: Mapping[str, str]) -> Iterator[str]:
    run = env.get("XDG_RUNTIME_DIR")
    for path in sockets:
        if not path.startswith("~run/"):
            yield path
        elif run:
            yield path.replace("~run", run, 1)


def _tls_of_environment(env: Mapping[str, str]) -> EngineTls | None:
    if not env.get("DOCKER_TLS_VERIFY"):
        return None
    default = Path(env.get("HOME", "/"), ".docker")
    return _tls_in(Path(env.get("DOCKER_CERT_PATH") or default))


def _tls_in(directory: Path) -> EngineTls | None:
    files = [directory / name for name in ("ca.pem", "cert.pem", "key.pem")]
    found = [str(file) if file.exists() else "" for file in files]
    return EngineTls(*found) if any(found) else None


def _from_context(env: Mapping[str, str]) -> EngineAddress | None:
    """Return what the current context of Docker's command line names."""
    home = Path(env.get("DOCKER_CONFIG") or Path(env.get("HOME", "/"), ".docker"))
    name = env.get("DOCKER_CONTEXT", "")
    config = home / "config.json"
    if not name and config.exists():
        name = str(_json(config).get("currentContext") or "")
    if name in ("", "default"):
        return None
    directory = hashlib.sha256(name.encode()).hexdigest()
    meta = home / "contexts" / "meta" / directory / "meta.json"
    try:
        url = _json(meta)["Endpoints"]["docker"]["Host"]
    except (KeyError, TypeError) as exc:
        raise OptionRejected([f"the Docker context {name!r} in {meta} names no host"]) from exc
    tls = _tls_in(home / "contexts" / "tls" / directory / "docker")
    return replace(parse(url, f"Docker context {name}"), tls=tls)


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise OptionRejected([f"{path} cannot be read: {exc}"]) from exc
    return read if isinstance(read, dict) else {}
