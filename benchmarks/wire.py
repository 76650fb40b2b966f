"""Many clients of gRPC servers in one thread, with as little work of their own as can be.

Room:      benchmarks   (used by services and hostile)
Loop:      its own, over one selector
Lifetime:  one sample
Fabric:    none

HTTP/2 by hand: headers are packed by `hpack` until its tables stay as they are and from then on
taken from a dictionary, frames are cut by slices, and nothing checks what a server may not do. Good
for measuring a server that is known to be right.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import NamedTuple

from hpack import Decoder, Encoder

Resume = Callable[[bytes], None]
Step = Callable[[Resume], None]
"""Begins something and calls what it is given with the outcome."""
Client = Generator[Step, bytes, None]
"""Yields one step after the other and is sent the outcome of each."""

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
FRAME_HEADER = 9
PREFIX = 5
WINDOW = 2**31 - 1
CONNECT_S = 10.0


class Call:
    """One call; `ask` may be used again and again where it is a stream."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.body = b""
        self._connection = connection
        self._stream_id = stream_id
        self._messages: deque[bytes] = deque()
        self._resume: Resume | None = None

    def ask(self, message: bytes, resume: Resume) -> None:
        """Send a message; `resume` is called with the next one that comes back."""
        self._connection.send(data_frame(self._stream_id, message))
        self.next(resume)

    def next(self, resume: Resume) -> None:
        """Call `resume` with the next message, at once if it is there."""
        if self._messages:
            resume(self._messages.popleft())
        else:
            self._resume = resume

    def add(self, message: bytes) -> None:
        """Take in a message."""
        resume, self._resume = self._resume, None
        if resume is None:
            self._messages.append(message)
        else:
            resume(message)


class _Unary(NamedTuple):
    """A call that resumes when its status is there."""

    messages: list[bytes]
    resume: Resume


class Connection:
    """One connection of a `Wire`."""

    def __init__(self, sock: socket.socket, authority: str) -> None:
        self.sock = sock
        self._authority = authority
        self._next_id = 1
        self._calls: dict[int, Call | _Unary] = {}
        self._bodies: dict[int, bytes] = {}
        self._buffer = b""
        self._heads: dict[str, tuple[int, bytes]] = {}
        self._encoder, self._decoder = Encoder(), Decoder()
        self._known: dict[bytes, str] = {}
        self.send(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, b"\0\4" + WINDOW.to_bytes(4, "big"))
            + frame(8, 0, (WINDOW - 65535).to_bytes(4, "big"))
        )

    def unary(self, path: str, message: bytes, resume: Resume) -> None:
        """Make a call; `resume` is called with its response once it has ended well."""
        stream_id = self._begin(_Unary([], resume))
        head = frame(HEADERS, stream_id, self._head(path), END_HEADERS)
        self.send(head + data_frame(stream_id, message, END_STREAM))

    def stream(self, path: str) -> Call:
        """Open a call for messages both ways."""
        call = Call(self, self._next_id)
        stream_id = self._begin(call)
        self.send(frame(HEADERS, stream_id, self._head(path), END_HEADERS))
        return call

    def send(self, data: bytes) -> None:
        """Write all of it; a server that reads takes requests of this size at once."""
        self.sock.setblocking(True)
        try:
            self.sock.sendall(data)
        finally:
            self.sock.setblocking(False)

    def receive(self) -> None:
        """Take in what has come, and resume whom it concerns.

        Raises:
            RuntimeError: a call failed, or the connection is over.
        """
        while True:
            try:
                data = self.sock.recv(1 << 18)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                raise RuntimeError("the server has closed the connection")
            self._add(data)
            if not isinstance(self.sock, ssl.SSLSocket):
                return

    def _begin(self, call: Call | _Unary) -> int:
        stream_id = self._next_id
        self._next_id += 2
        self._calls[stream_id] = call
        self._bodies[stream_id] = b""
        return stream_id

    def _head(self, path: str) -> bytes:
        """Return packed headers; they stay the same while the table does."""
        table = len(self._encoder.header_table.dynamic_entries)
        known = self._heads.get(path)
        if known is not None and known[0] == table:
            return known[1]
        head = self._encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", self._authority),
                ("content-type", "application/grpc"),
                ("user-agent", "grpc-benchmark/1"),
                ("te", "trailers"),
            ]
        )
        if len(self._encoder.header_table.dynamic_entries) == table:
            self._heads[path] = (table, head)
        return head

    def _add(self, data: bytes) -> None:
        data = self._buffer + data
        position, end = 0, len(data)
        while end - position >= FRAME_HEADER:
            start = position + FRAME_HEADER
            stop = start + int.from_bytes(data[position : position + 3], "big")
            if stop > end:
                break
            stream_id = int.from_bytes(data[position + 5 : start], "big")
            self._frame(data[position + 3], data[position + 4], stream_id, data[start:stop])
            position = stop
        self._buffer = data[position:]

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == DATA:
            self._body(stream_id, payload)
        elif kind == HEADERS:
            status = self._status(payload)
            if flags & END_STREAM:
                call = self._calls.pop(stream_id)
                del self._bodies[stream_id]
                if status != "0":
                    raise RuntimeError(f"a call ended with gRPC status {status}")
                if isinstance(call, _Unary):
                    call.resume(call.messages[0])
        elif kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, 0, b"", ACK))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, 0, payload, ACK))
        elif kind in (RST_STREAM, GOAWAY):
            raise RuntimeError(f"the server sent frame type {kind}: {payload!r}")

    def _body(self, stream_id: int, payload: bytes) -> None:
        call, data = self._calls[stream_id], self._bodies[stream_id] + payload
        while len(data) >= PREFIX:
            stop = PREFIX + int.from_bytes(data[1:PREFIX], "big")
            if stop > len(data):
                break
            message, data = data[PREFIX:stop], data[stop:]
            if isinstance(call, _Unary):
                call.messages.append(message)
            else:
                call.add(message)
        self._bodies[stream_id] = data

    def _status(self, block: bytes) -> str:
        """Return ``grpc-status`` of packed headers, empty without; known ones are known."""
        if block in self._known:
            return self._known[block]
        entries = self._decoder.header_table.dynamic_entries
        before, status = len(entries), ""
        for name, value in self._decoder.decode(block, raw=True):
            if name == b"grpc-status":
                status = value.decode()
        if len(entries) != before:
            self._known.clear()
        else:
            self._known[block] = status
        return status


class Wire:
    """Connections, and the clients that use them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._running = 0

    def connect(self, address: str, tls: ssl.SSLContext | None = None) -> Connection:
        """Open a connection to ``host:port``."""
        host, _, port = address.rpartition(":")
        sock = socket.create_connection((host, int(port)), CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=host)
        connection = Connection(sock, address)
        self._selector.register(sock, selectors.EVENT_READ, connection.receive)
        return connection

    def run(self, clients: Iterable[Client]) -> None:
        """Run clients until all have ended.

        Raises:
            RuntimeError: a call failed.
        """
        for client in clients:
            self._running += 1
            self._start(client)
        while self._running:
            for key, _ in self._selector.select():
                key.data()

    def close(self) -> None:
        """Close all connections."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _start(self, client: Client) -> None:
        try:
            step = next(client)
        except StopIteration:
            self._running -= 1
            return
        step(partial(self._go_on, client))

    def _go_on(self, client: Client, outcome: bytes) -> None:
        try:
            step = client.send(outcome)
        except StopIteration:
            self._running -= 1
            return
        step(partial(self._go_on, client))


def frame(kind: int, stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    """Return one HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big")
    return head + payload


def data_frame(stream_id: int, message: bytes, flags: int = 0) -> bytes:
    """Return a DATA frame with one gRPC message of at most 16 KiB."""
    return frame(DATA, stream_id, b"\0" + len(message).to_bytes(4, "big") + message, flags)
