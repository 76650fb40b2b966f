"""One stream of a connection that is served.

Room:      peer.rpc   (made by http2_server, used by server and calls)
Loop:      none; what is sent, is sent at once or handed to the connection
Lifetime:  call
Fabric:    none

The answer to most calls is one message that fits a frame. It leaves in one piece, headers, message
and trailers, without h2, which is only told that the stream is over. Anything else goes through h2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from grpclib.protocol import EventsProcessor, Stream
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError
from h2.stream import StreamClosedBy, StreamState
from hpack import Encoder, NeverIndexedHeaderTuple

from fabric_protos.data_frames import DATA, FRAME_HEAD, WINDOW_UPDATE, Waker
from peer.rpc import http2

Headers = Sequence[tuple[str, str]]

HEADERS: Headers = ((":status", "200"), ("content-type", "application/grpc+proto"))
MAX_FRAME_BYTES = 1 << 16
"""Some clients take frames of megabytes, which would fill the backlog at once."""


class Receiver(Protocol):
    """What a stream tells of its other side."""

    def add(self, data: bytes, size: int) -> None:
        """Take in DATA, `size` bytes of which are to be acknowledged."""
        ...

    def eof(self) -> None:
        """Hear that the other side sends no more."""
        ...

    def cancel(self, error: Exception) -> None:
        """Hear that the stream broke."""
        ...


class ServedStream(Stream):
    """A stream on which a client has called.

    grpclib's connection takes it for one of its own, and finds in it what it calls.
    """

    id: int

    def __init__(self, processor: EventsProcessor, stream_id: int) -> None:
        connection = processor.connection
        self.connection = connection
        self.id = stream_id
        self._h2_connection = connection._connection
        self._transport = connection._transport
        self._streams = processor.streams
        self._streams[stream_id] = self

    def attach(self, receiver: Receiver, wake: Callable[[], None]) -> None:
        """Tell `receiver` what arrives, and call `wake` whenever `write` may get further."""
        self.buffer = receiver  # type: ignore[assignment]  # of the buffer, only these are called
        self.wrapper = receiver  # type: ignore[assignment]
        self.window_updated = Waker(wake)  # type: ignore[assignment]  # of the event, only `set` is

    def release(self, unacknowledged: int = 0) -> None:
        """Forget the stream, and give credit for what has come and was not taken."""
        del self._streams[self.id]
        self.acknowledge(unacknowledged)
        stream = self._h2_connection.streams.get(self.id)
        if stream is not None and stream.closed:  # h2 would keep it until it takes a call itself
            self._forget(stream.closed_by)

    def take(self, data: bytes, is_last: bool) -> bool:
        """Take a plain DATA frame; return False to leave it to h2."""
        h2, size = self._h2_connection, len(data)
        stream, shared = h2.streams.get(self.id), h2._inbound_flow_control_window_manager
        if (
            stream is None
            or stream.state_machine.state is not StreamState.OPEN
            or stream._expected_content_length is not None
            or size > stream._inbound_window_manager.current_window_size
            or size > shared.current_window_size
        ):
            return False
        stream._inbound_window_manager.current_window_size -= size
        shared.current_window_size -= size
        self.buffer.add(data, size)
        if is_last:
            stream.state_machine.state = StreamState.HALF_CLOSED_REMOTE
            self.buffer.eof()
        return True

    def acknowledge(self, size: int) -> None:
        """Give the client credit for data that has been dealt with."""
        h2 = self._h2_connection
        if self.connection.is_closing():
            return
        if self.id in h2.streams:
            self.connection.ack(self.id, size)
        elif credit := h2._inbound_flow_control_window_manager.process_bytes(size):
            head = _frame_head(4, WINDOW_UPDATE, 0)
            self._transport.write(head + credit.to_bytes(4, "big"))

    def respond(self, message: bytes) -> bool:
        """Answer a request that is in whole, successfully, and end the stream.

        Returns: whether the answer went out; where not, nothing did.
        """
        h2, connection = self._h2_connection, self.connection
        stream, size = h2.streams.get(self.id), http2.FRAME_HEADER + len(message)
        if (
            stream is None
            or stream.state_machine.state is not StreamState.HALF_CLOSED_REMOTE
            or connection.is_closing()
            or not connection.write_ready.is_set()
            or h2.encoder.table_size_changes  # to be told at the head of the next headers
            or size > h2.max_outbound_frame_size
            or size > stream.outbound_flow_control_window
            or size > h2.outbound_flow_control_window
        ):
            return False
        h2.outbound_flow_control_window -= size
        self._forget(StreamClosedBy.SEND_END_STREAM)
        connection.flush()  # what h2 has to say of this stream comes first
        self._transport.write(
            b"".join(
                (
                    _frame_head(len(_HEADERS), _HEADERS_KIND, self.id),
                    _HEADERS,
                    _frame_head(size, DATA, self.id),
                    http2.grpc_frame(message),
                    _frame_head(len(_SUCCESS), _TRAILERS_KIND, self.id),
                    _SUCCESS,
                )
            )
        )
        return True

    def _forget(self, closed_by: StreamClosedBy | None) -> None:
        h2 = self._h2_connection
        del h2.streams[self.id]
        h2._closed_streams[self.id] = closed_by

    def queue_headers(self, headers: Headers, *, ends: bool = False) -> None:
        """Send headers, or trailers, with the next `flush`.

        Raises:
            H2Error: the stream or its connection is closed.
        """
        h2 = self._h2_connection
        if self.connection.is_closing() or self.id not in h2.streams:  # h2 would open it again
            raise StreamClosedError(self.id)
        h2.send_headers(self.id, headers, end_stream=ends)

    def write(self, data: memoryview) -> int:
        """Send as much as flow control lets through, return how much; the last of it with `flush`.

        Raises:
            H2Error: the stream or its connection is closed.
        """
        connection, h2, sent = self.connection, self._h2_connection, 0
        while sent < len(data) and connection.write_ready.is_set():
            if connection.is_closing():
                raise StreamClosedError(self.id)
            window = h2.local_flow_control_window(self.id)
            size = min(window, h2.max_outbound_frame_size, MAX_FRAME_BYTES)
            if size <= 0:
                break
            h2.send_data(self.id, data[sent : sent + size])
            sent = min(sent + size, len(data))
            if sent < len(data):
                connection.flush()
        return sent

    def flush(self) -> None:
        """Hand what is queued to the connection."""
        if not self.connection.is_closing():
            self.connection.flush()

    def finish(self, headers: Headers) -> None:
        """Send the last headers of a call; the client need not send the rest of its own."""
        try:
            self.queue_headers(headers, ends=True)
            if self.closable:
                self.reset_nowait(ErrorCodes.NO_ERROR)
        except http2.H2Error:
            return
        self.flush()

    def refuse(self) -> None:
        """Refuse a stream that nothing was done for; the client may try it elsewhere."""
        if self.closable:
            self.reset_nowait(ErrorCodes.REFUSED_STREAM)


def _block(headers: Headers) -> bytes:
    """Encode headers so that no table of the connection is asked or changed."""
    return Encoder().encode([NeverIndexedHeaderTuple(*each) for each in headers])


def _frame_head(size: int, kind: int, stream_id: int) -> bytes:
    return FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, stream_id)


_HEADERS_KIND, _TRAILERS_KIND = 0x0104, 0x0105
_HEADERS = _block(HEADERS)
_SUCCESS = _block([("grpc-status", "0")])
