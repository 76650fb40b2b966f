"""What ``doctor`` finds, and the checks of the machine and its configuration.

Room:      peer.cli   (used by diagnosis and doctor_engine)
Loop:      none; it blocks, each check for a bounded time
"""

from __future__ import annotations

import enum
import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peer.config import PeerConfig, chaincode_host, chaincode_listen_address, peer_address
from peer.config.values import split_address
from peer.errors import ConfigError

COMMAND_LIMIT_S = 10.0
LITTLE_SPACE = 2 << 30
NO_SPACE = 256 << 20

_TOOLS = {
    "node": ("--version", "Node chaincodes"),
    "npm": ("--version", "installing and starting Node chaincodes"),
    "go": ("version", "building Go chaincodes"),
    "java": ("-version", "Java chaincodes"),
}


class Status(enum.Enum):
    """How bad a finding is; only `BROKEN` keeps the peer from working."""

    OK = "ok"
    ADVICE = "advice"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: its subject, a word or two.
        detail: what holds.
        advice: what to do about it; empty where there is nothing to do.
    """

    check: str
    status: Status
    detail: str
    advice: str = ""


def ok(check: str, detail: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Status.OK, detail)


def advice(check: str, detail: str, what_to_do: str) -> Finding:
    """Return a finding that could matter."""
    return Finding(check, Status.ADVICE, detail, what_to_do)


def broken(check: str, detail: str, what_to_do: str) -> Finding:
    """Return a finding that keeps the peer from working."""
    return Finding(check, Status.BROKEN, detail, what_to_do)


def configuration(config: PeerConfig) -> Iterator[Finding]:
    """Check what was configured, as far as it could be read."""
    for warning in config.warnings:
        yield advice("configuration", warning, "set an acceptable value")
    given = sum(origin != "default" for origin in config.origins.values())
    yield ok("configuration", f"can be read; settings given: {given}")
    yield _chaincode_address(config)


def _chaincode_address(config: PeerConfig) -> Finding:
    try:
        host = chaincode_host(config)
        known = f"; an engine of another machine reaches this one as {host}" if host else ""
        return ok("chaincode address", f"each launch gets an address of its own{known}")
    except ConfigError as exc:
        return broken("chaincode address", str(exc), "correct peer.chaincodeAddress")


def addresses(config: PeerConfig) -> Iterator[Finding]:
    """Check that the peer could listen where it is told to."""
    is_development = config.chaincode.mode == "dev"
    for key, find, is_needed in (
        ("peer.address", peer_address, False),
        ("peer.chaincodeListenAddress", chaincode_listen_address, is_development),
    ):
        try:
            address = find(config)
        except ConfigError as exc:
            yield broken(key, str(exc), f"set {key}")
            continue
        yield _bindable(key, address, Status.BROKEN if is_needed else Status.ADVICE)


def _bindable(key: str, address: str, status: Status) -> Finding:
    host, port = split_address(address)
    try:
        family, kind, _, _, target = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen()
    except socket.gaierror as exc:
        return Finding(key, status, f"{address}: {exc.strerror}", f"correct the host of {key}")
    except OSError as exc:
        return Finding(key, status, f"{address}: {exc.strerror}", _after_bind(key, port, exc))
    return ok(key, f"{address} can be listened on")


def _after_bind(key: str, port: int, failure: OSError) -> str:
    match failure.errno:
        case errno.EADDRINUSE:
            return f"another program, perhaps a peer, holds port {port}; end it, or change {key}"
        case errno.EADDRNOTAVAIL:
            return "no interface of this machine has that address; fine only if it is forwarded"
        case errno.EACCES:
            return "ports below 1024 need root; choose a higher one"
    return f"change {key}"


def disk(config: PeerConfig) -> Iterator[Finding]:
    """Check the directory where the peer keeps its data."""
    what_to_do = "set peer.fileSystemPath to another directory"
    path = Path(config.peer.file_system_path or tempfile.gettempdir())
    existing = _existing(path)
    if not os.access(existing, os.W_OK | os.X_OK):
        who = f"user {os.geteuid()}"
        yield broken("data directory", f"{who} cannot write to {existing}", what_to_do)
    yield space("data directory", path, what_to_do)


def space(check: str, path: Path, what_to_do: str) -> Finding:
    """Check the space of a directory, or of the nearest one above it that exists."""
    free = shutil.disk_usage(_existing(path)).free
    detail = f"{free / (1 << 30):.1f} GiB free for {path}"
    if free < NO_SPACE:
        return broken(check, detail, f"make room, or {what_to_do}")
    if free < LITTLE_SPACE:
        return advice(check, detail, f"make room, or {what_to_do}")
    return ok(check, detail)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def processes(proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Check what the process runtime lives on."""
    try:
        (proc / "1/stat").read_bytes()
        (proc / "self/environ").read_bytes()
        (proc / f"self/task/{os.getpid()}/children").read_bytes()
    except OSError as exc:
        yield broken(
            "/proc",
            f"{exc.filename}: {exc.strerror}",
            "mount /proc without hidepid; the process runtime finds its chaincodes there",
        )
    else:
        yield ok("/proc", "processes can be followed")
    yield ok("python", f"{sys.version.split()[0]}, {sys.executable}")
    for name, (flag, purpose) in _TOOLS.items():
        yield _tool(name, flag, purpose)


def _tool(name: str, flag: str, purpose: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return advice(name, "not installed", f"install it and put it on PATH for {purpose}")
    try:
        done = subprocess.run(
            [path, flag],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return advice(name, f"{path} {flag}: {exc}", f"repair it for {purpose}")
    said = done.stdout.strip().splitlines() or [""]
    if done.returncode:
        failed = f"{path} {flag} ended with {done.returncode}: {said[-1]}"
        return advice(name, failed, f"repair it for {purpose}")
    return ok(name, f"{said[0]}, {path}")
