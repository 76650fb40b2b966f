"""One end of an HTTP/2 connection by hand, able to do what gRPC libraries never would.

Room:      tests.integration.rpc   (imports h2, trio)
Loop:      Trio
Lifetime:  one connection
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

REGISTER = "/protos.ChaincodeSupport/Register"
WINDOW = 2**31 - 1


def frame(message: bytes, *, compressed: bool = False, size: int | None = None) -> bytes:
    """Return a gRPC message, or one that lies about itself."""
    length = len(message) if size is None else size
    return bytes([compressed]) + length.to_bytes(4, "big") + message


def h2_frame(kind: int, stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    """Return one HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big")
    return head + payload


def goaway(code: int, last_stream_id: int = 2**31 - 1) -> bytes:
    """Return a GOAWAY frame."""
    return h2_frame(7, 0, last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big"))


class RawPeer:
    """A client or a server; what arrives is kept by kind.

    Attributes:
        headers, trailers: of the one stream this end looks at.
        body: DATA of that stream, as it came.
        ended: the other side has half-closed the stream.
        reset: error code of RST_STREAM, None without one.
        goaway: error code of GOAWAY, None without one.
        closed: the connection is gone.
    """

    def __init__(self, transport: trio.abc.Stream, *, client: bool, generous: bool = True) -> None:
        self.transport = transport
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding="utf-8"))
        self.stream_id = 0
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.body = bytearray()
        self.ended = False
        self.reset: int | None = None
        self.goaway: int | None = None
        self.closed = False
        self.events: list[Event] = []
        self._generous = generous

    async def __aenter__(self) -> RawPeer:
        self.h2.initiate_connection()
        if self._generous:
            self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
            self.h2.increment_flow_control_window(WINDOW - 65535)
        try:
            await self.flush()
        except BaseException:
            await trio.aclose_forcefully(self.transport)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await trio.aclose_forcefully(self.transport)

    async def call(self, path: str = REGISTER, **more: str) -> None:
        """Open a gRPC call; the stream this end looks at from now on."""
        self.stream_id = self.h2.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self.h2.send_headers(self.stream_id, [*(headers | more).items()])
        await self.flush()

    async def answer(self) -> None:
        """As a server: wait for a call and accept it."""
        await self.until(lambda: self.stream_id != 0)
        self.h2.send_headers(
            self.stream_id, [(":status", "200"), ("content-type", "application/grpc+proto")]
        )
        await self.flush()

    async def finish(self, status: int, text: str = "") -> None:
        """As a server: end the call."""
        trailers = [("grpc-status", str(status)), ("grpc-message", text)]
        self.h2.send_headers(self.stream_id, trailers, end_stream=True)
        await self.flush()

    async def send(self, *messages: bytes) -> None:
        """Send whole messages."""
        await self.send_data(b"".join(frame(message) for message in messages))

    async def send_data(self, data: bytes, *, end: bool = False) -> None:
        """Send DATA as it is; waits for credit."""
        while data:
            room = self.h2.local_flow_control_window(self.stream_id)
            if room <= 0:
                with trio.fail_after(10):
                    await self.receive()
                continue
            size = min(room, self.h2.max_outbound_frame_size, len(data))
            self.h2.send_data(self.stream_id, data[:size], end_stream=end and size == len(data))
            data = data[size:]
            await self.flush()

    async def send_frame(self, kind: int, stream_id: int, payload: bytes, flags: int = 0) -> None:
        """Send a frame past the library."""
        await self.transport.send_all(h2_frame(kind, stream_id, payload, flags))

    async def flush(self) -> None:
        """Write what the library wants written."""
        await self.transport.send_all(self.h2.data_to_send())

    async def receive(self) -> None:
        """Read once; sets `closed` at the end."""
        try:
            data = await self.transport.receive_some(2**20)
        except (trio.BrokenResourceError, ssl.SSLError):
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            self._note(event)
        with_answer = self.h2.data_to_send()
        if with_answer:
            try:
                await self.transport.send_all(with_answer)
            except trio.BrokenResourceError:
                self.closed = True

    def _note(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case RequestReceived(stream_id=stream_id):
                self.stream_id = stream_id or 0
            case ResponseReceived():
                self.headers |= _plain(event)
            case TrailersReceived():
                self.trailers |= _plain(event)
            case DataReceived(data=data):
                self.body += data or b""
                if self._generous:
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length or 0, event.stream_id
                    )
            case StreamEnded():
                self.ended = True
            case StreamReset(error_code=code):
                self.reset = int(code or 0)
            case ConnectionTerminated(error_code=code):
                self.goaway = int(code or 0)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Read until something is so; the end of the connection ends it too.

        Raises:
            trio.TooSlowError: it was not within ten seconds.
        """
        with trio.fail_after(10):
            while not is_so():
                assert not self.closed, "the connection is closed"
                await self.receive()

    async def until_closed(self) -> None:
        """Read to the end of the connection."""
        with trio.fail_after(10):
            while not self.closed:
                await self.receive()

    async def messages(self, count: int) -> list[bytes]:
        """Return the next `count` whole messages."""
        found: list[bytes] = []
        while len(found) < count:
            await self.until(self._has_message)
            size = int.from_bytes(self.body[1:5], "big")
            found.append(bytes(self.body[5 : 5 + size]))
            del self.body[: 5 + size]
        return found

    def _has_message(self) -> bool:
        return len(self.body) >= 5 and len(self.body) >= 5 + int.from_bytes(self.body[1:5], "big")

    async def status(self) -> tuple[int, str]:
        """Return gRPC status and text the call ended with."""
        await self.until(lambda: self.ended or self.reset is not None)
        found = self.headers | self.trailers
        return int(found["grpc-status"]), found.get("grpc-message", "")


def _plain(event: ResponseReceived | TrailersReceived) -> dict[str, str]:
    return {str(name): str(value) for name, value in event.headers or ()}


async def dial(address: str) -> trio.SocketStream:
    """Connect to ``host:port`` or ``unix:///path``."""
    if address.startswith("unix://"):
        return await trio.open_unix_socket(address.removeprefix("unix://"))
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


@asynccontextmanager
async def client(
    address: str, *, tls: ssl.SSLContext | None = None, generous: bool = True
) -> AsyncIterator[RawPeer]:
    """Hold a client connection."""
    transport: trio.abc.Stream = await dial(address)
    if tls is not None:
        transport = trio.SSLStream(transport, tls, server_hostname="127.0.0.1")
    async with RawPeer(transport, client=True, generous=generous) as peer:
        yield peer


@asynccontextmanager
async def server(
    nursery: trio.Nursery,
    serve: Callable[[RawPeer], object],
    *,
    tls: ssl.SSLContext | None = None,
    generous: bool = True,
) -> AsyncIterator[str]:
    """Hold a listener that runs ``await serve(peer)`` for every connection; yields its address."""

    async def hold(stream: trio.SocketStream) -> None:
        transport: trio.abc.Stream = stream
        if tls is not None:
            transport = trio.SSLStream(stream, tls, server_side=True)
        try:
            async with RawPeer(transport, client=False, generous=generous) as peer:
                await serve(peer)  # type: ignore[misc]
        except (trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
            return
        except ProtocolError:  # as if no library were here
            await trio.aclose_forcefully(transport)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as accepting:
        accepting.start_soon(trio.serve_listeners, hold, listeners)
        yield f"127.0.0.1:{port}"
        accepting.cancel_scope.cancel()
