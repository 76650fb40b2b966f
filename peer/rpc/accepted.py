"""Accept connections and hold them.

Room:      peer.rpc   (used by listener and server)
Loop:      Trio; the protocols are asyncio's
Lifetime:  connection
Fabric:    internal/pkg/comm/server.go (release-2.5)
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Awaitable, Callable

import trio
from trio_asyncio import run_aio_future

from peer.rpc import http2
from peer.rpc.transport import SocketTransport

log = logging.getLogger("peer.rpc")

HANDSHAKE_S = 5
BURST = 8
PER_S = 100.0
"""Connections let in at once, and by the second after that. Each costs milliseconds, and who is
there already is not to notice that others come and go."""


async def accept(
    hold: Callable[[trio.SocketStream], Awaitable[None]],
    listeners: list[trio.SocketListener],
    connections: trio.Nursery,
    accepting: trio.CancelScope,
    pace: Pace,
) -> None:
    """Hold every connection that comes in, each in a task of `connections`, while `accepting`."""
    paced = [_Listener(each, pace) for each in listeners]
    with accepting:
        await trio.serve_listeners(hold, paced, handler_nursery=connections)


class Pace:
    """How fast connections are let in."""

    def __init__(self) -> None:
        self._full = -math.inf  # when `BURST` may come again

    def charge(self, connections: int = 1) -> None:
        """Count connections, or what somebody did that is as bad as so many."""
        now = trio.current_time()
        self._full = max(self._full, now) + connections / PER_S

    async def turn(self) -> None:
        """Wait until one more may come."""
        self.charge()
        await trio.sleep(max(self._full - BURST / PER_S - trio.current_time(), 0))


class _Listener(trio.abc.Listener[trio.SocketStream]):
    """A listener that takes its time, but for those that have left already."""

    def __init__(self, listener: trio.SocketListener, pace: Pace) -> None:
        self._listener = listener
        self._pace = pace

    async def accept(self) -> trio.SocketStream:
        """Accept a connection once it may come."""
        while True:
            stream = await self._listener.accept()
            if not _has_left(stream):
                break
            stream.socket.close()
        try:
            await self._pace.turn()
        except trio.Cancelled:
            stream.socket.close()
            raise
        return stream

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()


def _has_left(stream: trio.SocketStream) -> bool:
    """Tell whether a connection that nobody has read from is over."""
    with socket.socket(fileno=os.dup(stream.socket.fileno())) as sock:
        try:
            return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


async def hold(
    stream: trio.SocketStream,
    protocol: http2.Protocol,
    tls: ssl.SSLContext | None,
    *,
    begin_s: float,
) -> None:
    """Speak HTTP/2 until the connection is over, or has not begun in time.

    Args:
        stream: taken over; the socket is closed when this returns.
        begin_s: how long the far end may take to what sets `protocol.begun`, seconds.

    Cancellation: closes the connection.
    """
    with socket.socket(fileno=stream.socket.detach()) as sock:  # also if it is cancelled here
        sock.setblocking(False)
        async with trio.open_nursery() as tasks:
            transport = SocketTransport(sock, tasks)
            try:
                if tls is None:
                    transport.set_protocol(protocol)
                    protocol.connection_made(transport)
                    tasks.start_soon(transport.run)
                else:
                    await _begin_tls(transport, protocol, tls, tasks)
                await _last(protocol, begin_s)
            except ConnectionResetError:  # somebody looked whether the peer can be reached
                log.debug("connection ended before it began")
            except OSError as exc:
                log.warning("connection failed before it began: %s", exc)
            finally:
                transport.abort()


async def _begin_tls(
    transport: SocketTransport,
    protocol: http2.Protocol,
    tls: ssl.SSLContext,
    tasks: trio.Nursery,
) -> None:
    loop = asyncio.get_running_loop()
    handshake = loop.create_future()
    layer = SSLProtocol(
        loop, protocol, tls, handshake, server_side=True, ssl_handshake_timeout=HANDSHAKE_S
    )
    transport.set_protocol(layer)
    layer.connection_made(transport)
    tasks.start_soon(transport.run)
    await run_aio_future(handshake)


async def _last(protocol: http2.Protocol, begin_s: float) -> None:
    try:
        with trio.move_on_after(begin_s) as beginning:
            await protocol.begun.wait()
        if beginning.cancelled_caught:
            log.warning("connection closed: no call within %g s", begin_s)
        else:
            await protocol.lost.wait()
    finally:
        http2.close_connection(protocol, "the peer closed the connection")
        with trio.move_on_after(http2.GOODBYE_S, shield=True):  # TLS may wait for an answer
            await protocol.lost.wait()
