"""How streams come to the peer: listeners it opens, services it dials.

Room:      peer.chaincode   (implemented by peer.rpc; used by launcher, registry and lifecycle)
Loop:      Trio
Lifetime:  a listener lives as long as the instance it was opened for
Fabric:    internal/pkg/comm, core/container/ccintf/ccintf.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from peer.chaincode.stream import MessageStream
from peer.remote import ClientTls

Serve = Callable[[MessageStream], Awaitable[None]]
"""Runs one stream to its end. `StreamRefused` out of it is the status the other side reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaincodeServerInfo:
    """Where a chaincode listens that runs as a service.

    Source: `ChaincodeServerInfo`, core/container/ccintf/ccintf.go (release-2.5).
    """

    ccid: str
    address: str
    dial_timeout_s: float = 3.0
    tls: ClientTls | None = None


class Endpoint(Protocol):
    """A listener that is open."""

    @property
    def address(self) -> str:
        """What a chaincode dials: ``host:port`` or ``unix:///path``."""
        ...

    def stop_accepting(self) -> None:
        """Let nobody else in; what is connected stays."""
        ...


class Listeners(Protocol):
    """Opens listeners for `protos.ChaincodeSupport`."""

    def open(
        self, serve: Serve, *, unix: bool, host: str = ..., name: str = ...
    ) -> AbstractAsyncContextManager[Endpoint]:
        """Listen on an address of its own; leaving the context ends every stream that came in.

        Args:
            unix: on a Unix socket.
            host: else on this IP address, any port.
            name: what chaincodes dial in place of `host`, if not empty.

        Raises:
            OSError: it cannot be had.
        """
        ...


class Connector(Protocol):
    """Dials chaincodes that run as a service."""

    async def connect(self, info: ChaincodeServerInfo, serve: Serve) -> None:
        """Open `protos.Chaincode/Connect` and serve the stream to its end.

        Raises:
            ConnectionFailed: nobody answers there within the dial timeout, the handshake fails, or
                the service ended the call with an error.
        """
        ...


class ConnectionFailed(Exception):
    """A service could not be reached; the text names address and cause."""
