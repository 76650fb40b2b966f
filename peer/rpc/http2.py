"""What this peer needs of grpclib beyond its public face.

Room:      peer.rpc   (imports grpclib; used by streams, listener, connector, client)
Loop:      asyncio
Lifetime:  connection

grpclib and h2 are pinned exactly because of this module, `http2_server`, `served_stream` and
`fabric_protos.data_frames`, and a test fails on any other version. Nothing else touches their
private names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grpclib.client
import grpclib.server
import trio
from grpclib.client import _H2_TO_GRPC_STATUS_MAP
from grpclib.config import Configuration
from grpclib.const import Handler, Status
from grpclib.encoding.base import GRPC_CONTENT_TYPE, CodecBase
from grpclib.events import _DispatchServerEvents
from grpclib.metadata import (
    USER_AGENT,
    decode_bin_value,
    decode_grpc_message,
    encode_timeout,
)
from grpclib.protocol import AbstractHandler, EventsProcessor, H2Protocol, Stream
from grpclib.utils import Wrapper
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event
from h2.exceptions import ProtocolError

from fabric_protos.data_frames import DirectProtocol
from fabric_protos.grpc_messages import Deframer as Deframer
from fabric_protos.grpc_messages import MessageRefused as MessageRefused
from fabric_protos.grpc_messages import grpc_frame as grpc_frame

# "No new streams" is no reason to drop the one that runs, nor what arrives right behind it; a Java
# service says this 5 s after every connection. GOAWAY with an error still ends the connection.
_GOAWAY_CLOSES_NOTHING = {
    (state, ConnectionInputs.RECV_GOAWAY): (None, state)
    for state in (ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN)
}

H2Stream = Stream
H2Error = ProtocolError
FRAME_HEADER = 5
GOODBYE_S = 1.0
MAX_BACKLOG_BYTES = 1 << 20
"""Of what an accepted connection makes us write and does not read. Messages take less: they wait
until it does."""


class BytesCodec(CodecBase):
    """Leaves messages as they are: encoding and strict decoding happen elsewhere."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: type[bytes]) -> bytes:
        """Return `message`."""
        return message

    def decode(self, data: bytes, message_type: type[bytes]) -> bytes:
        """Return `data`."""
        return data


class Processor(EventsProcessor):
    """Events of one connection, with two of grpclib's habits changed.

    Attributes:
        is_draining: the other side takes no new streams.
    """

    is_draining = False

    def process(self, event: Event) -> None:
        if event.__class__ not in getattr(self, "processors", ()):
            return  # RFC 9113 4.1: what is not known is ignored; grpclib would raise
        if isinstance(event, ConnectionTerminated) and event.error_code == ErrorCodes.NO_ERROR:
            self.is_draining = True
            return
        super().process(event)


class Protocol(DirectProtocol):
    """One connection, either side.

    Attributes:
        begun: the far end has shown that it means to talk, or is gone; who serves it sets this.
        lost: the connection is over.
    """

    processor: Processor
    transport: asyncio.Transport

    def __init__(
        self,
        handler: AbstractHandler,
        config: Configuration,
        h2_config: H2Configuration,
        begun: trio.Event | None = None,
    ) -> None:
        super().__init__(handler, config, h2_config)
        self.begun = trio.Event() if begun is None else begun
        self.lost = trio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        machine = self.connection._connection.state_machine
        machine._transitions = machine._transitions | _GOAWAY_CLOSES_NOTHING
        self.processor = self.make_processor()

    def make_processor(self) -> Processor:
        """Return what processes the connection's events."""
        return Processor(self.handler, self.connection)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.begun.set()
        self.lost.set()


def server_protocol(
    methods: Mapping[str, Handler], config: Configuration, begun: trio.Event
) -> Protocol:
    """Return the protocol of one accepted connection that serves `methods`; they set `begun`."""
    handler = grpclib.server.Handler(dict(methods), BytesCodec(), None, _DispatchServerEvents())
    h2_config = H2Configuration(client_side=False, header_encoding="utf-8")
    return _AcceptedProtocol(handler, config.__for_server__(), h2_config, begun)


class _AcceptedProtocol(Protocol):
    """A connection whose far end cannot make us keep more and more answers, as to pings."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.connection.may_write:
            return
        if self.transport.get_write_buffer_size() > MAX_BACKLOG_BYTES:
            self.transport.abort()


class Channel(grpclib.client.Channel):
    """A client connection that keeps its streams when the server asks for no new ones.

    These go over a new connection then, as they do after the old one was lost.
    """

    _protocol: Protocol | None
    _drained: tuple[Protocol, ...] = ()

    async def __connect__(self) -> H2Protocol:
        if self._protocol is not None and self._protocol.processor.is_draining:
            open_still = (each for each in self._drained if not each.connection.is_closing())
            self._drained = (*open_still, self._protocol)
            self._protocol = None
        protocol = await super().__connect__()
        if protocol.connection.is_closing():  # a proxy whose service is not up yet does this
            raise ConnectionResetError("the connection was closed at once")
        return protocol

    def _protocol_factory(self) -> H2Protocol:
        return Protocol(grpclib.client.Handler(), self._config, self._h2_config)

    async def aclose(self) -> None:
        """Close every connection and wait until they are, a moment for the far end's goodbye."""
        protocols = [*self._drained, *([self._protocol] if self._protocol is not None else [])]
        self.close()
        for protocol in protocols:
            protocol.processor.close()
            with trio.move_on_after(GOODBYE_S):
                await protocol.lost.wait()
            protocol.transport.abort()
            await protocol.lost.wait()


async def open_stream(channel: Channel, path: str, timeout_s: float | None) -> OpenStream:
    """Send the headers of a call.

    Args:
        timeout_s: for ``grpc-timeout``.

    Raises:
        OSError, H2Error: there is no connection, or it breaks.
    """
    protocol = await channel.__connect__()
    # The wrapper remembers a reset that comes before anybody looks.
    stream = protocol.processor.connection.create_stream(wrapper=Wrapper())
    headers = [
        (":method", "POST"),
        (":scheme", channel._scheme),
        (":path", path),
        (":authority", channel._authority),
        ("te", "trailers"),
        ("content-type", GRPC_CONTENT_TYPE),
        ("user-agent", USER_AGENT),
    ]
    if timeout_s is not None:
        headers.insert(4, ("grpc-timeout", encode_timeout(timeout_s)))
    release = await stream.send_request(headers, _processor=protocol.processor)
    return OpenStream(stream, release)


class OpenStream(NamedTuple):
    """A call whose headers are sent; `release` forgets its stream."""

    stream: H2Stream
    release: Callable[[], None]

    def close(self) -> None:
        """Reset the stream, unless it is over, and release it."""
        if self.stream.closable:
            self.stream.reset_nowait(ErrorCodes.CANCEL)
        self.release()


class Outcome(NamedTuple):
    """What a server says of a call; `details` is the marshalled ``google.rpc.Status``, or empty."""

    status: Status
    message: str
    details: bytes


def outcome(stream: H2Stream) -> Outcome | None:
    """Return how the server ended a call, None if it has not told."""
    headers = dict(stream.headers or ())
    if not headers:
        return None
    if headers.get(":status") != "200":
        status = _H2_TO_GRPC_STATUS_MAP.get(headers.get(":status", ""), Status.UNKNOWN)
        return Outcome(status, f"HTTP status {headers.get(':status')}", b"")
    if not headers.get("content-type", "").startswith(GRPC_CONTENT_TYPE):
        text = f"content type {headers.get('content-type')!r} is not gRPC's"
        return Outcome(Status.UNKNOWN, text, b"")
    trailers = dict(stream.trailers or headers)
    if "grpc-status" not in trailers:
        return None
    try:
        status = Status(int(trailers["grpc-status"]))
        details = decode_bin_value(trailers.get("grpc-status-details-bin", "").encode())
    except ValueError as exc:
        return Outcome(Status.UNKNOWN, f"the trailers cannot be read: {exc}", b"")
    return Outcome(status, decode_grpc_message(trailers.get("grpc-message", "")), details)


def close_connection(protocol: H2Protocol, reason: str) -> None:
    """Close a connection and end its streams."""
    if hasattr(protocol, "processor"):
        protocol.processor.close(reason)


def h2_stream(
    stream: grpclib.server.Stream[Any, Any] | grpclib.client.Stream[Any, Any],
) -> H2Stream:
    """Return the HTTP/2 stream under a gRPC one."""
    return stream._stream


def client_certificate(stream: H2Stream) -> bytes | None:
    """Return the other side's certificate as DER, None without one."""
    ssl_object = stream._transport.get_extra_info("ssl_object")
    der: bytes | None = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
    return der


class Arrived(NamedTuple):
    """What had happened to a stream before its input was taken over.

    Attributes:
        data: as (data, size to acknowledge).
        eof: the other side has ended the stream.
        error: why the stream broke, None if it did not.
    """

    data: list[tuple[bytes, int]]
    eof: bool
    error: Exception | None


def take_over_input(stream: H2Stream, receiver: Any) -> Arrived:
    """Send the stream's incoming DATA to `receiver` from now on.

    Args:
        receiver: has ``add(data, size_to_acknowledge)``, ``eof()`` and ``unacked_size()`` like the
            buffer of grpclib it replaces, and ``cancel(error)``, called when the stream breaks.
    """
    buffer, wrapper, data = stream.buffer, stream.wrapper, []
    while not buffer._unacked.empty():
        chunk, _, size = buffer._unacked.get_nowait()
        data.append((chunk, size))
    stream.buffer = receiver
    stream.wrapper = receiver
    return Arrived(data, buffer._eof, wrapper._error if wrapper is not None else None)


def acknowledge(stream: H2Stream, size: int) -> None:
    """Give the other side credit for data that has been dealt with."""
    assert stream.id is not None
    if not stream.connection.is_closing():
        stream.connection.ack(stream.id, size)


async def send(stream: H2Stream, frame: bytes) -> None:
    """Write one gRPC frame as the other side gives credit; runs in asyncio.

    Raises:
        H2Error: the stream or its connection is closed.
    """
    if stream.connection.is_closing():  # writing to a TLS transport in this state is a bug to it
        raise H2Error("the connection is closed")
    await stream.send_data(frame)


def send_now(stream: H2Stream, frame: bytes) -> bool:
    """Write one gRPC frame if it fits in one DATA frame right now; return whether it did.

    Raises:
        H2Error: the stream is closed.
    """
    connection, h2 = stream.connection, stream._h2_connection
    assert stream.id is not None
    if connection.is_closing() or not connection.write_ready.is_set():
        return False
    size = len(frame)
    if size > h2.max_outbound_frame_size or size > h2.local_flow_control_window(stream.id):
        return False
    h2.send_data(stream.id, frame)
    connection.flush()
    return True
