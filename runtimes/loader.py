"""Find a backend by the name under which config chooses it.

Room:      runtimes   (imports runtimes.api; used by peer.ground and peer.cli)
Loop:      none

Ours are listed here, as a search among everything that is installed takes longer than all else that
it takes to start one. Others are entry points of group ``peer.runtimes`` and need no edit here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import cast

from runtimes.api import BackendFactory, RuntimeFailure, RuntimeUnavailable

GROUP = "peer.runtimes"
OWN = {name: f"runtimes.{name}" for name in ("docker", "podman", "process")}
"""Names of our backends, and the modules whose `backend` they are."""


class UnknownRuntime(RuntimeFailure):
    """No backend of that name is installed."""

    def __init__(self, name: str, installed: Sequence[str]) -> None:
        self.name = name
        self.installed = tuple(installed)
        super().__init__(name, self.installed)

    def __str__(self) -> str:
        installed = ", ".join(self.installed) or "none"
        return f"there is no runtime {self.name!r}; installed are: {installed}"


def load(name: str) -> BackendFactory:
    """Return the factory of the backend called `name`.

    Raises:
        UnknownRuntime: not installed.
        RuntimeUnavailable: installed, but something it imports is missing.
    """
    try:
        if name in OWN:
            return cast("BackendFactory", import_module(OWN[name]).backend)
        return _installed(name)
    except (ImportError, AttributeError) as exc:
        raise RuntimeUnavailable(f"runtime {name!r} cannot be loaded: {exc}") from exc


def _installed(name: str) -> BackendFactory:
    from importlib.metadata import entry_points  # slow to import, and needed once

    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in installed:
        raise UnknownRuntime(name, sorted({*OWN, *installed}))
    return cast("BackendFactory", installed[name].load())
