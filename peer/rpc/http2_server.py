"""What the server needs of grpclib and h2 beyond their public faces.

Room:      peer.rpc   (imports http2; used by server and calls)
Loop:      asyncio for what arrives; what is sent, is sent at once from either loop
Lifetime:  connection
Fabric:    none; the ping policy is that of gRPC's servers in Go

Calls are served in Trio and both loops share the thread, so a call needs no task in asyncio: what
arrives is handed over as it comes, and who wants to write and cannot is woken when it may be
possible again.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from grpclib.config import Configuration
from grpclib.metadata import encode_bin_value, encode_grpc_message
from grpclib.protocol import AbstractHandler
from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, _decode_headers
from h2.errors import ErrorCodes
from h2.events import PingReceived, RemoteSettingsChanged, RequestReceived, TrailersReceived
from h2.exceptions import DenialOfServiceError, FrameTooLargeError, ProtocolError
from h2.settings import SettingCodes
from h2.stream import StreamState
from h2.utilities import SizeLimitDict
from hpack import Decoder, InvalidTableIndex

from fabric_protos.data_frames import DATA
from peer.rpc import http2
from peer.rpc.served_stream import Headers, ServedStream

MAX_BACKLOG_BYTES = 1 << 20
"""Of answers to frames, such as pings, that the far end makes us write and does not read."""
PORTION_BYTES = 1 << 14
PORTION_FRAMES = 4
"""What is taken in of one connection before another's turn; small frames cost as much as large."""
RESETS = 100
RESET_S = 1.0
"""A call that is taken back within this time, without an answer, was never meant, seconds."""
PING_STRIKES = 2
PING_SLACK = 0.9
"""A ping that is a tenth too early is on time: clocks and networks are not exact."""
PREFACE_BYTES = 24
FRAME_HEAD_BYTES = 9
GOAWAY = 7
CALL = 0x0104
"""Type and flags of HEADERS that are complete, and not all there is."""
LAST_DATA = 0x0001
FIRST_REPEATED, LAST_REPEATED = 0x81, 0xFE
TABLE_SIZE_BITS, TABLE_SIZE = 0xE0, 0x20


class PingPolicy:
    """Whether a client pings too often.

    Args:
        interval_s: shortest time between two pings while nothing is sent to the client.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s * PING_SLACK
        self._clock = clock
        self._last: float | None = None
        self._strikes = 0

    def sent(self) -> None:
        """Something was sent; who receives may ping to measure the connection."""
        self._last = None
        self._strikes = 0

    def allows(self) -> bool:
        """Count a ping; return whether the client may go on."""
        now, last = self._clock(), self._last
        self._last = now
        if last is not None and now - last < self._interval_s:
            self._strikes += 1
        return self._strikes <= PING_STRIKES


class ResetPolicy:
    """Whether a client takes back more calls than it lets us answer.

    To open streams and reset them at once costs a client next to nothing, and no limit on open
    streams notices (CVE-2023-44487).
    """

    def __init__(self) -> None:
        self._left = RESETS

    def answered(self) -> None:
        """Make up for a call that was taken back."""
        self._left = min(self._left + 1, RESETS)

    def allows(self) -> bool:
        """Count a call that was taken back; return whether the client may go on."""
        self._left -= 1
        return self._left >= 0


class _Processor(http2.Processor):
    """Events of one connection that is served."""

    def __init__(self, protocol: ServerProtocol) -> None:
        super().__init__(protocol.handler, protocol.connection)
        self.protocol = protocol

    def process_remote_settings_changed(self, event: RemoteSettingsChanged) -> None:
        self.protocol.begun.set()
        encoder = self.connection._connection.encoder
        if changes := encoder.table_size_changes:  # RFC 7541 4.2: hpack would tell all, or none
            encoder.table_size_changes = sorted({min(changes), changes[-1]})
            encoder.header_table.resized = True
        super().process_remote_settings_changed(event)

    def process_request_received(self, event: RequestReceived) -> None:
        self.protocol.connection.takes_frames = True
        self.accept(event.stream_id, event.headers)

    def accept(self, stream_id: int, headers: Any) -> None:
        """Begin a call; names and values of its headers are bytes here, unlike grpclib's."""
        stream = ServedStream(self, stream_id)
        self.handler.accept(stream, headers, stream.release)

    def process_trailers_received(self, event: TrailersReceived) -> None:
        """Do nothing: a request of gRPC has none, and its end is another event."""

    def process_ping_received(self, event: PingReceived) -> None:
        if not self.protocol.pings.allows():
            self.protocol.go_away(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")
            self.close("the client pings too often")

    def close(self, reason: str = "Connection closed") -> None:
        """Close the connection; where h2 has found something wrong, it tells the client first."""
        if not self.connection.is_closing():
            self.connection.flush()
        super().close(reason)


class ServerProtocol(http2.Protocol):
    """One connection that is served.

    The headers of calls and the DATA of their requests go past h2, where nothing about them is
    unusual: h2 is told what state their streams are in, and goes on from there.

    Args:
        handler: hears of calls.
        streams: how many calls a client may have open.
        pings: counts the client's.
    """

    processor: _Processor

    def __init__(
        self, handler: AbstractHandler, config: Configuration, *, streams: int, pings: PingPolicy
    ) -> None:
        h2_config = H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,  # what a call is made of is looked at there
            normalize_inbound_headers=False,
            validate_outbound_headers=False,  # they are all ours, and in order
            normalize_outbound_headers=False,
        )
        super().__init__(handler, config.__for_server__(), h2_config)
        self.pings = pings
        self._streams = streams
        self._waiting = b""
        self._rest = PREFACE_BYTES  # of what has begun to arrive: the preface, then a frame
        self._is_paused = False

    def make_processor(self) -> http2.Processor:
        """Return what processes the connection's events."""
        h2 = self.connection._connection
        h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: self._streams})
        h2._closed_streams = SizeLimitDict(size_limit=self._streams)
        # hpack's time to compress a string grows with the square of its length.
        encode = partial(h2.encoder.encode, huffman=False)
        h2.encoder.encode = encode  # type: ignore[method-assign]  # h2 does not let us choose
        self.connection.flush()
        return _Processor(self)

    def take_frame(self, kind: int, stream_id: int, data: bytes, start: int, stop: int) -> bool:
        """Take a call's headers, or what there is of its request; leave the rest to h2."""
        if kind == CALL:
            return self._take_call(stream_id, data[start:stop])
        if kind in (DATA, LAST_DATA):
            stream = self.processor.streams.get(stream_id)
            is_last = kind == LAST_DATA
            return isinstance(stream, ServedStream) and stream.take(data[start:stop], is_last)
        return super().take_frame(kind, stream_id, data, start, stop)

    def take_ping(self, stream_id: int, payload: bytes) -> bool:
        """Leave pings to h2, which has them counted."""
        return False

    def _take_call(self, stream_id: int, block: bytes) -> bool:
        h2 = self.connection._connection
        if (
            not h2.highest_inbound_stream_id < stream_id <= h2.HIGHEST_ALLOWED_STREAM_ID
            or len(h2.streams) >= self._streams
        ):
            return False
        try:
            headers = call_headers(h2.decoder, block)
            stream = h2._begin_new_stream(stream_id, AllowedStreamIDs.ODD)
            stream._initialize_content_length(headers)
        except ProtocolError as exc:
            self._fail(exc)
            return False  # and nobody is to take it any more
        machine = stream.state_machine
        machine.state, machine.client, machine.headers_received = StreamState.OPEN, False, True
        self.processor.accept(stream_id, headers)
        return True

    def _fail(self, error: ProtocolError) -> None:
        """Close the connection as h2 does where it finds something wrong."""
        self.connection._connection._terminate_connection(error.error_code)
        self.processor.close("Protocol error")

    def data_received(self, data: bytes) -> None:
        """Take in what arrives, a portion at a time, so that others have their turns."""
        self._waiting += data
        if not self._is_paused:
            self._take()

    def _take(self) -> None:
        if self.transport.is_closing():
            return
        try:
            super().data_received(self._portion())
            if parts := self.connection._connection.incoming_buffer._headers_buffer:
                self._bound_headers(parts)
        except ProtocolError as exc:
            self._fail(exc)
            return
        if self.transport.get_write_buffer_size() > MAX_BACKLOG_BYTES:
            self.transport.abort()  # it does not take what it makes us send
        elif len(self._waiting) >= (1 if self._rest else FRAME_HEAD_BYTES):
            if not self._is_paused:
                self._is_paused = True
                self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._take)
        elif self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def _portion(self) -> bytes:
        """Cut off what is taken in now; what is left begins a frame, or is part of a large one."""
        data, end = self._waiting, self._rest
        largest = self.connection._connection.max_inbound_frame_size
        for _ in range(PORTION_FRAMES):
            if end >= PORTION_BYTES or len(data) < end + FRAME_HEAD_BYTES:
                break
            frame_bytes = int.from_bytes(data[end : end + 3], "big")
            if frame_bytes > largest:  # h2 would wait for all of it
                if not end:
                    raise FrameTooLargeError
                break
            end += FRAME_HEAD_BYTES + frame_bytes
        size = min(end, PORTION_BYTES, len(data))
        self._waiting, self._rest = data[size:], end - size
        return data[:size]

    def _bound_headers(self, parts: Sequence[Any]) -> None:
        """Raise when headers in many frames are too large; a megabyte takes h2 seconds."""
        size = sum(len(each.data) for each in parts)
        if size > self.connection._connection.decoder.max_header_list_size:
            raise DenialOfServiceError

    def go_away(self, code: ErrorCodes = ErrorCodes.NO_ERROR, text: bytes = b"") -> None:
        """Tell the client to open no more streams; those that are open go on.

        h2 can say this only by closing its own side.
        """
        if not self.begun.is_set() or self.connection.is_closing():
            return  # there is nobody to tell
        self.connection.flush()
        last = self.connection._connection.highest_inbound_stream_id
        head = struct.pack(">BHBBI", 0, 8 + len(text), GOAWAY, 0, 0)
        self.transport.write(head + struct.pack(">II", last, code) + text)


def call_headers(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    """Decode the headers of a call.

    Most are those of the call before it, a byte each, on which hpack spends a third of a call. They
    are looked up, each once, so what hpack does not count of a list's size is its table at most.

    Raises:
        ProtocolError: as h2 has it.
    """
    found: list[tuple[bytes, bytes]] = []
    table = decoder.header_table
    with suppress(InvalidTableIndex):  # hpack says so, too
        for byte in block[: LAST_REPEATED - FIRST_REPEATED + 1]:
            if not FIRST_REPEATED <= byte <= LAST_REPEATED:
                break
            found.append(table.get_by_index(byte & 0x7F))
    repeated, rest = block[: len(found)], block[len(found) :]
    resizes = rest and rest[0] & TABLE_SIZE_BITS == TABLE_SIZE  # which only the first may do
    if resizes or len(set(repeated)) < len(repeated):
        return [*_decode_headers(decoder, block)]
    return [*found, *_decode_headers(decoder, rest)] if rest else found


def trailers(code: int, message: str, details: bytes) -> Headers:
    """Return what ends a call: a status, its sentence, and a marshalled ``google.rpc.Status``."""
    fields = [("grpc-status", str(code))]
    if message:
        fields.append(("grpc-message", encode_grpc_message(message)))
    if details:
        fields.append(("grpc-status-details-bin", encode_bin_value(details).decode("ascii")))
    return fields
