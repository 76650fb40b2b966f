"""Tell whether a connection comes from a chaincode's own processes.

Room:      runtimes.process   (imports runtimes.origin, keeper)
Loop:      Trio; reads of /proc that may take milliseconds happen in a thread
Lifetime:  none
Fabric:    none

Only descent and session count here. Both are kept by the kernel; the mark in the environment, by
which strays are found and killed, could be copied by any process of the same user.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from runtimes.api import Origin, TcpOrigin, UnixOrigin
from runtimes.origin import holds_connection
from runtimes.process.keeper import process_table, read_process, session_tree

PAUSES_S = (0.0, 0.005, 0.02)
"""Before each look for a socket: one that is just being handed over is in no table."""


async def owns(leader: int, origin: Origin) -> bool:
    """Tell whether `origin` is `leader`, in its session, or below one that is."""
    match origin:
        case UnixOrigin(pid=pid):
            return _belongs(pid, leader)
        case TcpOrigin():
            for pause in PAUSES_S:
                await trio.sleep(pause)
                if await trio.to_thread.run_sync(
                    _holds_connection, leader, origin, abandon_on_cancel=True
                ):
                    return True
            return False


def _belongs(pid: int, leader: int) -> bool:
    while pid > 0 and (row := read_process(pid)) is not None:
        if leader in (row.pid, row.session):
            return True
        pid = row.ppid
    return False


def _holds_connection(leader: int, origin: TcpOrigin) -> bool:
    return holds_connection(_likeliest_first(leader), origin)


def _likeliest_first(leader: int) -> Iterator[int]:
    yield leader
    yield from session_tree(leader, process_table())
