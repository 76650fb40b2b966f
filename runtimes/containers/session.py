"""Whose container it is, and whether that peer still lives.

Room:      runtimes.containers   (imports runtimes.holding; used by runtime)
Loop:      Trio
Lifetime:  as long as the backend
Fabric:    none; a Fabric peer leaves its containers when it is killed

Everything a peer makes carries its name, the session that made it, and where that session's lock
is: a file the kernel unlocks when the peer ends, in whatever way.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtimes.api import RuntimeSettings, RuntimeUnavailable
from runtimes.containers.engine import Engine, EngineRefused, Found, Labels
from runtimes.containers.start_contract import stop_and_remove
from runtimes.holding import LOCK, is_locked, locked

log = logging.getLogger("runtimes.containers")

PEER = "io.triopeer.peer"
CCID = "io.triopeer.ccid"
SESSION = "io.triopeer.session"
LOCKED_BY = "io.triopeer.lock"
CONTENT = "io.triopeer.content"
"""Of an image: what it was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of one peer.

    Attributes:
        peer: ``<network>.<peer>``.
        place: ``host:path`` of the lock.
    """

    id: str
    peer: str
    place: str

    @property
    def labels(self) -> dict[str, str]:
        """What containers, networks and builds of this session carry."""
        return {PEER: self.peer, SESSION: self.id, LOCKED_BY: self.place}

    def owns(self, labels: Labels) -> bool:
        """Tell whether this session made it."""
        return labels.get(SESSION) == self.id

    def is_left_over(self, labels: Labels) -> bool:
        """Tell whether an ended session of this peer made it; not known of another machine."""
        if self.owns(labels) or labels.get(PEER) != self.peer:
            return False
        place = labels.get(LOCKED_BY, "")
        host, _, path = place.partition(":")
        return place == self.place or (host == _here() and not is_locked(Path(path)))


@contextmanager
def open_session(settings: RuntimeSettings) -> Iterator[Session]:
    """Lock the state directory for one session.

    Raises:
        RuntimeUnavailable: another peer uses it.
    """
    with locked(settings.state_dir):
        yield Session(
            id=secrets.token_hex(8),
            peer=f"{settings.network_id}.{settings.peer_id}",
            place=f"{_here()}:{settings.state_dir.absolute() / LOCK}",
        )


async def sweep(engine: Engine, session: Session, is_kept: Callable[[Found], bool]) -> None:
    """Remove what dead sessions of this peer have left, and nothing of one that lives.

    Args:
        is_kept: tells which containers stay all the same.

    Raises:
        RuntimeUnavailable: the engine does not answer, or cannot remove something.
    """
    label = f"{PEER}={session.peer}"
    try:
        for container in await engine.containers(label):
            if not session.is_left_over(container.labels):
                continue
            if is_kept(container):
                log.info("keeping container %s of a peer that was killed", container.name)
                continue
            log.warning("removing container %s of a peer that was killed", container.name)
            await stop_and_remove(engine, container.name)
        for network in await engine.networks(label):
            if session.is_left_over(network.labels):
                await engine.remove_network(network.name)
    except EngineRefused as exc:
        raise RuntimeUnavailable(f"what a killed peer left cannot be removed: {exc}") from exc


def _here() -> str:
    return socket.gethostname()
