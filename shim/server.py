"""Server mode: listen, and serve every peer that connects (chaincode as a service).

Room:      shim   (imports grpclib.server; loaded in this mode only)
Loop:      asyncio
Lifetime:  the process, or the task that runs `ChaincodeServer.serve`; each stream has its handler
Fabric:    `ChaincodeServer`, shim/chaincodeserver.go (fabric-chaincode-go)
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING
from weakref import WeakSet

from grpclib.const import Cardinality, Status
from grpclib.const import Handler as Method
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError
from grpclib.server import Handler as Requests
from grpclib.server import Server, Stream

from .chaincode import Chaincode
from .errors import SetupError, StreamClosed
from .handler import Handler
from .settings import split_address
from .transport import GOODBYE_LIMIT_S, GrpcStream, Http2, keepalive
from .workers import Workers

if TYPE_CHECKING:
    import ssl

    from .tls import TLS

METHOD = "/protos.Chaincode/Connect"

log = logging.getLogger("shim")


class ChaincodeServer:
    """A chaincode that peers dial.

    Args:
        ccid: id to register under; the package id the peers know.
        address: where to listen, ``host:port`` or ``unix:///path``; no host is every interface.
        chaincode: what to run.
        tls: material; None listens in clear text.
        workers: threads for plain functions, shared between all streams.

    Raises:
        SetupError: an argument is missing.
    """

    def __init__(
        self,
        ccid: str,
        address: str,
        chaincode: Chaincode,
        tls: TLS | None = None,
        *,
        workers: Workers | None = None,
    ) -> None:
        for name, value in (("ccid", ccid), ("address", address), ("chaincode", chaincode)):
            if not value:
                raise SetupError(f"{name} must be specified")
        self._ccid = ccid
        self._chaincode = chaincode
        self._tls = tls
        self._workers = workers or Workers()
        self._address = address
        self._stop = asyncio.Event()
        self._streams: set[asyncio.Task[object]] = set()

    async def serve(
        self, stop: asyncio.Event | None = None, *, sock: socket.socket | None = None
    ) -> None:
        """Listen until *stop* is set; then let running transactions finish and return.

        Args:
            stop: never set, or None, serves until cancelled.
            sock: a bound socket to use in place of the address.

        Raises:
            SetupError: the address cannot be listened on, or the TLS material not used.

        Cancellation: closes every stream.
        """
        self._stop = stop or self._stop
        context: ssl.SSLContext | None = None
        if self._tls is not None:
            from .tls import server_context

            context = server_context(self._tls)
        server = Listener(self)
        host, port, path = split_address(self._address)
        try:
            if sock is not None:
                await server.start(sock=sock, ssl=context)
            elif path:
                await server.start(path=path, ssl=context)
            else:
                await server.start(host or None, port, ssl=context)
        except OSError as exc:
            raise SetupError(f"cannot listen on {self._address}: {exc.strerror or exc}") from exc
        log.info("listening on %s as %s", self._address, self._ccid)
        try:
            await self._stop.wait()
            if self._streams:
                await asyncio.wait(self._streams)
        finally:
            await server.shut()
            self._workers.close()

    def __mapping__(self) -> dict[str, Method]:
        """Name the one method; grpclib asks."""
        return {METHOD: Method(self._connect, Cardinality.STREAM_STREAM, bytes, bytes)}

    async def _connect(self, stream: Stream[bytes, bytes]) -> None:
        if self._stop.is_set():
            raise GRPCError(Status.UNAVAILABLE, "the chaincode is shutting down")
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            duplex = GrpcStream(stream._stream)
            await stream.send_initial_metadata()
            await Handler(self._chaincode, self._ccid, duplex, self._workers).run(self._stop)
        except StreamClosed as exc:
            log.warning("stream lost: %s", exc)
            raise GRPCError(Status.ABORTED, str(exc)) from exc
        finally:
            self._streams.discard(task)


class Listener(Server):
    """grpclib's server on connections that ignore unknown frames and can be closed."""

    def __init__(self, servable: ChaincodeServer) -> None:
        super().__init__([servable], codec=ProtoCodec(), config=keepalive())
        self._connections: WeakSet[Http2] = WeakSet()

    async def shut(self) -> None:
        """Stop listening, end every stream and close every connection."""
        self.close()
        await asyncio.gather(
            *(connection.shut(GOODBYE_LIMIT_S) for connection in self._connections)
        )

    def _protocol_factory(self) -> Http2:
        self.__gc_step__()
        requests = Requests(self._mapping, self._codec, None, self.__dispatch__)
        self._handlers.add(requests)
        connection = Http2(requests, self._config, self._h2_config)
        self._connections.add(connection)
        return connection
