"""One call that is served, from its headers to its trailers.

Room:      peer.rpc   (serves peer.services.api.Method; used by server)
Loop:      Trio; the connection hands over what arrives, from the asyncio side
Lifetime:  call
Fabric:    internal/pkg/comm/server.go (release-2.5)

What arrives is counted against what the server may hold until it has been dealt with, and credit
for more is given to the client only then. Where there is no room left, of the streams and
unfinished requests that stand still the largest gives way, so that they keep nobody out for ever.
"""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress

import trio

from fabric_protos.codec import encode
from fabric_protos.errors import DecodeError
from fabric_protos.gateway import ErrorDetail as Detail
from fabric_protos.google.protobuf import Any
from fabric_protos.google.rpc import Status
from peer.errors import CallRefused, Code
from peer.metrics import GrpcMeters
from peer.reading import read_apart
from peer.rpc import http2, http2_server
from peer.rpc.served_stream import HEADERS, Headers, ServedStream
from peer.services.api import Caller, Decode, Method, Streaming, Unary

log = logging.getLogger("peer.rpc")

STOPPING = "the peer is stopping"
_STOPPED = CallRefused(Code.UNAVAILABLE, STOPPING)
STANDSTILL_S = 5.0
PORTION_BYTES = 1 << 16
"""A request of which less than that has come in so many seconds stands still."""
MAX_TEXT = 2048
"""Characters of a sentence in trailers: many clients take 8 KiB of trailers at most."""
MAX_DETAILS = 4
DETAIL_TYPE = "type.googleapis.com/gateway.ErrorDetail"

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

Slot = Callable[[str], AbstractContextManager[None]]


class Held:
    """How many bytes of requests are in memory, and may be."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    def take(self, size: int) -> bool:
        """Take room; return whether there was any."""
        if size > self._free:
            return False
        self._free -= size
        return True

    def give(self, size: int) -> None:
        """Give room back."""
        self._free += size


class Call:
    """One call.

    Attributes:
        is_taken_back: the client has reset it soon, and nothing had been sent.

    Args:
        stall_s: how long a response may wait for the client without getting any further, seconds.
        slot: raises `CallRefused` where too many calls of its service are being answered.
        room: what all requests are held in.
        make_room: lets a call that stands still and holds more than this one give way; tells
            whether there was any.
        meters: the call is counted there.
        sent: hears that something was sent.

    Attributes:
        held: bytes of its requests in memory.
    """

    def __init__(
        self,
        stream: ServedStream,
        method: Method,
        caller: Caller,
        *,
        timeout_s: float,
        max_recv: int,
        max_send: int,
        stall_s: float,
        slot: Slot,
        room: Held,
        make_room: Callable[[Call], bool],
        meters: GrpcMeters,
        sent: Callable[[], None],
    ) -> None:
        self.method = method
        self.is_taken_back = False
        self._stream = stream
        self._caller = caller
        self._max_send = max_send
        self._stall_s = stall_s
        self._slot = slot
        self._room = room
        self._make_room = make_room
        self._meters = meters
        self._sent = sent
        self._deframer = http2.Deframer(min(max_recv, method.max_request))
        self._messages: deque[bytes] = deque()
        self.held = 0
        self._taken = 0
        self._began_at = self._moved_at = trio.current_time()
        self._unacknowledged = 0
        self._all_arrived = False
        self._has_begun = False
        self._has_headers = False
        self._has_ended = False
        self._is_gone = False
        self._is_stopping = False
        self._refusal: CallRefused | None = None
        self._arrived = trio.Event()
        self._writable = trio.Event()
        self._rest = memoryview(b"")  # of the message that is being sent
        self._scope = trio.CancelScope(deadline=self._began_at + timeout_s)
        stream.attach(self, self._write_on)

    def add(self, data: bytes, size: int) -> None:
        """Take in DATA; called by the connection."""
        self._unacknowledged += size
        if self._is_ending:
            return
        while not self._room.take(len(data)):
            if not self._make_room(self):
                self.refuse(Code.RESOURCE_EXHAUSTED, "the server holds too many requests already")
                return
        if (self.held + len(data)) // PORTION_BYTES > self.held // PORTION_BYTES:
            self._moved_at = trio.current_time()
        self.held += len(data)
        try:
            self._deframer.feed(data, self._messages.append)
        except http2.MessageRefused as exc:
            self.refuse(Code[exc.code], str(exc))
            return
        self._acknowledge()
        self._arrived.set()

    def eof(self) -> None:
        """The client sends no more; called by the connection."""
        self._all_arrived = True
        self._arrived.set()

    def cancel(self, error: Exception) -> None:
        """End the call, as the client has; called by the connection, also when it is lost."""
        self._is_gone = True
        self._scope.cancel()

    def refuse(self, code: Code, text: str) -> None:
        """End the call early and tell the client so."""
        self._refusal = self._refusal or CallRefused(code, text)
        self._scope.cancel()

    @property
    def is_waiting(self) -> bool:
        """Its first request is not in yet."""
        return not (self._has_begun or self._is_ending)

    @property
    def stands_still(self) -> bool:
        """It is a stream, or its request is not in yet, and next to nothing has come lately."""
        is_worked_on = self._has_begun and isinstance(self.method, Unary)
        is_slow = trio.current_time() - self._moved_at >= STANDSTILL_S
        return is_slow and not (is_worked_on or self._is_ending)

    @property
    def _is_ending(self) -> bool:
        return self._is_gone or self._refusal is not None

    def give_way(self) -> None:
        """End, and give the room back at once: others need the place."""
        self.refuse(Code.RESOURCE_EXHAUSTED, "the server has too many requests; others go first")
        self._messages.clear()
        self._deframer.clear()
        self._give_back(self.held)
        self._taken = 0

    def stop(self) -> None:
        """Take no more requests; end the call if it would not end by that."""
        if isinstance(self.method, Streaming):
            self._is_stopping = True
            self._arrived.set()
            if self.method.is_endless:
                self.refuse(Code.UNAVAILABLE, STOPPING)

    async def run(self) -> None:
        """Answer the call; whatever fails is told to the client and harms nobody else."""
        refusal: CallRefused | None = _STOPPED
        path, is_stream = self.method.path, isinstance(self.method, Streaming)
        self._meters.call_began(path, is_stream=is_stream)
        try:
            with self._scope:
                await trio.lowlevel.checkpoint_if_cancelled()  # it may be refused already
                refusal = await self._answer()
            if self._scope.cancelled_caught:
                late = CallRefused(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
                refusal = self._refusal or late
        finally:
            if not (self._is_gone or self._has_ended):
                self._end(refusal)
            self._give_back(self.held)
            self._stream.release(self._unacknowledged)
            code = Code.CANCELLED if self._is_gone else refusal.code if refusal else Code.OK
            took_s = trio.current_time() - self._began_at
            unanswered = self._is_gone and not (self._has_headers or self._has_ended)
            self.is_taken_back = unanswered and took_s < http2_server.RESET_S
            self._meters.call_ended(path, code, took_s, is_stream=is_stream)

    async def _answer(self) -> CallRefused | None:
        try:
            if isinstance(self.method, Unary):
                await self._answer_one(self.method)
            else:
                while not (self._messages or self._all_arrived or self._is_stopping):
                    await self._more()  # who asks for nothing takes no place
                self._has_begun = True
                with self._slot(self.method.path):
                    await self.method.call(self, self._send_response, self._caller)
        except CallRefused as exc:
            return exc
        except http2.H2Error:
            self._is_gone = True
        except Exception:
            log.exception("a call of %s failed", self.method.path)
            return CallRefused(Code.INTERNAL, "internal error; the log of the peer has it")
        return None

    async def _answer_one(self, method: Unary) -> None:
        while not self._all_arrived:
            await self._more()
        self._has_begun = True
        if len(self._messages) != 1 or not self._deframer.is_between_messages:
            text = f"{len(self._messages)} requests where there must be one"
            raise CallRefused(Code.UNIMPLEMENTED, text)
        with self._slot(method.path):
            request = await _decoded(method.decode, self._messages.popleft())
            response = await method.call(request, self._caller)
        encoded = method.encode(response)
        if len(encoded) <= self._max_send and self._stream.respond(encoded):
            self._has_ended = True
            self._sent()
        else:
            await self._send(encoded)

    def __aiter__(self) -> Call:
        """Return itself: the requests of a streaming call."""
        return self

    async def __anext__(self) -> object:
        """Return the next request; the one before has been dealt with."""
        await trio.lowlevel.checkpoint()
        self._give_back(self._taken)
        self._taken = 0
        while not self._messages:
            if self._is_stopping or (self._all_arrived and self._deframer.is_between_messages):
                raise StopAsyncIteration
            if self._all_arrived:
                raise CallRefused(Code.INVALID_ARGUMENT, "the last request is cut short")
            self._acknowledge()
            await self._more()
        message = self._messages.popleft()
        self._taken = http2.FRAME_HEADER + len(message)
        self._meters.message_received(self.method.path)
        return await _decoded(self.method.decode, message)

    def _give_back(self, size: int) -> None:
        self._room.give(size)
        self.held -= size

    async def _more(self) -> None:
        self._arrived = trio.Event()
        await self._arrived.wait()

    def _acknowledge(self) -> None:
        """Give credit for what has been taken, and for the parts of a message not complete yet."""
        if not self._messages and self._unacknowledged:
            self._stream.acknowledge(self._unacknowledged)
            self._unacknowledged = 0

    async def _send_response(self, response: object) -> None:
        await trio.lowlevel.checkpoint()
        await self._send(self.method.encode(response))
        self._meters.message_sent(self.method.path)
        self._stream.flush()

    async def _send(self, message: bytes) -> None:
        """Send a message, as fast as the client takes it; the last of it with the next flush."""
        if len(message) > self._max_send:
            text = f"trying to send message larger than max ({len(message)} vs. {self._max_send})"
            raise CallRefused(Code.RESOURCE_EXHAUSTED, text)
        if not self._has_headers:
            self._stream.queue_headers(HEADERS)
            self._has_headers = True
        self._rest = memoryview(http2.grpc_frame(message))
        self._stalled = trio.CancelScope(deadline=trio.current_time() + self._stall_s)
        try:
            with self._stalled:
                while not self._write():
                    self._stream.flush()
                    self._writable = trio.Event()
                    await self._writable.wait()
                return
        finally:
            self._rest = memoryview(b"")
        raise CallRefused(Code.DEADLINE_EXCEEDED, "the response is not being read")

    def _write(self) -> bool:
        """Write as much of the message as may go now; return whether that was all.

        Raises:
            H2Error: the stream or its connection is closed.
        """
        if size := self._stream.write(self._rest):
            self._stalled.deadline = trio.current_time() + self._stall_s
            self._rest = self._rest[size:]
            self._sent()
        return not self._rest

    def _write_on(self) -> None:
        """Write on, as there may be room; called by the connection.

        What there is room for is taken before another call is asked, so that a little of it does
        not wake everybody.
        """
        if self._rest:
            with suppress(http2.H2Error):  # the call meets it, too
                if not self._write():
                    self._stream.flush()
                    return
            self._writable.set()

    def _end(self, refusal: CallRefused | None) -> None:
        code, text, details = Code.OK, "", b""
        if refusal is not None:
            code, text, details = refusal.code, refusal.message[:MAX_TEXT], _details(refusal)
        fields = http2_server.trailers(code, text, details)
        self._stream.finish(fields if self._has_headers else [*HEADERS, *fields])
        self._sent()


def timeout_of(headers: Mapping[bytes, bytes]) -> float:
    """Return how long a client waits, seconds.

    Raises:
        ValueError: ``grpc-timeout`` is malformed.
    """
    text = headers.get(b"grpc-timeout")
    if text is None:
        return math.inf
    if not (match := _TIMEOUT.fullmatch(text)):
        raise ValueError(f"malformed grpc-timeout: {text.decode(errors='replace')!r}")
    return int(match[1]) * _UNITS[match[2]]


def refused(code: Code, text: str) -> Headers:
    """Return all headers of a call that is refused before it begins."""
    return [*HEADERS, *http2_server.trailers(code, text[:MAX_TEXT], b"")]


async def _decoded(decode: Decode, message: bytes) -> object:
    try:
        return await read_apart(decode, message, len(message))
    except DecodeError as exc:
        raise CallRefused(Code.INVALID_ARGUMENT, f"the request cannot be read: {exc}") from exc


def _details(refusal: CallRefused) -> bytes:
    if not refusal.details:
        return b""
    details = [
        Detail(address=each.address, msp_id=each.msp_id, message=each.message[:MAX_TEXT])
        for each in refusal.details[:MAX_DETAILS]
    ]
    packed = [Any(type_url=DETAIL_TYPE, value=encode(each)) for each in details]
    status = Status(code=refusal.code, message=refusal.message[:MAX_TEXT], details=packed)
    return encode(status)
