"""Whose connection it is: real chaincodes that connect in every way they can."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from runtimes.api import Instance, Origin, TcpOrigin, UnixOrigin
from runtimes.origin import owner_uid
from tests.contract.harness import LIMIT_S, SERVES, ProcessHarness, processes_of

CONNECTS = f"""#!{sys.executable} -IS
import os, signal, socket, sys
address = sys.argv[1].partition("=")[2]
who = "WHO"
if who == "child":
    if os.fork(): os.wait()
elif who == "session":
    if os.fork(): os.wait()
    os.setsid()
elif who == "daemon":
    if os.fork(): signal.pause()
    os.setsid()
    if os.fork(): os._exit(0)
    while os.getppid() == os.getsid(0): pass
if address.startswith("unix://"):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address.removeprefix("unix://"))
else:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
connection.recv(1)
"""


@asynccontextmanager
async def connected(
    harness: ProcessHarness, backend: object, listening: socket.socket, dial: str, who: str
) -> AsyncIterator[tuple[Instance, Origin]]:
    """Start a chaincode that connects, and give it with the origin of its connection."""
    server = trio.socket.from_stdlib_socket(listening)
    with server:
        server.listen()
        spec = replace(harness.spec(CONNECTS.replace("WHO", who)), peer_address=dial)
        instance = await backend.start(spec)  # type: ignore[attr-defined]
        with trio.fail_after(LIMIT_S):
            connection, _ = await server.accept()
        with connection:
            yield instance, origin_of(connection)


def origin_of(connection: trio.socket.SocketType) -> Origin:
    if connection.family == socket.AF_UNIX:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("3i", credentials)
        return UnixOrigin(pid=pid, uid=uid)
    return TcpOrigin(remote=connection.getpeername()[:2], local=connection.getsockname()[:2])


@pytest.mark.parametrize("who", ["main", "child", "session", "daemon"])
@pytest.mark.parametrize("carrier", ["unix", "v4", "v6", "v4 by a v6 socket", "v4 to a v6 socket"])
async def test_only_its_own_instance_owns_a_connection(
    harness: ProcessHarness, carrier: str, who: str
) -> None:
    listening, dial = listener(harness, carrier)
    async with harness.open() as backend:
        other = await backend.start(harness.spec(SERVES, "other:1"))
        async with connected(harness, backend, listening, dial, who) as (instance, origin):
            assert owner_uid(origin) == os.getuid()
            # a daemon has left the tree and the session; it is killed, but not trusted
            assert await instance.owns(origin) == (who != "daemon")
            assert not await other.owns(origin)
            await instance.stop()
            assert not await instance.owns(origin)
            await processes_of(harness, 1)


def listener(harness: ProcessHarness, carrier: str) -> tuple[socket.socket, str]:
    """Return a bound socket and the address under which to dial it."""
    match carrier:
        case "unix":
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(path := str(harness.directory / "peer.sock"))
            return listening, f"unix://{path}"
        case "v4" | "v4 by a v6 socket":
            listening = socket.socket(socket.AF_INET)
            listening.bind(("127.0.0.1", 0))
            host = "127.0.0.1" if carrier == "v4" else "::ffff:127.0.0.1"
            return listening, f"{host}:{listening.getsockname()[1]}"
        case _:
            if not socket.has_dualstack_ipv6():
                pytest.skip("this machine has no IPv6")
            listening = socket.socket(socket.AF_INET6)
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listening.bind(("::", 0))
            host = "::1" if carrier == "v6" else "127.0.0.1"
            return listening, f"{host}:{listening.getsockname()[1]}"


async def test_a_connection_of_nobody_is_nobodys(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        nowhere = TcpOrigin(remote=("127.0.0.1", 1), local=("127.0.0.1", 2))
        assert not await instance.owns(nowhere)
        assert owner_uid(nowhere) is None
