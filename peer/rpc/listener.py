"""Listeners for chaincodes.

Room:      peer.rpc   (implements peer.chaincode.connections.Listeners)
Loop:      Trio accepts, asyncio speaks HTTP/2
Lifetime:  a listener lives as long as the context that opened it, its connections too
Fabric:    internal/pkg/comm/server.go (release-2.5)
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import grpclib.server
import trio
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler

from peer.chaincode.connections import Serve
from peer.chaincode.stream import MAX_MESSAGE_BYTES, PeerEnd
from peer.config.values import join_address
from peer.rpc import accepted, http2
from peer.rpc.streams import GrpcStream
from runtimes.api import Origin, TcpOrigin, UnixOrigin
from runtimes.origin import owner_uid

log = logging.getLogger("peer.rpc")

REGISTER = "/protos.ChaincodeSupport/Register"
FIRST_CALL_S = 10.0
"""How long a connection may go without a call; a library makes its first at once."""
WINDOW_BYTES = 1 << 24
"""Flow control of a connection; a single stream has 4 MiB."""
UNIX_SERVER_NAME = "localhost"
"""Whom libraries expect behind a Unix socket when they speak TLS on it."""
MAX_CONNECTIONS = 16
"""Of one user, so that no other can take a launch's place. A launch needs one; the rest is slack
for libraries that connect again."""


_IP_FREEBIND = 15  # of Linux; the socket module does not name it


class OpenListener:
    """An address chaincodes can dial."""

    def __init__(self, address: str, accepting: trio.CancelScope) -> None:
        self.address = address
        self._accepting = accepting

    def stop_accepting(self) -> None:
        """Let nobody else in; what is connected stays."""
        self._accepting.cancel()


class ChaincodeListeners:
    """Opens listeners for `protos.ChaincodeSupport`.

    Args:
        socket_dir: private directory for Unix sockets; a socket's path may have 107 bytes.
        tls: returns, for the host it is to be reached under, a server context that demands a
            client certificate; None without TLS.
        limit: bytes of the largest message.
        ping_s: silence after which a connection is pinged, seconds.
        ping_timeout_s: how long the answer may take, seconds.
        first_call_s: how long a connection may take to its first call, seconds.
    """

    def __init__(
        self,
        socket_dir: Path,
        *,
        tls: Callable[[str], ssl.SSLContext] | None = None,
        limit: int = MAX_MESSAGE_BYTES,
        ping_s: float = 7200.0,
        ping_timeout_s: float = 20.0,
        first_call_s: float = FIRST_CALL_S,
    ) -> None:
        self._socket_dir = socket_dir
        self._tls = tls
        self._limit = limit
        self._first_call_s = first_call_s
        self._pings = Configuration(
            http2_connection_window_size=WINDOW_BYTES,
            _keepalive_time=ping_s,
            _keepalive_timeout=ping_timeout_s,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=ping_s / 2,
        )
        self._numbers = count(1)

    @asynccontextmanager
    async def open(
        self,
        serve: Serve,
        *,
        unix: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = "",
    ) -> AsyncIterator[OpenListener]:
        """Listen on a Unix socket of its own, or on a TCP port.

        Without a port it is any free one, and `host` an IP address that need not be there yet. With
        a name that is what chaincodes dial.

        Raises:
            OSError: the address is taken or not ours.
        """
        dialled = UNIX_SERVER_NAME if unix else name or host
        tls = self._tls(dialled) if self._tls is not None else None
        if unix:
            path = self._socket_dir / f"{next(self._numbers)}.sock"
            listeners, address = [await _bind_unix(path)], f"unix://{path}"
        else:
            listeners = await _bind_tcp(host, port)
            bound, free_port = listeners[0].socket.getsockname()[:2]
            address = join_address(name or bound, free_port)
        accepting = trio.CancelScope()
        try:
            async with trio.open_nursery() as connections:
                places = defaultdict[int | None, trio.Semaphore](
                    lambda: trio.Semaphore(MAX_CONNECTIONS)
                )
                hold = partial(self._hold, serve, connections, places, tls)
                connections.start_soon(
                    accepted.accept, hold, listeners, connections, accepting, accepted.Pace()
                )
                yield OpenListener(address, accepting)
                connections.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()
            if unix:
                path.unlink(missing_ok=True)

    async def _hold(
        self,
        serve: Serve,
        connections: trio.Nursery,
        places: defaultdict[int | None, trio.Semaphore],
        tls: ssl.SSLContext | None,
        stream: trio.SocketStream,
    ) -> None:
        """Hold one connection to its end."""
        try:
            origin = _origin(stream.socket)
        except OSError:
            stream.socket.close()  # it is gone already
            return
        uid = owner_uid(origin)
        free = places[uid]
        try:
            free.acquire_nowait()
        except trio.WouldBlock:
            log.warning("connection refused: user %s has %d open already", uid, MAX_CONNECTIONS)
            stream.socket.close()
            return
        try:
            await self._serve_connection(serve, connections, origin, tls, stream)
        except Exception:
            log.exception("a connection of user %s failed", uid)
        finally:
            free.release()

    async def _serve_connection(
        self,
        serve: Serve,
        connections: trio.Nursery,
        origin: Origin,
        tls: ssl.SSLContext | None,
        stream: trio.SocketStream,
    ) -> None:
        called = trio.Event()
        methods = {
            REGISTER: Handler(
                partial(self._register, serve, connections, origin, called),
                Cardinality.STREAM_STREAM,
                bytes,
                bytes,
            )
        }
        protocol = http2.server_protocol(methods, self._pings, called)
        await accepted.hold(stream, protocol, tls, begin_s=self._first_call_s)

    async def _register(
        self,
        serve: Serve,
        connections: trio.Nursery,
        origin: Origin,
        called: trio.Event,
        call: grpclib.server.Stream[Any, Any],
    ) -> None:
        """Serve one `Register` call; runs in asyncio."""
        called.set()
        await call.send_initial_metadata()
        h2_stream = http2.h2_stream(call)
        far_end = PeerEnd(origin, http2.client_certificate(h2_stream))
        stream = GrpcStream(h2_stream, far_end, limit=self._limit)
        connections.start_soon(stream.serve, serve)
        await stream.write_until_served()


def _origin(sock: trio.socket.SocketType) -> Origin:
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("iII", credentials)
        return UnixOrigin(pid=pid, uid=uid)
    return TcpOrigin(remote=sock.getpeername()[:2], local=sock.getsockname()[:2])


async def _bind_tcp(host: str, port: int) -> list[trio.SocketListener]:
    if port:
        return await trio.open_tcp_listeners(port, host=host)
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # an engine may give the machine this address only with the first container
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        await sock.bind((host, 0))
        sock.listen(MAX_CONNECTIONS)
    except BaseException:
        sock.close()
        raise
    return [trio.SocketListener(sock)]


async def _bind_unix(path: Path) -> trio.SocketListener:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.bind(os.fspath(path))
        os.chmod(path, 0o666)  # for a container's user; the directory keeps others out
        sock.listen(MAX_CONNECTIONS)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)
