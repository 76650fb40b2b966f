"""Dial gRPC servers: peers, orderers, whatever speaks it.

Room:      peer.rpc   (implements peer.remote; used by outgoing, assembly and cli)
Loop:      Trio calls, asyncio speaks HTTP/2; one crossing to open a call, none to receive
Lifetime:  connection
Fabric:    internal/pkg/comm/client.go (release-2.5)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import trio
from grpclib.config import Configuration
from grpclib.utils import Wrapper
from trio_asyncio import aio_as_trio

from fabric_protos.codec import decode
from fabric_protos.errors import DecodeError
from fabric_protos.gateway import ErrorDetail as ErrorDetailMessage
from fabric_protos.google.rpc import Status
from peer.config.values import split_address
from peer.errors import CallFailed, Code, ErrorDetail
from peer.remote import MAX_MESSAGE_BYTES, Endpoint
from peer.rpc import http2
from peer.rpc.tls import client_context

CONNECT_TIMEOUT_S = 3.0
PING_S = 70.0
"""Above the minute that Fabric's servers allow: a little early would count as too often."""
PING_TIMEOUT_S = 20.0
WINDOW_BYTES = 2**24


@asynccontextmanager
async def dial(
    endpoint: Endpoint,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    limit: int = MAX_MESSAGE_BYTES,
) -> AsyncIterator[GrpcConnection]:
    """Connect to a gRPC server; leaving the context ends every call and the connection.

    A connection that is lost is opened again by the next call. The loop of `open_loop` must run.

    Args:
        connect_timeout_s: for the connection with its handshake, each time there is none.
        limit: bytes of the largest message that is sent or taken.

    Raises:
        CallFailed: UNAVAILABLE, there is nobody, or not whom `endpoint` asks for;
            INVALID_ARGUMENT, `endpoint` cannot be used.

    Cancellation: nothing stays open.
    """
    try:
        channel = await aio_as_trio(_channel)(endpoint)
    except (OSError, ValueError) as exc:
        raise CallFailed(Code.INVALID_ARGUMENT, f"{endpoint}: {exc}") from exc
    connection = GrpcConnection(endpoint, channel, connect_timeout_s=connect_timeout_s, limit=limit)
    try:
        await connection.connect()
        yield connection
    finally:
        with trio.CancelScope(shield=True):
            await channel.aclose()


class GrpcConnection:
    """See `peer.remote.Connection`; made by `dial`."""

    def __init__(
        self, endpoint: Endpoint, channel: http2.Channel, *, connect_timeout_s: float, limit: int
    ) -> None:
        self.endpoint = endpoint
        self._channel = channel
        self._connect_timeout_s = connect_timeout_s
        self._limit = limit

    async def connect(self) -> None:
        """Open the connection, unless it is open.

        Raises:
            CallFailed: UNAVAILABLE.
        """
        with trio.move_on_after(self._connect_timeout_s):
            with self._unavailable():
                await aio_as_trio(self._channel.__connect__)()
            return
        text = f"no connection within {self._connect_timeout_s:g} s"
        raise CallFailed(Code.UNAVAILABLE, f"{self.endpoint}: {text}")

    async def unary(self, path: str, request: bytes, *, timeout_s: float | None = None) -> bytes:
        """Send one request and return the one response; see `Connection.unary`."""
        responses: list[bytes] = []
        with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
            async with self._open(path, timeout_s) as call:
                await call.send_only(request)
                async for response in call:
                    responses.append(response)
                    if len(responses) > 1:
                        break  # there is no end to what somebody might send
            if len(responses) != 1:
                count = "several" if responses else "no"
                raise CallFailed(Code.INTERNAL, f"{path}: {count} responses to a request")
            return responses[0]
        raise CallFailed(Code.DEADLINE_EXCEEDED, "context deadline exceeded")

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[GrpcCall]:
        """Open a call for messages both ways; see `Connection.stream`."""
        async with self._open(path, None) as call:
            yield call

    @asynccontextmanager
    async def _open(self, path: str, timeout_s: float | None) -> AsyncIterator[GrpcCall]:
        await self.connect()
        opened: http2.OpenStream | None = None
        with trio.move_on_after(self._connect_timeout_s), self._unavailable():
            opened = await aio_as_trio(http2.open_stream)(self._channel, path, timeout_s)
        if opened is None:
            text = f"{self.endpoint}: no more calls at once on this connection"
            raise CallFailed(Code.RESOURCE_EXHAUSTED, text)
        try:
            yield GrpcCall(opened.stream, self._limit)
        finally:
            opened.close()

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, http2.H2Error) as exc:  # a ValueError: no name of a host
            raise CallFailed(Code.UNAVAILABLE, f"{self.endpoint}: {exc}") from exc


class GrpcCall:
    """See `peer.remote.Call`.

    It takes the place of grpclib's input buffer, which forgets what has arrived when a server ends
    a call before the client does, as orderers do. A message is acknowledged once it is taken, so a
    reader that does not read stops the server.
    """

    def __init__(self, stream: http2.H2Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._deframer = http2.Deframer(limit)
        self._messages: deque[bytes] = deque()
        self._unacknowledged = 0
        self._is_over = False
        self._failure: CallFailed | None = None
        self._changed = trio.Event()
        self._sending = Wrapper()
        early, eof, error = http2.take_over_input(stream, self)
        for data, size in early:
            self.add(data, size)
        if eof:
            self.eof()
        if error is not None:
            self.cancel(error)

    async def send(self, message: bytes) -> None:
        """Send a message; see `Call.send`."""
        try:
            await self._send(self._frame(message))
        except _CallOver as exc:
            ended = CallFailed(Code.UNAVAILABLE, "the server has ended the call")
            raise (self._failure or ended) from exc

    async def send_only(self, message: bytes) -> None:
        """Send the one message of a unary call; if that is over, iterating tells how it ended.

        Raises:
            CallFailed: RESOURCE_EXHAUSTED, the message is too large.
        """
        frame = self._frame(message)
        with suppress(_CallOver):
            await self._send(frame)
            await self.end()

    async def end(self) -> None:
        """Say that no more messages come; see `Call.end`."""
        with suppress(_CallOver, http2.H2Error):  # then the server will send no more, either
            await aio_as_trio(self._end_sending)()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                raise StopAsyncIteration
            self._changed = trio.Event()
            await self._changed.wait()
        message = self._messages.popleft()
        self._acknowledge()
        return message

    def add(self, data: bytes, size: int) -> None:
        """Take in DATA; called by the connection."""
        self._unacknowledged += size
        if not self._is_over:
            try:
                self._deframer.feed(data, self._messages.append)
            except http2.MessageRefused as exc:
                self._over(CallFailed(Code[exc.code], str(exc)))
        self._acknowledge()
        self._changed.set()

    def eof(self) -> None:
        """The server sends no more; called by the connection."""
        outcome = http2.outcome(self._stream)
        if outcome is None:
            self._over(CallFailed(Code.INTERNAL, "the server ended the call without a status"))
        elif outcome.status.value != Code.OK:
            self._over(_failure(outcome))
        elif not self._deframer.is_between_messages:
            self._over(CallFailed(Code.INTERNAL, "the call ended in the middle of a message"))
        else:
            self._over(None)

    def unacked_size(self) -> int:
        """Return the bytes not acknowledged yet; called when the stream is released."""
        return self._unacknowledged

    def cancel(self, error: Exception) -> None:
        """End the call; the connection calls it when it, or the stream, broke."""
        outcome = http2.outcome(self._stream)
        if outcome is not None and outcome.status.value != Code.OK:
            self._over(_failure(outcome))
        else:
            self._over(CallFailed(Code.UNAVAILABLE, str(error)))

    def _over(self, failure: CallFailed | None) -> None:
        if not self._is_over:
            self._is_over, self._failure = True, failure
            self._sending.cancel(_CallOver())
            self._changed.set()

    def _acknowledge(self) -> None:
        if not self._messages and self._unacknowledged:
            http2.acknowledge(self._stream, self._unacknowledged)
            self._unacknowledged = 0

    def _frame(self, message: bytes) -> bytes:
        if len(message) > self._limit:
            text = f"trying to send message larger than max ({len(message)} vs. {self._limit})"
            raise CallFailed(Code.RESOURCE_EXHAUSTED, text)
        return http2.grpc_frame(message)

    async def _send(self, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._is_over:
            raise _CallOver
        try:
            if not http2.send_now(self._stream, frame):
                await aio_as_trio(self._send_when_possible)(frame)
        except http2.H2Error as exc:
            raise _CallOver from exc

    async def _send_when_possible(self, frame: bytes) -> None:
        with self._sending:
            await http2.send(self._stream, frame)

    async def _end_sending(self) -> None:
        with self._sending:
            if not self._stream.connection.is_closing():
                await self._stream.end()


class _CallOver(Exception):
    """Nothing can be sent any more."""


def _failure(outcome: http2.Outcome) -> CallFailed:
    try:
        attached = decode(Status, outcome.details).details
        messages = [decode(ErrorDetailMessage, each.value) for each in attached]
    except DecodeError:
        messages = []  # details are the server's own affair; the status counts
    details = [ErrorDetail(each.address, each.msp_id, each.message) for each in messages]
    return CallFailed(Code(outcome.status.value), outcome.message, details)


async def _channel(endpoint: Endpoint) -> http2.Channel:
    host, port = split_address(endpoint.address)
    config = Configuration(
        http2_connection_window_size=WINDOW_BYTES,
        ssl_target_name_override=(endpoint.tls.server_name if endpoint.tls else "") or None,
        _keepalive_time=PING_S,
        _keepalive_timeout=PING_TIMEOUT_S,
        _http2_max_pings_without_data=0,
        _http2_min_sent_ping_interval_without_data=PING_S / 2,
    )
    tls = client_context(endpoint.tls) if endpoint.tls is not None else None
    return http2.Channel(host, port, ssl=tls, config=config, codec=http2.BytesCodec())
