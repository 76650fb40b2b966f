"""Messages of gRPC streams, whose DATA frames go past h2.

Room:      fabric_protos   (imports grpc_messages, grpclib, h2; used by shim.transport and peer.rpc)
Loop:      asyncio's or trio-asyncio's; everything but `drain` is synchronous
Lifetime:  connection, and stream
Fabric:    none

h2 and grpclib hold the connection: preface, settings, headers, trailers, resets, errors, and the
first DATA of a stream. What is left of a DATA frame that is neither padded nor the last is flow
control, and that is counted here, in h2's own windows. A frame that is anything else, or does not
fit, goes to h2 as it came: h2 knows what is wrong with it.

grpclib and h2 are pinned exactly, because this module uses private names of both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import cast

from grpclib.protocol import Connection, H2Protocol, Stream
from h2.exceptions import ProtocolError, StreamClosedError
from h2.stream import StreamState

from .grpc_messages import PREFIX, Deframer

FRAME_HEAD = Struct(">HBHI")  # length in two parts, type and flags, stream
DATA = 0x0000
PING = 0x0600
PONG = 0x0601
WINDOW_UPDATE = 0x0800
PING_BYTES = 8
MAX_WINDOW = 2**31 - 1
WRITE_BYTES = 1 << 18
"""Handed to the transport at once; a transport that wants no more is asked before the next."""
CREDIT_SHARE = 16
"""Credit is given back in portions of a sixteenth of the window: a thousand small messages."""


class DirectProtocol(H2Protocol):
    """A connection that hands plain DATA frames to their streams, and the others to h2.

    What has not arrived completely is kept where h2 keeps it, so streams come and go at any time.
    """

    connection: _Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connection.direct = {}
        self.connection.takes_frames = False
        self.connection.may_write = True

    def data_received(self, data: bytes) -> None:
        if not self.connection.takes_frames:
            super().data_received(data)
            return
        frames = self.connection._connection.incoming_buffer
        if frames._data:
            frames._data += data
            if not _has_a_frame(frames._data):
                return
            data = bytes(frames._data)
            frames._data.clear()
        direct = self.connection.direct
        position, end = 0, len(data)
        while end - position >= FRAME_HEAD.size:
            high, low, kind, stream_id = FRAME_HEAD.unpack_from(data, position)
            start = position + FRAME_HEAD.size
            stop = start + (high << 8 | low)
            if stop > end:
                break
            position = stop
            if frames._headers_buffer:  # then the next frame must go on with the headers
                is_taken = False
            elif kind == DATA and stream_id in direct:
                is_taken = direct[stream_id].take(data, start, stop)
            else:
                is_taken = self.take_frame(kind, stream_id, data, start, stop)
            if not is_taken:
                if not self.connection.is_closing():
                    super().data_received(data[start - FRAME_HEAD.size : stop])
                if self.connection.is_closing():
                    return
        if position < end:
            frames._data += data[position:]
        for stream in [*direct.values()]:
            stream.end_read()

    def take_frame(self, kind: int, stream_id: int, data: bytes, start: int, stop: int) -> bool:
        """Take a frame that is no DATA of a direct stream; return False to leave it to h2.

        Args:
            kind: type and flags, a byte each.
            start: where its payload begins in `data`, which ends at `stop`.
        """
        if kind == WINDOW_UPDATE:
            return self._window_update(stream_id, data[start:stop])
        return kind == PING and self.take_ping(stream_id, data[start:stop])

    def take_ping(self, stream_id: int, payload: bytes) -> bool:
        """Answer a ping; Go's gRPC sends one with most messages. Return False to leave it to h2."""
        if stream_id or len(payload) != PING_BYTES or self.connection.is_closing():
            return False
        self.connection._transport.write(FRAME_HEAD.pack(0, len(payload), PONG, 0) + payload)
        return True

    def pause_writing(self) -> None:
        """Have everybody wait."""
        super().pause_writing()
        self.connection.may_write = False

    def resume_writing(self) -> None:
        """Wake who waits to write; grpclib wakes only those that wait for nothing else."""
        super().resume_writing()
        self.connection.may_write = True
        self._wake_writers()

    def _window_update(self, stream_id: int, payload: bytes) -> bool:
        """Take credit for the connection or a direct stream; return False to leave it to h2."""
        stream = self.connection.direct.get(stream_id)
        if stream_id and stream is None:
            return False
        target = self.connection._connection if stream is None else stream.h2_stream
        increment = int.from_bytes(payload, "big")
        window = target.outbound_flow_control_window + increment
        if len(payload) != 4 or not 0 < increment <= MAX_WINDOW or window > MAX_WINDOW:
            return False
        target.outbound_flow_control_window = window
        if stream is None:  # direct streams write at the end of the read
            self._wake_writers()
        return True

    def _wake_writers(self) -> None:
        """Let streams write, one after the other while there is credit; it may not be for all."""
        h2 = self.connection._connection
        for stream in [*self.processor.streams.values()]:
            if h2.outbound_flow_control_window <= 0:
                break
            stream.window_updated.set()


class _Connection(Connection):
    """grpclib's, and what its direct streams need to know.

    Attributes:
        direct: the streams of `Messages` that h2 has let DATA through for.
        takes_frames: h2 has seen how the connection began, frames may go past it.
        may_write: the transport wants more.
    """

    direct: dict[int, Messages]
    takes_frames: bool
    may_write: bool


class Messages:
    """Messages of one gRPC stream, in both directions, without waiting.

    It takes the place of grpclib's buffer, of its wrapper and of its event for new credit.
    A subclass says what an end means; `on_end` may be called again after `on_failure`.

    Args:
        stream: open; it belongs to a `DirectProtocol`.
        limit: bytes of the largest message that is accepted.
        is_direct: False leaves all frames to h2, with the same outcome; this is the reference.

    Attributes:
        queued: bytes that wait to be written.
        is_held: messages are being read; what is queued is written after the last of them.

    Raises:
        ProtocolError: the stream is over.
    """

    def __init__(self, stream: Stream, *, limit: int, is_direct: bool = True) -> None:
        assert stream.id is not None
        h2 = stream._h2_connection
        if stream.id not in h2.streams:
            raise StreamClosedError(stream.id)
        self.queued = 0
        self.h2_stream = h2.streams[stream.id]
        self._id = stream.id
        self._stream = stream
        self._connection = cast("_Connection", stream.connection)
        self._transport = stream._transport
        self._h2 = h2
        self._machine = self.h2_stream.state_machine
        self._window = self.h2_stream._inbound_window_manager
        self._shared_window = h2._inbound_flow_control_window_manager
        self._is_direct = is_direct
        self._deframer = Deframer(limit)
        self._deliver: Callable[[bytes], None] | None = None
        self._early = bytearray()
        self._has_ended = False
        self._unacknowledged = 0
        self._credit_step = self._find_credit_step()
        self.is_held = False
        self._outgoing: list[bytes] = []
        self._rest: bytes | memoryview = b""
        self._written: asyncio.Event | None = None  # while somebody waits for it
        self._take_over()

    def _take_over(self) -> None:
        stream, buffer, wrapper = self._stream, self._stream.buffer, self._stream.wrapper
        stream.buffer = self  # type: ignore[assignment]  # has the methods that are called
        stream.wrapper = self  # type: ignore[assignment]
        stream.window_updated = Waker(self.flush)  # type: ignore[assignment]
        while not buffer._unacked.empty():
            chunk = buffer._unacked.get_nowait()
            self.add(chunk.data, chunk.ack_size)
        if buffer._eof:
            self.eof()
        if wrapper is not None and wrapper._error is not None:
            self.cancel(wrapper._error)

    # What a subclass defines

    def on_end(self, error: Exception | None) -> None:
        """Hear that nothing more arrives: None at an orderly end, else what broke the stream."""
        raise NotImplementedError

    def on_failure(self, error: Exception) -> None:
        """Hear of a `MessageRefused`, or of what delivering a message raised.

        What comes after it is thrown away.
        """
        raise NotImplementedError

    # What a subclass calls

    def start(self, deliver: Callable[[bytes], None]) -> None:
        """Deliver what has arrived, and then every message in the call that brings it."""
        self._deliver = self._deliver or deliver
        early, self._early = bytes(self._early), bytearray()
        self._take(early, 0, len(early), 0)
        if self._has_ended:
            self.eof()

    def ignore(self) -> None:
        """Throw away what arrives from now on."""
        self._deliver = _ignore

    def queue(self, message: bytes) -> None:
        """Add a message to what `flush` writes."""
        self._outgoing += (PREFIX.pack(0, len(message)), message)
        self.queued += PREFIX.size + len(message)

    def post(self, message: bytes) -> None:
        """Queue a message and write what is queued, as `flush` does."""
        self.queue(message)
        if not self.is_held or self.queued >= WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is queued as far as it gets; credit and the transport call this again.

        While the connection reads, the answers wait for each other, up to `WRITE_BYTES`.
        """
        if self.is_held and self.queued < WRITE_BYTES:
            return
        try:
            while self.queued:
                room = min(
                    self._h2.outbound_flow_control_window,
                    self.h2_stream.outbound_flow_control_window,
                    WRITE_BYTES,
                )
                if room <= 0 or not self._connection.may_write or self._transport.is_closing():
                    break
                data = self._rest or b"".join(self._outgoing)
                if not self._rest:
                    self._outgoing.clear()
                if len(data) > room:
                    view = memoryview(data)
                    data, self._rest = view[:room], view[room:]
                else:
                    self._rest = b""
                self._write(data)
                self.queued -= len(data)
        except ProtocolError as exc:
            self.cancel(ConnectionError(f"error sending: {exc!r}"))
        if not self.queued and self._written is not None:
            self._written.set()

    def drop(self) -> None:
        """Forget what is queued."""
        self._outgoing.clear()
        self._rest = b""
        self.queued = 0
        if self._written is not None:
            self._written.set()

    async def drain(self) -> None:
        """Wait until everything is written, or dropped because the stream broke.

        Trailers are not to be sent before: they would end the stream for what still waits.
        """
        while self.queued:
            self._written = asyncio.Event()
            await self._written.wait()

    # What grpclib calls, on its buffer and on its wrapper

    def add(self, data: bytes, size: int) -> None:
        """Take DATA that h2 has let through."""
        if self._is_direct and self.h2_stream._expected_content_length is None:
            self._connection.direct[self._id] = self
            self._connection.takes_frames = True
        self._take(data, 0, len(data), size)

    def eof(self) -> None:
        """Take the end of the far side."""
        if self._deliver is None:
            self._has_ended = True
            return
        self._leave()
        is_whole = self._deframer.is_between_messages
        self.on_end(None if is_whole else EOFError("it ended in the middle of a message"))

    def unacked_size(self) -> int:
        """Return what has not been given credit for; called when the stream is released."""
        self._leave()
        size, self._unacknowledged = self._unacknowledged, 0
        return size

    def cancel(self, error: Exception) -> None:
        """Take the loss of the connection, or a reset of the stream."""
        self.drop()
        self._leave()
        self.on_end(error)

    # What the connection calls

    def take(self, data: bytes, start: int, stop: int) -> bool:
        """Take a plain DATA frame; return False to leave it to h2."""
        size, window, shared = stop - start, self._window, self._shared_window
        if (
            self._machine.state is not StreamState.OPEN
            or size > window.current_window_size
            or size > shared.current_window_size
            or size > self._h2.max_inbound_frame_size
        ):
            return False
        window.current_window_size -= size
        shared.current_window_size -= size
        self.is_held = True
        self._take(data, start, stop, size)
        return True

    def end_read(self) -> None:
        """Write the answers to what came in one read."""
        self.is_held = False
        if self.queued:
            self.flush()

    def _leave(self) -> None:
        self._connection.direct.pop(self._id, None)
        self.end_read()

    def _take(self, data: bytes, start: int, stop: int, size: int) -> None:
        self._unacknowledged += size
        if self._deliver is None:
            self._early += data[start:stop]  # gets no credit, so flow control bounds it
            return
        if self._deliver is not _ignore:
            try:
                self._deframer.feed(data, self._deliver, start, stop)
            except Exception as exc:
                self.ignore()
                self.on_failure(exc)
        if self._unacknowledged >= self._credit_step and not self._connection.is_closing():
            self._connection.ack(self._id, self._unacknowledged)
            self._unacknowledged = 0
            self._credit_step = self._find_credit_step()

    def _find_credit_step(self) -> int:
        largest = min(self._window.max_window_size, self._shared_window.max_window_size)
        return largest // CREDIT_SHARE

    def _write(self, data: bytes | memoryview) -> None:
        """Write DATA frames, for which there is credit."""
        size, step = len(data), self._h2.max_outbound_frame_size
        if not self._is_direct or self._machine.state not in _SENDS:
            for at in range(0, size, step):
                self._h2.send_data(self._id, data[at : at + step])
            self._connection.flush()
            return
        self._h2.outbound_flow_control_window -= size
        self.h2_stream.outbound_flow_control_window -= size
        frames: list[bytes | memoryview] = []
        for at in range(0, size, step):
            length = min(step, size - at)
            head = FRAME_HEAD.pack(length >> 8, length & 0xFF, DATA, self._id)
            frames += (head, data[at : at + length])
        self._transport.write(b"".join(frames))


_SENDS = (StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE)


class Waker:
    """Stands in a stream for the event that is set when more may be written."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.set = wake


def _has_a_frame(data: bytearray) -> bool:
    if len(data) < FRAME_HEAD.size:
        return False
    return len(data) >= FRAME_HEAD.size + int.from_bytes(data[:3], "big")


def _ignore(data: bytes) -> None:
    """Take a message that nobody wants."""
