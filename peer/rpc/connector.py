"""Dial chaincodes that run as a service.

Room:      peer.rpc   (implements peer.chaincode.connections.Connector)
Loop:      Trio calls, asyncio speaks HTTP/2
Lifetime:  stream
Fabric:    core/chaincode/extcc/extcc_handler.go (release-2.5)
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any

import trio
from grpclib.client import StreamStreamMethod
from grpclib.config import Configuration
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from trio_asyncio import aio_as_trio

from peer.chaincode.connections import ChaincodeServerInfo, ConnectionFailed, Serve
from peer.chaincode.stream import MAX_MESSAGE_BYTES, PeerEnd
from peer.rpc import http2
from peer.rpc.streams import GrpcStream
from peer.rpc.tls import client_context

CONNECT = "/protos.Chaincode/Connect"
PING_S = 60.0
PING_TIMEOUT_S = 20.0


class ServiceConnector:
    """Dials `protos.Chaincode`.

    Args:
        limit: bytes of the largest message.
    """

    def __init__(self, *, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._limit = limit

    async def connect(self, info: ChaincodeServerInfo, serve: Serve) -> None:
        """Open `Connect` and serve the stream to its end; see `Connector.connect`."""
        failure: ConnectionFailed | None = None
        async with trio.open_nursery() as streams:
            try:
                await aio_as_trio(self._hold)(info, serve, streams)
            except GRPCError as exc:
                failure = ConnectionFailed(f"{info.address}: {exc.status.name}: {exc.message}")
            except (TimeoutError, OSError, ValueError, ProtocolError) as exc:
                cause = "no answer within the dial timeout" if _is_timeout(exc) else str(exc)
                failure = ConnectionFailed(f"{info.address}: {cause}")
            streams.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _hold(self, info: ChaincodeServerInfo, serve: Serve, streams: trio.Nursery) -> None:
        """Run the asyncio side of one call."""
        host, _, port = info.address.rpartition(":")
        tls = client_context(info.tls) if info.tls is not None else None
        config = Configuration(
            http2_connection_window_size=2**24,
            ssl_target_name_override=(info.tls.server_name if info.tls else "") or None,
            _keepalive_time=PING_S,
            _keepalive_timeout=PING_TIMEOUT_S,
            _keepalive_permit_without_calls=True,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=PING_S / 2,
        )
        channel = http2.Channel(
            host.strip("[]"), int(port), ssl=tls, config=config, codec=http2.BytesCodec()
        )
        method: StreamStreamMethod[Any, Any] = StreamStreamMethod(channel, CONNECT, bytes, bytes)
        try:
            async with method.open() as call:
                await asyncio.wait_for(call.send_request(), info.dial_timeout_s)
                stream = GrpcStream(http2.h2_stream(call), PeerEnd(), limit=self._limit)
                streams.start_soon(stream.serve, serve)
                with suppress(GRPCError):  # a client has no way to say why it refuses
                    await stream.write_until_served()
                raise StreamTerminatedError  # else grpclib waits for the service to end the call
        except StreamTerminatedError:
            pass  # unless the service ended the call with an error, which is raised instead
        finally:
            channel.close()


def _is_timeout(exc: BaseException) -> bool:
    return isinstance(exc, asyncio.TimeoutError) and not isinstance(exc, ssl.SSLError)
