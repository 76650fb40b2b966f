"""Serve HTTP/1.1, one request a connection, to clients of any kind.

Room:      peer.operations   (imports peer.config; used by endpoint)
Loop:      Trio
Lifetime:  as long as the context that opened it; a connection at most a minute
Fabric:    core/operations/system.go (release-2.5)

On h11, which reads and writes HTTP and does no I/O, so that connections, limits and TLS are Trio's.
aiohttp, which talks to engines, would do: on the other loop, with a crossing for each request, and
without a limit on how slowly a request may come.

What a client can hold up is bounded: bytes and seconds of its request, seconds of its answer, and
the number of connections. One too many ends the oldest whose request is not in yet, so that a crowd
of silent clients keeps nobody out.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import h11
import trio

from peer.config.values import join_address
from peer.operations.messages import Answer, Request, Respond

log = logging.getLogger("peer.operations")

REQUEST_S = 10.0
"""From the connection to the end of the request, as in Fabric; TLS is part of it."""
ANSWER_S = 10.0
"""The client's time to take the answer."""
GRACE_S = 2.0
"""What answers in the making are given when the peer closes."""
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 64
_CHUNK_BYTES = 16 * 1024
_LINGER_BYTES = 1 << 20


Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@asynccontextmanager
async def open_http(
    respond: Respond, *, host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Listen, and yield the address that is listened on, ``host:port``.

    Args:
        respond: answers a request; what it raises is logged and answered with status 500.
        port: 0 for any free one.

    Raises:
        OSError: the address is taken or not ours.

    Cancellation: ends every connection at once. Leaving it otherwise lets answers be finished, at
        most `GRACE_S` seconds.
    """
    listeners = await trio.open_tcp_listeners(port, host=host or None)
    server = _Server(respond, tls)
    accepting = trio.CancelScope()
    try:
        async with trio.open_nursery() as connections:
            connections.start_soon(server.accept, listeners, connections, accepting)
            yield join_address(*listeners[0].socket.getsockname()[:2])
            accepting.cancel()
            server.end_waiting()
            connections.cancel_scope.deadline = trio.current_time() + GRACE_S
    finally:
        for listener in listeners:
            listener.socket.close()


class _Server:
    def __init__(self, respond: Respond, tls: ssl.SSLContext | None) -> None:
        self._respond = respond
        self._tls = tls
        self._open = 0
        self._waiting: dict[trio.CancelScope, None] = {}  # for their requests; the oldest first

    async def accept(
        self,
        listeners: list[trio.SocketListener],
        connections: trio.Nursery,
        accepting: trio.CancelScope,
    ) -> None:
        with accepting:
            await trio.serve_listeners(self._hold, listeners, handler_nursery=connections)

    def end_waiting(self) -> None:
        """End the connections whose request is not in yet."""
        for scope in self._waiting:
            scope.cancel()

    async def _hold(self, stream: trio.SocketStream) -> None:
        """Hold one connection to its end."""
        if self._open >= MAX_CONNECTIONS:
            if not self._waiting:
                log.warning("connection refused: %d are being answered", self._open)
                await trio.aclose_forcefully(stream)
                return
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
        self._open += 1
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
            log.debug("connection lost: %s", exc)
        except Exception:
            log.exception("connection ended by a bug")
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, socket: trio.SocketStream) -> None:
        stream: Stream = socket
        if self._tls is not None:
            stream = trio.SSLStream(socket, self._tls, server_side=True, https_compatible=True)
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        request = refusal = None
        with trio.move_on_after(REQUEST_S) as waiting:
            self._waiting[waiting] = None
            try:
                request = await _receive(http, stream)
            except h11.RemoteProtocolError as exc:
                log.info("request refused: %s", exc)
                refusal = Answer(exc.error_status_hint)
            finally:
                self._waiting.pop(waiting, None)
        if request is not None:
            encoded = _encoded(http, await self._answer(request), request.method)
        elif refusal is not None:
            encoded = _encoded(http, refusal)
        else:
            return  # it said nothing, or too slowly
        with trio.move_on_after(ANSWER_S):
            await stream.send_all(encoded)
            if refusal is not None:
                await _drain(socket)
            await stream.aclose()

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self._respond(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR)


async def _receive(http: h11.Connection, stream: Stream) -> Request | None:
    """Return the request; None when the client leaves without one.

    Raises:
        h11.RemoteProtocolError: it is none, or too large.
    """
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[])
                await stream.send_all(http.send(go_on) or b"")
            http.receive_data(bytes(await stream.receive_some(_CHUNK_BYTES)))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                raise h11.RemoteProtocolError(f"over {MAX_BODY_BYTES} bytes", status)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            path = head.target.decode("ascii").partition("?")[0]
            shown = stream.getpeercert(True) if isinstance(stream, trio.SSLStream) else None
            return Request(head.method.decode("ascii"), path, bytes(body), shown is not None)
        else:
            return None


def _encoded(http: h11.Connection, answer: Answer, method: str = "") -> bytes:
    headers = [("Connection", "close")]
    if answer.status != HTTPStatus.NO_CONTENT:
        headers.append(("Content-Length", str(len(answer.body))))
    if answer.body:
        headers.append(("Content-Type", answer.content_type))
    reason = HTTPStatus(answer.status).phrase
    events: list[h11.Event] = [
        h11.Response(status_code=answer.status, headers=headers, reason=reason.encode())
    ]
    if answer.body and method != "HEAD":
        events.append(h11.Data(data=answer.body))
    return b"".join(http.send(event) or b"" for event in (*events, h11.EndOfMessage()))


async def _drain(socket: trio.SocketStream) -> None:
    """Read on for a while: closed with unread bytes, a socket takes the answer back."""
    await socket.send_eof()
    left = _LINGER_BYTES
    while left > 0 and (data := await socket.receive_some(_CHUNK_BYTES)):
        left -= len(data)
