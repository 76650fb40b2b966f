"""Other machines, as far as rooms below gRPC know of them: an endpoint, a connection, a stream.

Room:      peer.remote   (a leaf; implemented by peer.rpc.client; used by client, ordering and cli)
Loop:      Trio
Lifetime:  a connection lives as long as the context it was dialled in
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from ssl import PEM_FOOTER, PEM_HEADER, PEM_cert_to_DER_cert
from typing import NamedTuple, Protocol

MAX_MESSAGE_BYTES = 100 * 1024 * 1024
"""Of one message, as Fabric's clients and servers take them."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What it takes to dial over TLS, as PEM text.

    Attributes:
        root: certificates that the server's must chain to.
        certificate: with `key`, for a server that asks for a client certificate.
        server_name: name to expect in the server's certificate instead of the address' host.
    """

    root: bytes
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    server_name: str = ""

    @property
    def certificate_hash(self) -> bytes:
        """What requests for blocks name the certificate by; empty without one.

        Raises:
            ValueError: there is no certificate in `certificate`.
        """
        return certificate_hash(self.certificate) if self.certificate else b""


def certificate_hash(pem: bytes) -> bytes:
    """Return the SHA-256 of a certificate, the first one of a chain.

    Raises:
        ValueError: there is none.
    """
    text = pem.decode("ascii", "replace")
    begin = text.index(PEM_HEADER)
    end = text.index(PEM_FOOTER, begin) + len(PEM_FOOTER)
    return hashlib.sha256(PEM_cert_to_DER_cert(text[begin:end])).digest()


class Endpoint(NamedTuple):
    """Where a gRPC server is, ``host:port``, and how its identity is made sure of."""

    address: str
    tls: ClientTls | None = None

    def __str__(self) -> str:
        return self.address


class Call(Protocol):
    """One stream of messages each way."""

    async def send(self, message: bytes) -> None:
        """Send a message, as soon as the server has room for it.

        Raises:
            CallFailed: the call is over; what it ended with.
        """
        ...

    async def end(self) -> None:
        """Say that no more messages come; the server may go on answering."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over what the server sends; waits for more until it ends the call.

        Raises:
            CallFailed: the call ended with another status than OK, or broke.
        """
        ...


class Connection(Protocol):
    """A gRPC server within reach."""

    @property
    def endpoint(self) -> Endpoint:
        """What was dialled."""
        ...

    async def unary(self, path: str, request: bytes, *, timeout_s: float | None = None) -> bytes:
        """Send one request and return the one response.

        Args:
            path: ``/package.Service/Method``.
            timeout_s: the server is told, too; without it there is no limit.

        Raises:
            CallFailed: any other outcome; DEADLINE_EXCEEDED when `timeout_s` have passed.

        Cancellation: the server is told that nobody waits any more.
        """
        ...

    def stream(self, path: str) -> AbstractAsyncContextManager[Call]:
        """Open a call for messages both ways; leaving the context early cancels it.

        Raises:
            CallFailed: it cannot be opened; later failures come from the `Call`.
        """
        ...


Dial = Callable[[Endpoint], AbstractAsyncContextManager[Connection]]
"""Connects, and raises `CallFailed` (UNAVAILABLE) when that does not work."""
