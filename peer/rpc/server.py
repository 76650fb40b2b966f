"""Serve gRPC to whoever connects.

Room:      peer.rpc   (serves peer.services.api.Method; used by serving and orderer)
Loop:      Trio accepts and runs the calls, asyncio speaks HTTP/2
Lifetime:  peer; connections and calls are tasks below `Server.listen`
Fabric:    internal/pkg/comm/server.go, internal/peer/node/grpc_limiters.go (release-2.5)

Nothing a client does may cost more than these limits say: connections, calls on each, requests in
memory, calls being answered at once, and answers nobody reads. What is over a limit is refused at
once, and nobody else notices.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler
from h2.errors import ErrorCodes

from peer.config.values import join_address
from peer.errors import CallRefused, Code
from peer.metrics import GrpcMeters, Registry
from peer.rpc import accepted, http2, http2_server
from peer.rpc.calls import Call, Held, refused, timeout_of
from peer.rpc.served_stream import Headers, ServedStream
from peer.services.api import Caller, Method, Unary

log = logging.getLogger("peer.rpc")

CONTENT_TYPES = frozenset({b"application/grpc", b"application/grpc+proto"})
STREAM_WINDOW_BYTES = 1 << 20
CONNECTION_WINDOW_BYTES = 1 << 30
"""For all streams together, so that those that wait hold up no other; `Limits.held` bounds them."""

TRACEPARENT = 55
"""Bytes of it that mean anything; it is kept as long as the call."""
PENALTY = 20
"""Connections that may come later because of one that was closed for its resets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may do to a server.

    Attributes:
        max_recv: bytes of the largest request.
        max_send: bytes of the largest response.
        held: bytes of all requests in memory.
        concurrency: calls answered at once by service, such as ``/protos.Endorser``; 0: any number.
        connections: how many there may be; the one idle longest makes room for a new one, and
            before it those that have never called.
        streams: calls that may be open on one connection.
        calls: that may be open at all; the oldest without a request makes room for a new one.
        begin_s: how long a connection may take to say that it speaks HTTP/2, seconds.
        min_ping_s: shortest time between two pings of a client, seconds.
        ping_s: silence after which a client is pinged, seconds.
        ping_timeout_s: how long its answer may take, and how long it may leave what it was sent
            unacknowledged, seconds.
        stall_s: how long the response of a unary call may wait for a client that gives no credit
            for any of it, seconds.
        stream_stall_s: the same for each response of a stream; who follows blocks may be busy.
        grace_s: how long calls may take to end when the server stops, seconds.
    """

    max_recv: int = 100 * 1024 * 1024
    max_send: int = 100 * 1024 * 1024
    held: int = 400 * 1024 * 1024
    concurrency: Mapping[str, int] = field(default_factory=dict)
    connections: int = 500
    streams: int = 1000
    calls: int = 10_000
    begin_s: float = 10.0
    min_ping_s: float = 60.0
    ping_s: float = 7200.0
    ping_timeout_s: float = 20.0
    stall_s: float = 30.0
    stream_stall_s: float = 600.0
    grace_s: float = 5.0


class Server:
    """Serves methods on an address.

    Args:
        tls: None without TLS.
        meters: connections and calls are counted there.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        tls: ssl.SSLContext | None = None,
        limits: Limits = Limits(),
        meters: GrpcMeters | None = None,
    ) -> None:
        self.methods = {method.path: method for method in methods}
        self.limits = limits
        self.room = Held(limits.held)
        self.pace = accepted.Pace()
        self.meters = meters or GrpcMeters(Registry())
        self._tls = tls
        self._answering: Counter[str] = Counter()
        self._connections: dict[_Connection, None] = {}  # the one idle longest comes first
        self._calls: dict[Call, None] = {}  # the oldest first
        self._quiet = trio.Event()
        self._is_stopping = False
        self.pings = Configuration(
            http2_connection_window_size=CONNECTION_WINDOW_BYTES,
            http2_stream_window_size=STREAM_WINDOW_BYTES,
            _keepalive_time=limits.ping_s,
            _keepalive_timeout=limits.ping_timeout_s,
            _keepalive_permit_without_calls=True,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=limits.ping_s / 2,
        )

    @asynccontextmanager
    async def listen(self, host: str, port: int) -> AsyncIterator[str]:
        """Serve on an address, and tell which it is; port 0 is any free one.

        Leaving stops: nobody else is let in, clients are told to go elsewhere, calls that are being
        answered have `grace_s` to end, and then all connections are closed.

        Args:
            host: a name or an IP address; empty means every address of the machine.

        Raises:
            OSError: the address is taken or not ours.

        Cancellation: ends the calls at once.
        """
        listeners = await trio.open_tcp_listeners(port, host=host or None)
        accepting = trio.CancelScope()
        try:
            async with trio.open_nursery() as connections:
                connections.start_soon(
                    accepted.accept, self._hold, listeners, connections, accepting, self.pace
                )
                bound, free_port = listeners[0].socket.getsockname()[:2]
                try:
                    yield join_address(host or bound, free_port)
                finally:
                    accepting.cancel()
                    with trio.move_on_after(self.limits.grace_s, shield=True):
                        await self._drain()
                    connections.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()

    def slot(self, path: str) -> _Slot:
        """Return one of the places of a service, to be held while a call of it is answered.

        Raises:
            CallRefused: from entering it, where all are taken.
        """
        service = path.rpartition("/")[0]
        return _Slot(service, self._answering, self.limits.concurrency.get(service, 0))

    def call_begins(self, call: Call) -> bool:
        """Hear of a call; return whether there is a place for it."""
        if len(self._calls) >= self.limits.calls:
            oldest = next((each for each in self._calls if each.is_waiting), None)
            if oldest is None:
                return False
            del self._calls[oldest]
            oldest.give_way()
        self._calls[call] = None
        return True

    def call_ended(self, connection: _Connection, call: Call) -> None:
        """Hear of the end of a call."""
        self._calls.pop(call, None)
        if not connection.calls:
            self._connections[connection] = self._connections.pop(connection)
        if self._is_stopping and not any(each.calls for each in self._connections):
            self._quiet.set()

    def make_room(self, call: Call) -> bool:
        """Let the largest call that stands still give way, if it holds more than this one."""
        still = (each for each in self._calls if each.stands_still)
        largest = max(still, key=lambda each: each.held, default=call)
        if largest.held <= call.held:
            return False
        log.warning("a call of %s gives way: it held %d bytes", largest.method.path, largest.held)
        largest.give_way()
        return True

    async def _hold(self, stream: trio.SocketStream) -> None:
        """Hold one connection to its end."""
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:
            stream.socket.close()  # it is gone already
            return
        if not self._has_room():
            log.warning("connection refused: all %d are in use", self.limits.connections)
            stream.socket.close()
            return
        connection = _Connection(self, join_address(host, port))
        self._connections[connection] = None
        unread_ms = int(self.limits.ping_timeout_s * 1000)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
        begin_s = self.limits.begin_s
        try:
            with self.meters.connection():
                async with trio.open_nursery() as connection.tasks:
                    await accepted.hold(stream, connection.protocol, self._tls, begin_s=begin_s)
                    connection.tasks.cancel_scope.cancel()
        except Exception:
            log.exception("the connection of %s failed", connection.address)
        finally:
            del self._connections[connection]

    def _has_room(self) -> bool:
        """Tell whether one more connection may come; one that is idle makes room for it."""
        if len(self._connections) < self.limits.connections:
            return True
        idle = [each for each in self._connections if each.is_idle]
        if idle:
            min(idle, key=lambda each: each.has_called).send_away()  # of equals, the first
        return bool(idle)

    async def _drain(self) -> None:
        """Tell all clients to go, and wait until no call is left."""
        self._is_stopping = True
        for connection in self._connections:
            connection.stop()
        if any(each.calls for each in self._connections):
            await self._quiet.wait()


class _Slot:
    """A place among the calls of a service that are being answered."""

    def __init__(self, service: str, answering: Counter[str], limit: int) -> None:
        self._service = service
        self._answering = answering
        self._limit = limit

    def __enter__(self) -> None:
        if self._limit and self._answering[self._service] >= self._limit:
            limit = f"exceeding concurrency limit ({self._limit})"
            text = f"too many requests for {self._service}, {limit}"
            log.warning("%s", text)
            raise CallRefused(Code.RESOURCE_EXHAUSTED, text)
        self._answering[self._service] += 1

    def __exit__(self, *_: object) -> None:
        self._answering[self._service] -= 1


class _Connection(AbstractHandler):
    """One connection and its calls.

    Attributes:
        address: ``host:port`` of the client.
        tasks: where its calls run.
        has_called: it has been of use at least once.
    """

    tasks: trio.Nursery

    def __init__(self, server: Server, address: str) -> None:
        self.address = address
        self.calls: set[Call] = set()
        self.has_called = False
        self._server = server
        self._is_closing = False
        self._resets = http2_server.ResetPolicy()
        pings = http2_server.PingPolicy(server.limits.min_ping_s)
        streams = server.limits.streams
        self.protocol = http2_server.ServerProtocol(
            self, server.pings, streams=streams, pings=pings
        )

    @property
    def is_idle(self) -> bool:
        """It is there for no request, and not on its way out already."""
        is_quiet = all(call.is_waiting and call.stands_still for call in self.calls)
        return is_quiet and not self._is_closing

    def send_away(self) -> None:
        """Close the connection; the client may come again."""
        self._is_closing = True
        if not self.protocol.begun.is_set():
            self.tasks.cancel_scope.cancel()
            return
        self.protocol.go_away()
        http2.close_connection(self.protocol, "others need the place")
        if self.protocol.transport.get_write_buffer_size():
            self.protocol.transport.abort()  # it would stay until it reads

    def stop(self) -> None:
        """Take no more calls, and end those that would not end by themselves."""
        self._is_closing = True
        self.protocol.go_away()
        for call in self.calls:
            call.stop()

    def accept(
        self,
        stream: http2.H2Stream,
        headers: Any,
        release_stream: Callable[[], None],
    ) -> None:
        """Begin a call; called by the connection with the client's headers."""
        assert isinstance(stream, ServedStream)
        if self._is_closing:
            stream.refuse()
            release_stream()
            return
        try:
            call = self._call(stream, dict(headers))
            if not self._server.call_begins(call):
                raise _NoCall(refused(Code.RESOURCE_EXHAUSTED, "too many calls at once"))
        except _NoCall as exc:
            stream.finish(exc.headers)
            release_stream()
            return
        self.calls.add(call)
        self.has_called = True
        self.tasks.start_soon(self._run, call)

    def cancel(self, stream: http2.H2Stream) -> None:
        """Do nothing: the call hears of it, too."""

    def close(self) -> None:
        """Do nothing: every call hears of the connection's end, too."""

    async def _run(self, call: Call) -> None:
        try:
            await call.run()
        finally:
            self.calls.remove(call)
            self._server.call_ended(self, call)
        if not call.is_taken_back:
            self._resets.answered()
        elif not self._resets.allows() and not self._is_closing:
            self._is_closing = True
            self._server.pace.charge(PENALTY)
            self.protocol.go_away(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_resets")
            http2.close_connection(self.protocol, "the client takes back too many calls")

    def _call(self, stream: ServedStream, headers: dict[bytes, bytes]) -> Call:
        if headers.get(b":method") != b"POST":
            raise _NoCall([(":status", "405")])
        if headers.get(b"content-type", b"").partition(b";")[0] not in CONTENT_TYPES:
            raise _NoCall([(":status", "415")])
        path = headers.get(b":path", b"").decode(errors="replace")
        method = self._server.methods.get(path)
        if method is None:
            service, _, name = path.lstrip("/").rpartition("/")
            text = f"unknown method {name} for service {service}"
            raise _NoCall(refused(Code.UNIMPLEMENTED, text))
        try:
            timeout_s = timeout_of(headers)
        except ValueError as exc:
            raise _NoCall(refused(Code.INVALID_ARGUMENT, str(exc))) from exc
        certificate = http2.client_certificate(stream) or b""
        limits = self._server.limits
        return Call(
            stream,
            method,
            Caller(self.address, certificate, headers.get(b"traceparent", b"")[:TRACEPARENT]),
            timeout_s=timeout_s,
            max_recv=limits.max_recv,
            max_send=limits.max_send,
            stall_s=limits.stall_s if isinstance(method, Unary) else limits.stream_stall_s,
            slot=self._server.slot,
            room=self._server.room,
            make_room=self._server.make_room,
            meters=self._server.meters,
            sent=self.protocol.pings.sent,
        )


class _NoCall(Exception):
    """A request that is answered with these headers alone."""

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        super().__init__(headers)
