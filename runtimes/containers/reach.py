"""Whether a chaincode in its container can reach the peer at all.

Room:      runtimes.containers   (imports engine, network; used by runtime)
Loop:      Trio
Lifetime:  as long as the backend
Fabric:    none: a chaincode that cannot, is silent until the start-up limit

The first chaincode that joins a network tries its address from inside; the others can rely on it.
"""

from __future__ import annotations

import logging
import os
import stat

import trio

from runtimes.api import PEER_HOST, PEER_PORT, ImagePlan, StartFailed
from runtimes.containers.engine import Engine, EngineRefused
from runtimes.containers.network import socket_of

log = logging.getLogger("runtimes.containers")

PROBE_LIMIT_S = 5.0
"""How long an address may take to answer."""
_UNREACHABLE = 1
"""The exit code of a probe that says so; any other tells something about the probe."""


class Reach:
    """Knows from which networks the peer has been reached."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reached: set[tuple[str, str]] = set()

    async def check(
        self, container: str, *, network: str, peer_address: str, plan: ImagePlan
    ) -> None:
        """Return unless it is certain that the address cannot be reached.

        A Unix socket is looked at, a TCP address is tried in the running container. An image that
        lacks the program for it, or a chaincode that has ended already, leave the question open.

        Raises:
            StartFailed: with the address and the reason.
            RuntimeUnavailable: the engine does not answer.

        Cancellation: the probe ends with the container.
        """
        if path := socket_of(peer_address):
            _check_socket(path)
            return
        host, _, port = peer_address.rpartition(":")
        host = host.strip("[]")
        if (network, host) in self._reached:
            return
        known = {PEER_HOST: host, PEER_PORT: port}
        reason = await self._try(container, [known.get(word, word) for word in plan.probe])
        if reason:
            raise StartFailed(
                f"the chaincode cannot reach the peer at {peer_address} "
                f"from its network {network}: {reason}"
            )
        if reason is not None:
            self._reached.add((network, host))

    async def _try(self, container: str, argv: list[str]) -> str | None:
        """Return why it failed, nothing if it did not, None if that cannot be told."""
        with trio.move_on_after(PROBE_LIMIT_S):
            try:
                code, said = await self._engine.execute(container, argv)
            except EngineRefused as exc:
                log.debug("cannot look from inside %s: %s", container, exc)
                return None
            lines = said.split("\n")
            if code == _UNREACHABLE:
                return next((line.strip() for line in reversed(lines) if line.strip()), "refused")
            if code:
                log.debug("cannot look from inside %s: exit code %d: %s", container, code, said)
            return "" if code == 0 else None
        return f"no answer within {PROBE_LIMIT_S:g} s"


def _check_socket(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as exc:
        raise StartFailed(f"the chaincode cannot reach the peer at unix://{path}: {exc}") from exc
    if not (stat.S_ISSOCK(mode) and mode & stat.S_IWOTH):
        raise StartFailed(
            f"the chaincode cannot reach the peer at unix://{path}: it is no socket that every "
            f"user may write to (mode {stat.filemode(mode)})"
        )
