"""A connection that is served without a socket, its calls, and what its client does and sees.

Room:      tests.unit.rpc   (imports peer.rpc.http2_server)
Loop:      asyncio, for the turns that a connection takes
Lifetime:  one connection
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler
from hpack import Decoder, Encoder

from peer.rpc.http2 import grpc_frame
from peer.rpc.http2_server import PingPolicy, ServerProtocol, trailers
from peer.rpc.served_stream import HEADERS as RESPONSE
from peer.rpc.served_stream import ServedStream

from .frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PADDED,
    REQUEST,
    SETTINGS,
    WINDOW_UPDATE,
    Transport,
    frames_of,
    h2_frame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ACK, HAS_PRIORITY = 1, 0x20
TABLE, WINDOW, MAX_FRAME = 1, 4, 5  # settings
STREAMS = 3
"""How many a client may have open."""
ANSWERS = (5, 300, 20_000, 16_000, 300, 5)
"""Bytes of the answer on each stream; the one that is too large for a frame goes through h2."""


def answer_of(stream_id: int) -> bytes:
    return bytes(ANSWERS[stream_id // 2 % len(ANSWERS)])


class Receiver:
    """Does with a stream what a call would; answers when its request is in.

    Attributes:
        told: what it heard, in order.
    """

    def __init__(self, stream: ServedStream, release: Callable[..., None]) -> None:
        self.stream = stream
        self.told: list[object] = []
        self.state = "open"
        self._release = release
        self._unacknowledged = 0
        self._has_request = False
        self._rest: memoryview | None = None
        self._keeps = stream.id % 4 == 1  # all of its request until it has been answered
        self._answer = answer_of(stream.id)
        stream.attach(self, self._on_wake)
        self._is_awake = True

    def add(self, data: bytes, size: int) -> None:
        self.told.append((data, size))
        self._unacknowledged += size
        if not self._keeps:
            self._acknowledge()

    def eof(self) -> None:
        self.told.append("the end")
        self._has_request = True

    def cancel(self, error: Exception) -> None:
        self.told.append(str(error))
        self.state = "broken"

    def _on_wake(self) -> None:
        self._is_awake = True

    def _acknowledge(self) -> None:
        self.stream.acknowledge(self._unacknowledged)
        self._unacknowledged = 0

    def go_on(self, *, past_h2: bool) -> None:
        """Take a turn, as the task of a call does."""
        if self.state == "open" and self._has_request:
            if past_h2 and self.stream.respond(self._answer):
                self.state = "answered"
            else:
                self.state = "answering"
                self.stream.queue_headers(RESPONSE)
                self._rest = memoryview(grpc_frame(self._answer))
        if self.state == "answering" and self._is_awake:
            assert self._rest is not None
            self._rest = self._rest[self.stream.write(self._rest) :]
            self.stream.flush()
            self._is_awake = False
            if not self._rest:
                self.stream.finish(trailers(0, "", b""))
                self.state = "answered"
        if self.state in ("answered", "broken"):
            self._release(self._unacknowledged)
            self.state = "over"


class Handler(AbstractHandler):
    """Lets every stream but some be answered."""

    def __init__(self) -> None:
        self.accepted: list[tuple[int, Any]] = []
        self.receivers: list[Receiver] = []

    def accept(self, stream: Any, headers: Any, release_stream: Callable[..., None]) -> None:
        self.accepted.append((stream.id, list(headers)))
        if stream.id % 9 == 0:
            stream.finish([*RESPONSE, *trailers(12, "no such method", b"")])
            release_stream()
        else:
            self.receivers.append(Receiver(stream, release_stream))

    def cancel(self, stream: Any) -> None:
        """Receivers hear of it, too."""

    def close(self) -> None:
        """Receivers hear of it, too."""


class ThroughH2(ServerProtocol):
    """The reference: cuts the input into frames as the other does, and takes none."""

    def take_frame(self, kind: int, stream_id: int, data: bytes, start: int, stop: int) -> bool:
        return False


class Pipe(Transport):
    """A transport whose far end reads everything.

    Attributes:
        may_read: the protocol takes more, or never will.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_read = asyncio.Event()
        self.may_read.set()

    def close(self) -> None:
        super().close()
        self.may_read.set()

    def pause_reading(self) -> None:
        if not self.closed:
            self.may_read.clear()

    def resume_reading(self) -> None:
        self.may_read.set()

    def get_write_buffer_size(self) -> int:
        return 0


class Served:
    """A connection that is served, and the client's view of what comes back."""

    def __init__(self, *, past_h2: bool, stream_window: int = 1 << 16) -> None:
        config = SimpleNamespace(
            http2_connection_window_size=1 << 16,
            http2_stream_window_size=stream_window,  # grpclib allows no less than 64 KiB
            _keepalive_time=None,
        )
        config.__for_server__ = lambda: config
        self.handler, self.transport = Handler(), Pipe()
        self.protocol = (ServerProtocol if past_h2 else ThroughH2)(
            self.handler, cast("Configuration", config), streams=STREAMS, pings=PingPolicy(0)
        )
        self._past_h2 = past_h2
        self.protocol.connection_made(self.transport)
        self.h2 = self.protocol.connection._connection
        self.passed = 0
        feed = self.protocol.connection.feed

        def counted(data: bytes) -> Any:
            self.passed += len(data)
            return feed(data)

        self.protocol.connection.feed = counted  # type: ignore[method-assign]  # to look on

    async def read(self, data: bytes) -> None:
        """Read one piece, unless the connection is closed; whoever can answers then."""
        if not self.transport.closed:
            self.protocol.data_received(data)
        await self.transport.may_read.wait()
        for receiver in self.handler.receivers:
            receiver.go_on(past_h2=self._past_h2)

    async def run(self, *pieces: bytes) -> Served:
        """Read these pieces; return itself."""
        for piece in pieces:
            await self.read(piece)
        return self

    def outcome(self, tables: list[int]) -> dict[str, Any]:
        """Return all that must not depend on the way.

        Args:
            tables: sizes of its table that the client has asked for, in order.
        """
        shared, h2 = self.h2._inbound_flow_control_window_manager, self.h2
        return {
            "accepted": self.handler.accepted,
            "told": [(each.stream.id, each.told, each.state) for each in self.handler.receivers],
            "seen": seen(b"".join(self.transport.writes), tables),
            "closed": self.transport.closed,
            "state": h2.state_machine.state,
            "highest": h2.highest_inbound_stream_id,
            "windows": (
                h2.outbound_flow_control_window,
                shared.current_window_size,
                shared._bytes_processed,
            ),
            "open": {
                stream_id: (
                    stream.state_machine.state,
                    stream.state_machine.headers_received,
                    stream.outbound_flow_control_window,
                    stream._inbound_window_manager.current_window_size,
                    stream._inbound_window_manager._bytes_processed,
                )
                for stream_id, stream in h2.streams.items()
                if stream.open and not self.transport.closed
            },
            "ended": {
                stream_id: h2._stream_closed_by(stream_id) for stream_id, _ in self.handler.accepted
            },
            "registered": [*self.protocol.processor.streams],
        }


def seen(data: bytes, tables: list[int]) -> list[tuple[int, int, int, Any]]:
    """Return the frames as a client understands them that is strict about its table."""
    decoder, found, asked = Decoder(), [], iter(tables)
    for kind, flags, stream_id, payload in frames_of(data):
        content: Any = payload
        if kind == HEADERS:
            content = decoder.decode(payload)
        elif kind == SETTINGS and flags & ACK:
            decoder.max_allowed_table_size = next(asked)
        found.append((kind, flags, stream_id, content))
    return found


@dataclass
class Client:
    """Renders what a client does as frames.

    Attributes:
        tables: size of its table after each of its settings.
    """

    frames: list[bytes] = field(default_factory=list)
    tables: list[int] = field(default_factory=lambda: [4096])
    encoder: Encoder = field(default_factory=Encoder)
    next_id: int = 1

    def hello(self, **window: int) -> bytes:
        """Return the preface, settings, and the first call, so that h2 knows the connection."""
        first = setting((WINDOW, window.get("window", 65535)))
        self.call(self.block(()), 0, 0)
        return PREFACE + first + h2_frame(SETTINGS, 0, flags=ACK) + self.frames.pop()

    def block(self, more: tuple[tuple[str, str], ...]) -> bytes:
        return self.encoder.encode([*REQUEST, *more])

    def call(self, block: bytes, flags: int, parts: int) -> None:
        """Begin a call on a new stream."""
        self.headers(self.next_id, block, flags, parts)
        self.next_id += 2

    def headers(self, stream_id: int, block: bytes, flags: int, parts: int) -> None:
        """Send headers or trailers, in so many frames besides the first."""
        size = len(block) // (parts + 1)
        for at in range(parts + 1):
            is_last = at == parts
            part = block[at * size : None if is_last else (at + 1) * size]
            ends = END_HEADERS if is_last else 0
            if at:
                self.frames.append(h2_frame(CONTINUATION, stream_id, part, ends))
                continue
            if flags & HAS_PRIORITY:
                part = b"\0\0\0\7\1" + part
            if flags & PADDED:
                part = b"\3" + part + bytes(3)
            self.frames.append(h2_frame(HEADERS, stream_id, part, ends | flags))

    def settings(self, key: int, value: int) -> None:
        self.tables.append(value if key == TABLE else self.tables[-1])
        self.frames.append(setting((key, value)))

    def resize(self, size: int) -> None:
        """Begin the next headers with another size of the table."""
        self.encoder.header_table_size = size


def setting(*pairs: tuple[int, int]) -> bytes:
    body = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs)
    return h2_frame(SETTINGS, 0, body)


def credit(stream_id: int, size: int) -> bytes:
    return h2_frame(WINDOW_UPDATE, stream_id, size.to_bytes(4, "big"))


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    if flags & PADDED:
        payload = b"\2" + payload + bytes(2)
    return h2_frame(DATA, stream_id, payload, flags)
