"""The backend's part of the configuration: ``vm.docker``, and ``vm.podman`` above it.

Room:      runtimes.containers   (imports runtimes.api)
Loop:      none
Fabric:    `vm.docker` of sampleconfig/core.yaml; `getDockerHostConfig`,
           core/container/dockercontroller/dockercontroller.go (release-2.5)

Fabric's keys keep their spelling and meaning. ``hardening: off`` gives Fabric's defaults, too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runtimes.api import OptionRejected
from runtimes.containers.address import EngineTls

HARDENED: Mapping[str, Any] = {
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "ReadonlyRootfs": True,
    "Tmpfs": {"/tmp": "rw,exec,nosuid,nodev,size=256m,mode=1777"},  # libraries unpack code there
    "PidsLimit": 1024,
    "Memory": 2 << 30,
}
"""What the engine is told unless the configuration says otherwise."""

UNPRIVILEGED_USER = "65534:65534"

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")
_ULIMIT = re.compile(r"([a-z]+)=(\d+)(?::(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """How chaincode containers are made.

    Attributes:
        hardened: ``hardening``; `HARDENED`, a user without privileges, and no network but the way
            to the peer.
        keeps_leftovers: ``leftovers: keep``; a chaincode's container that a killed peer left stays
            until the next launch of that chaincode replaces it, or its package goes.
        stop_grace_s: ``stopGrace``; between SIGTERM and SIGKILL, whole seconds. A program that is
            its container's first process and does not handle SIGTERM never gets it.
        network: ``hostConfig.NetworkMode``; empty means the backend chooses.
        user: ``hostConfig.User``; empty means the image's, or `UNPRIVILEGED_USER` if that is root.
        labels: ``hostConfig.Labels``; for containers.
        host: the rest of ``hostConfig``, as the engine spells it, defaults included.
        tls: ``tls``; None when it is not enabled.
    """

    hardened: bool = True
    keeps_leftovers: bool = False
    stop_grace_s: float = 0.0
    network: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=lambda: dict(HARDENED))
    tls: EngineTls | None = None

    @classmethod
    def read(cls, vm: Mapping[str, object], section: str) -> ContainerOptions:
        """Read ``vm.docker``, and over it ``vm.<section>``; case makes no difference in keys.

        Raises:
            OptionRejected: with every problem found.
        """
        given: dict[str, Any] = {}
        problems: list[str] = []
        for name in dict.fromkeys(("docker", section)):
            for key, value in _flattened(vm.get(name), f"vm.{name}"):
                suffix = key.removeprefix(f"vm.{name}").removeprefix(".").lower()
                parse = _KEYS.get(suffix)
                if parse is None:
                    problems.append(f"{key} is unknown{_nearest(suffix)}")
                    continue
                try:
                    given[suffix] = parse(value)
                except ValueError as exc:
                    problems.append(f"{key}: {exc}")
        if problems:
            raise OptionRejected(problems)
        return cls._from(given)

    @classmethod
    def _from(cls, given: Mapping[str, Any]) -> ContainerOptions:
        hardened = given.get("hardening", True)
        host = dict(HARDENED) if hardened else {}
        for key, engine_key in _HOST_FIELDS.items():
            value = given.get(f"hostconfig.{key}")
            if value is not None:
                host[engine_key] = value
        tls = EngineTls(*(given.get(f"tls.{part}.file", "") for part in ("ca", "cert", "key")))
        return cls(
            hardened=hardened,
            keeps_leftovers=given.get("leftovers", False),
            stop_grace_s=given.get("stopgrace", 0.0),
            network=given.get("hostconfig.networkmode", ""),
            user=given.get("hostconfig.user", ""),
            labels=given.get("hostconfig.labels", {}),
            host=host,
            tls=tls if given.get("tls.enabled", False) else None,
        )


def _flattened(tree: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield what is set below a section, each by its whole name."""
    if tree is None:
        return
    known_section = path.count(".") == 1 or path.lower().split(".", 2)[2] in _SECTIONS
    if known_section and isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flattened(value, f"{path}.{key}")
    else:
        yield path, tree


def _text(value: object) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a text")
    return str(value)


def _flag(value: object) -> bool:
    match str(value).strip().lower():
        case "true" | "on" | "yes" | "1":
            return True
        case "false" | "off" | "no" | "0":
            return False
    raise ValueError(f"{value!r} is neither true nor false")


def _keep(value: object) -> bool:
    if value not in ("remove", "keep"):
        raise ValueError(f"{value!r} is neither remove nor keep")
    return value == "keep"


def _number(value: object, *, least: int = 0, most: int | None = None) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"-?\d+", text) or int(text) < least:
        raise ValueError(f"{value!r} is not a whole number from {least}")
    if most is not None and int(text) > most:
        raise ValueError(f"{value!r} is above {most}")
    return int(text)


def _seconds(value: object) -> float:
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write seconds or 500ms, 2s, 1m")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def _texts(value: object) -> list[str]:
    if isinstance(value, str):  # from an environment variable
        return value.replace(",", " ").split()
    if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return list(value)
    raise ValueError(f"{value!r} is not a list of texts")


def _pairs(value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(key): "" if text is None else _text(text) for key, text in value.items()}
    raise ValueError(f"{value!r} is not a mapping")


def _log_config(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not a mapping")
    parts = {str(key).lower(): part for key, part in value.items()}
    if not parts.keys() <= {"type", "config"}:
        raise ValueError("only Type and Config are known")
    return {"Type": _text(parts.get("type", "")), "Config": _pairs(parts.get("config") or {})}


def _ulimits(value: object) -> list[dict[str, Any]]:
    limits = []
    for text in _texts(value):
        match = _ULIMIT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not name=soft or name=soft:hard")
        limits.append({"Name": match[1], "Soft": int(match[2]), "Hard": int(match[3] or match[2])})
    return limits


_anything = str
_unlimited_allowed = partial(_number, least=-1)

_HOST: Mapping[str, tuple[str, Callable[[object], Any]]] = {
    "BlkioWeight": ("BlkioWeight", partial(_number, most=1000)),
    "CapAdd": ("CapAdd", _texts),
    "CapDrop": ("CapDrop", _texts),
    "CgroupParent": ("CgroupParent", _text),
    "CpuPeriod": ("CpuPeriod", _number),
    "CpuQuota": ("CpuQuota", _unlimited_allowed),
    "CpuShares": ("CpuShares", _number),
    "Cpuset": ("CpusetCpus", _text),
    "CpusetCPUs": ("CpusetCpus", _text),
    "CpusetMEMs": ("CpusetMems", _text),
    "Dns": ("Dns", _texts),
    "DnsSearch": ("DnsSearch", _texts),
    "ExtraHosts": ("ExtraHosts", _texts),
    "IpcMode": ("IpcMode", _text),
    "LogConfig": ("LogConfig", _log_config),
    "Memory": ("Memory", _number),
    "MemorySwap": ("MemorySwap", _unlimited_allowed),
    "MemorySwappiness": ("MemorySwappiness", partial(_number, most=100)),
    "OomKillDisable": ("OomKillDisable", _flag),
    "PidMode": ("PidMode", _text),
    "PidsLimit": ("PidsLimit", _unlimited_allowed),
    "ReadonlyRootfs": ("ReadonlyRootfs", _flag),
    "Runtime": ("Runtime", _text),
    "SecurityOpt": ("SecurityOpt", _texts),
    "Tmpfs": ("Tmpfs", _pairs),
    "UTSMode": ("UTSMode", _text),
    "Ulimits": ("Ulimits", _ulimits),
}
"""Key of the configuration → what the engine calls it, and how to read it."""

_HOST_FIELDS = {key.lower(): engine_key for key, (engine_key, _) in _HOST.items()}
_SPELLINGS: Mapping[str, Callable[[object], Any]] = {
    "attachStdout": _flag,  # without effect: output is always followed
    "hardening": _flag,
    "leftovers": _keep,
    "stopGrace": _seconds,
    "tls.enabled": _flag,
    "tls.ca.file": _anything,
    "tls.cert.file": _anything,
    "tls.key.file": _anything,
    "hostConfig.NetworkMode": _text,
    "hostConfig.User": _text,
    "hostConfig.Labels": _pairs,
    **{f"hostConfig.{key}": parse for key, (_, parse) in _HOST.items()},
}
_KEYS = {spelling.lower(): parse for spelling, parse in _SPELLINGS.items()}
_SECTIONS = frozenset({"hostconfig", "tls", "tls.ca", "tls.cert", "tls.key"})


def _nearest(key: str) -> str:
    spellings = {spelling.lower(): spelling for spelling in _SPELLINGS}
    found = difflib.get_close_matches(key, spellings, n=1)
    return f"; did you mean {spellings[found[0]]}?" if found else ""
