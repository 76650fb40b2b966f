"""Client mode: dial the peer and register.

Room:      shim   (imports grpclib.protocol only: half of grpclib's import time is the rest)
Loop:      asyncio
Lifetime:  one stream; its end is the end of the process
Fabric:    `Start`, shim/shim.go (fabric-chaincode-go)

Server name with TLS: the host of the address. A Unix socket has no host, so there the chain is
verified and no name: the root is the peer's private authority, which certifies nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from grpclib.protocol import AbstractHandler
from h2.config import H2Configuration
from h2.exceptions import H2Error

from .errors import StreamClosed
from .handler import Handler
from .settings import split_address
from .transport import GOODBYE_LIMIT_S, GrpcStream, Http2, keepalive

if TYPE_CHECKING:
    from .chaincode import Chaincode
    from .tls import TLS
    from .workers import Workers

METHOD = "/protos.ChaincodeSupport/Register"
CONNECT_LIMIT_S = 10.0


async def run_client(
    chaincode: Chaincode,
    ccid: str,
    address: str,
    tls: TLS | None = None,
    *,
    workers: Workers | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve one peer until it ends the stream or *stop* is set.

    Args:
        address: ``host:port`` or ``unix:///path``.

    Raises:
        StreamClosed: the peer cannot be reached, refused the registration, or was lost.
        SetupError: address or TLS material cannot be used.

    Cancellation: closes the connection.
    """
    async with connect(address, tls) as stream:
        await Handler(chaincode, ccid, stream, workers).run(stop)


@asynccontextmanager
async def connect(address: str, tls: TLS | None = None) -> AsyncIterator[GrpcStream]:
    """Open the stream to a peer; leaving ends it and waits for the peer to agree.

    Raises:
        StreamClosed: the peer cannot be reached within `CONNECT_LIMIT_S`.
        SetupError: address or TLS material cannot be used.
    """
    protocol = await _dial(address, tls)
    authority = "localhost" if address.startswith("unix:") else address
    try:
        async with call(protocol, "http" if tls is None else "https", authority) as stream:
            yield stream
    except H2Error as exc:
        raise StreamClosed(f"the connection to {address} failed: {exc}") from exc


@asynccontextmanager
async def call(protocol: Connection, scheme: str, authority: str) -> AsyncIterator[GrpcStream]:
    """Open the stream on a connection; leaving ends both and waits for the peer to agree.

    Raises:
        H2Error: the connection is over.
    """
    try:
        stream = protocol.processor.connection.create_stream()
        headers = [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", METHOD),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "triopeer-shim"),
        ]
        await stream.send_request(headers, _processor=protocol.processor)
        duplex = GrpcStream(stream)
        try:
            yield duplex
        finally:
            await duplex.goodbye(GOODBYE_LIMIT_S)
    finally:
        await protocol.shut(GOODBYE_LIMIT_S)


class Connection(Http2):
    """The client's side of a connection."""

    def __init__(self) -> None:
        config = H2Configuration(
            client_side=True,
            header_encoding="ascii",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(_NoRequests(), keepalive(), config)


class _NoRequests(AbstractHandler):
    """A client's connection takes no requests: h2 refuses them before they come here."""

    def accept(self, *_: object) -> None:
        """Never called."""

    def cancel(self, *_: object) -> None:
        """Hear of a reset, which the stream itself is told too."""

    def close(self) -> None:
        """Hear of the end."""


async def _dial(address: str, tls: TLS | None) -> Connection:
    host, port, path = split_address(address)
    context = None
    if tls is not None:
        from .tls import client_context

        context = client_context(tls, check_hostname=not path)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_LIMIT_S):
            if path:
                _, protocol = await loop.create_unix_connection(
                    Connection, path, ssl=context, server_hostname="localhost" if context else None
                )
            else:
                _, protocol = await loop.create_connection(
                    Connection, host or "localhost", port, ssl=context
                )
    except TimeoutError as exc:
        raise StreamClosed(f"no connection to {address} within {CONNECT_LIMIT_S:g} s") from exc
    except OSError as exc:
        raise StreamClosed(f"no connection to {address}: {exc}") from exc
    return protocol
