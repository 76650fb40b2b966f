"""The backend's part of the configuration: ``vm.process``.

Room:      runtimes.process   (imports runtimes.api)
Loop:      none
Fabric:    none; keys are spelled like those of ``vm.docker``
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runtimes.api import OptionRejected

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """How chaincode processes are run.

    Attributes:
        stop_grace_s: ``stopGrace``; between SIGTERM and SIGKILL.
        open_files: ``openFiles``; descriptors of one process.
        memory_bytes: ``memory``; address space of one process, 0 = unlimited. Go, Java and Node
            reserve far more than they use.
        processes: ``processes``; processes and threads of the peer's user, 0 = unlimited.
        propagate_environment: ``propagateEnvironment``; names that chaincodes inherit.
        zygote: ``zygote``, ``auto`` or ``off``; fork Python chaincodes where that changes nothing.
    """

    stop_grace_s: float = 2.0
    open_files: int = 65_536
    memory_bytes: int = 0
    processes: int = 0
    propagate_environment: tuple[str, ...] = ()
    zygote: bool = True

    @classmethod
    def read(cls, vm: Mapping[str, object]) -> ProcessOptions:
        """Read ``vm.process`` out of the ``vm`` tree; keys are compared without regard to case.

        Raises:
            OptionRejected: with every problem found.
        """
        tree = vm.get("process")
        if tree is None:
            return cls()
        if not isinstance(tree, Mapping):
            raise OptionRejected(["vm.process must be a mapping"])
        values: dict[str, Any] = {}
        problems = []
        for key, value in tree.items():
            known = _KEYS.get(str(key).lower())
            if known is None:
                problems.append(f"vm.process.{key} is unknown{_nearest(str(key))}")
                continue
            spelling, field, parse = known
            try:
                values[field] = parse(value)
            except ValueError as exc:
                problems.append(f"vm.process.{spelling}: {exc}")
        if problems:
            raise OptionRejected(problems)
        return cls(**values)

    @property
    def limits(self) -> dict[str, int]:
        """Resource limits by their ``RLIMIT_`` name in lower case."""
        wanted = {"nofile": self.open_files, "as": self.memory_bytes, "nproc": self.processes}
        return {"core": 0} | {name: limit for name, limit in wanted.items() if limit}


def _seconds(value: object) -> float:
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write seconds or 500ms, 2s, 1m")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def _count(value: object) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"{value!r} is not a whole number from 0")
    return int(text)


def _at_least_64(value: object) -> int:
    count = _count(value)
    if count < 64:
        raise ValueError(f"{count} is below 64, too few to run anything")
    return count


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):  # from an environment variable
        return tuple(value.replace(",", " ").split())
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ValueError(f"{value!r} is not a list of names")


def _auto_or_off(value: object) -> bool:
    if value not in ("auto", "off", False):  # YAML reads a bare off as False
        raise ValueError(f"{value!r} is neither auto nor off")
    return value == "auto"


_KEYS: dict[str, tuple[str, str, Callable[[object], object]]] = {
    spelling.lower(): (spelling, field, parse)
    for spelling, field, parse in (
        ("stopGrace", "stop_grace_s", _seconds),
        ("openFiles", "open_files", _at_least_64),
        ("memory", "memory_bytes", _count),
        ("processes", "processes", _count),
        ("propagateEnvironment", "propagate_environment", _names),
        ("zygote", "zygote", _auto_or_off),
    )
}


def _nearest(key: str) -> str:
    found = difflib.get_close_matches(key.lower(), _KEYS, n=1)
    return f"; did you mean {_KEYS[found[0]][0]}?" if found else ""
