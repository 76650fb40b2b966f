"""Ask the kernel who is at the far end of a local connection.

Room:      runtimes   (imports runtimes.api; used by peer.chaincode and the backends)
Loop:      none: a few reads of /proc, a millisecond at most
Fabric:    none; Fabric recognises chaincode by TLS certificate only
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from runtimes.api import Origin, TcpOrigin, UnixOrigin

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MAPPED = bytes(10) + b"\xff\xff"


class SocketOwner(NamedTuple):
    """What the kernel's table says about one end of a connection."""

    uid: int
    inode: int


def connecting_socket(origin: TcpOrigin) -> SocketOwner | None:
    """Return the owner of the end that connected, None if it is not on this machine or closed."""
    for table, text in zip(_TABLES, _search_texts(origin), strict=True):
        try:
            rows = table.read_text("ascii")
        except FileNotFoundError:  # a kernel without IPv6
            continue
        at = rows.find(text) if text else -1
        if at >= 0:
            # after the addresses: state, queues, timer, retransmits, uid, timeout, inode
            fields = rows[at + len(text) : rows.index("\n", at)].split()
            owner = SocketOwner(uid=int(fields[4]), inode=int(fields[6]))
            return owner if owner.inode else None
    return None


def owner_uid(origin: Origin) -> int | None:
    """Return the user id at the far end, None if it cannot be told."""
    match origin:
        case UnixOrigin(uid=uid):
            return uid
        case TcpOrigin():
            owner = connecting_socket(origin)
            return owner.uid if owner else None


def holds_connection(pids: Iterable[int], origin: TcpOrigin) -> bool:
    """Tell whether one of the processes has the end that connected open."""
    owner = connecting_socket(origin)
    if owner is None:
        return False
    target = f"socket:[{owner.inode}]"
    return any(target in _descriptors(pid) for pid in pids)


def descends_from(pid: int, ancestor: int) -> bool:
    """Tell whether a process is `ancestor` or below it."""
    while pid > 0 and pid != ancestor:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
        pid = int(stat[stat.rindex(b")") + 2 :].split()[1])
    return pid > 0


def process_ids() -> list[int]:
    """Return all processes this one can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _descriptors(pid: int) -> Iterator[str]:
    """Yield what each descriptor of a process refers to."""
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                yield os.readlink(f"/proc/{pid}/fd/{fd}")
            except FileNotFoundError:  # closed meanwhile
                continue
    except OSError:  # it has gone
        return


def _search_texts(origin: TcpOrigin) -> tuple[str, str]:
    """Return the row's two addresses as /proc/net/tcp and tcp6 write them.

    A dual-stack socket shows IPv4 addresses in the second table, mapped into IPv6.
    """
    ends = [(_packed(host), port) for host, port in (origin.remote, origin.local)]
    is_v4 = all(address.startswith(_MAPPED) for address, _ in ends)
    v4 = " ".join(_as_written(address[12:], port) for address, port in ends) if is_v4 else ""
    return v4, " ".join(_as_written(address, port) for address, port in ends)


def _packed(host: str) -> bytes:
    try:
        return _MAPPED + socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])


def _as_written(address: bytes, port: int) -> str:
    words = [address[at : at + 4] for at in range(0, len(address), 4)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return f"{b''.join(words).hex().upper()}:{port:04X}"
