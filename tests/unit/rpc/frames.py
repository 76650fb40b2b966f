"""One end of a connection without a socket, and frames by hand.

Room:      tests.unit.rpc   (imports fabric_protos.data_frames)
Loop:      none
Lifetime:  one connection
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, Stream
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import UnknownFrameReceived
from h2.settings import SettingCodes

from fabric_protos.data_frames import DirectProtocol, Messages

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 2, 3, 4, 6, 8
CONTINUATION = 9
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def h2_frame(kind: int, stream_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return one HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big")
    return head + payload


def frames_of(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return the frames in `data`, as (type, flags, stream, payload)."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        stream_id = int.from_bytes(data[5:9], "big")
        found.append((data[3], data[4], stream_id, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


class Client:
    """Says what a client says; h2 is asked for headers only, frames are made by hand."""

    def __init__(self, *, window: int = 65535) -> None:
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
        self._h2.initiate_connection()

    def begin(self, *stream_ids: int, **more: str) -> bytes:
        """Return the preface, the settings with their acknowledgement, and requests."""
        data = self._h2.data_to_send() + h2_frame(SETTINGS, 0, flags=1)
        return data + b"".join(self.request(each, **more) for each in stream_ids)

    def request(self, stream_id: int, **more: str) -> bytes:
        self._h2.send_headers(stream_id, [*REQUEST, *more.items()])
        return self._h2.data_to_send()

    def trailers(self, stream_id: int, parts: int) -> list[bytes]:
        """Return trailers in so many frames."""
        block = self._h2.encoder.encode([("end", "here" * 9)])
        size = len(block) // parts
        found = []
        for at in range(parts):
            is_last = at == parts - 1
            part = block[at * size : None if is_last else (at + 1) * size]
            flags = (END_STREAM if at == 0 else 0) | (END_HEADERS if is_last else 0)
            found.append(h2_frame(CONTINUATION if at else HEADERS, stream_id, part, flags))
        return found


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Echo(Messages):
    """Answers every message with itself.

    Attributes:
        received: the messages.
        ends: why nothing more arrives, as `on_end` and `on_failure` heard it.
    """

    def __init__(self, stream: Stream, *, limit: int = 10_000, is_direct: bool) -> None:
        self.received: list[bytes] = []
        self.ends: list[Exception | None] = []
        super().__init__(stream, limit=limit, is_direct=is_direct)

    def answer(self, message: bytes) -> None:
        self.received.append(message)
        if not self.ends:
            self.post(message)

    def on_end(self, error: Exception | None) -> None:
        self.ends.append(error)

    def on_failure(self, error: Exception) -> None:
        self.ends.append(error)


class Accepting(AbstractHandler):
    """Lets every stream echo."""

    def __init__(self, is_direct: bool) -> None:
        self._is_direct = is_direct
        self.streams: dict[int, Echo] = {}
        self.releases: dict[int, Any] = {}

    def accept(self, stream: Stream, headers: object, release_stream: Any) -> None:
        assert stream.id is not None
        echo = self.streams[stream.id] = Echo(stream, is_direct=self._is_direct)
        self.releases[stream.id] = release_stream
        echo._h2.send_headers(stream.id, [(":status", "200")])
        echo._connection.flush()
        echo.start(echo.answer)

    def cancel(self, stream: Stream) -> None:
        """Nothing runs that could be cancelled."""

    def close(self) -> None:
        """Nothing runs."""


class Server:
    """The side that is tested: a connection whose streams echo.

    Attributes:
        passed: bytes that h2 was given.
    """

    def __init__(self, *, is_direct: bool, stream_window: int = 1 << 22) -> None:
        config = SimpleNamespace(
            http2_connection_window_size=1 << 22,
            http2_stream_window_size=stream_window,  # grpclib allows no less than 64 KiB
            _keepalive_time=None,
        )
        self.handler = Accepting(is_direct)
        self.transport = Transport()
        self.protocol = DirectProtocol(
            self.handler, cast("Configuration", config), H2Configuration(client_side=False)
        )
        self.protocol.connection_made(self.transport)
        self.protocol.processor.processors[UnknownFrameReceived] = lambda event: None
        self.passed = 0
        feed = self.protocol.connection.feed

        def counted(data: bytes) -> Any:
            self.passed += len(data)
            return feed(data)

        self.protocol.connection.feed = counted  # type: ignore[method-assign]  # to look on

    def read(self, data: bytes) -> None:
        """Read one piece, unless the connection is closed."""
        if not self.transport.closed:
            self.protocol.data_received(data)

    def written(self) -> list[tuple[int, int, int, bytes]]:
        """Return the frames that were written since this was asked last."""
        data = b"".join(self.transport.writes)
        self.transport.writes.clear()
        return frames_of(data)

    def outcome(self) -> dict[str, Any]:
        """Return all that must not depend on the way which frames take."""
        sent, credit, others = defaultdict[int, bytes](bytes), defaultdict[int, int](int), []
        for kind, flags, stream_id, payload in self.written():
            if kind == DATA:
                sent[stream_id] += payload
            elif kind == WINDOW_UPDATE:
                credit[stream_id] += int.from_bytes(payload, "big")
            else:
                others.append((kind, flags, stream_id, payload))
        h2 = self.protocol.connection._connection
        shared = h2._inbound_flow_control_window_manager
        return {
            "sent": dict(sent),
            "credit": dict(credit),
            "other frames": others,
            "closed": self.transport.closed,
            "windows": (
                h2.outbound_flow_control_window,
                shared.current_window_size,
                shared._bytes_processed,
            ),
            "streams": {
                stream_id: (
                    echo.received,
                    [str(end) for end in echo.ends],
                    echo.queued,
                    echo._unacknowledged,
                    echo._machine.state,
                    echo.h2_stream.outbound_flow_control_window,
                    echo._window.current_window_size,
                    echo._window._bytes_processed,
                )
                for stream_id, echo in self.handler.streams.items()
            },
        }
