"""Accept connections and hold them.

Room:      peer.rpc   (used by listener and server)
Loop:      Trio waits, asyncio speaks HTTP/2
Lifetime:  connection
Fabric:    internal/pkg/comm/server.go (release-2.5)
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from trio_asyncio import aio_as_trio

from peer.rpc import http2

log = logging.getLogger("peer.rpc")

HANDSHAKE_S = 5.0


async def accept(
    hold: Callable[[trio.SocketStream], Awaitable[None]],
    listeners: list[trio.SocketListener],
    connections: trio.Nursery,
    accepting: trio.CancelScope,
) -> None:
    """Hold every connection that comes in, each in a task of `connections`, while `accepting`."""
    with accepting:
        await trio.serve_listeners(hold, listeners, handler_nursery=connections)


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
        await aio_as_trio(_speak)(sock, protocol, tls, begin_s)


async def _speak(
    sock: socket.socket, protocol: http2.Protocol, tls: ssl.SSLContext | None, begin_s: float
) -> None:
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_S if tls else None,
        )
    except ConnectionResetError:  # somebody looked whether the peer can be reached
        log.debug("connection ended before it began")
        return
    except (TimeoutError, OSError) as exc:
        log.warning("connection failed before it began: %s", exc)
        return
    try:
        async with asyncio.timeout(begin_s):
            await protocol.begun.wait()
        await protocol.lost.wait()
    except TimeoutError:
        log.warning("connection closed: no call within %g s", begin_s)
    finally:
        http2.close_connection(protocol, "the peer closed the connection")
        with suppress(TimeoutError):  # TLS says goodbye, and the other side may not answer
            await asyncio.wait_for(protocol.lost.wait(), http2.GOODBYE_S)
        transport.abort()
        await protocol.lost.wait()
