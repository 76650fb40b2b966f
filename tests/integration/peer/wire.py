"""The chaincode's side of the protocol by hand, so that it can also be spoken wrongly.

Room:      tests.integration.peer   (copied next to a test's chaincode.py, which imports it)
Loop:      asyncio
Lifetime:  one chaincode process
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from grpclib.client import Channel, StreamStreamMethod
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Server

from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    ChaincodeProposalPayload,
    ChaincodeSpec,
    GetState,
    GetStateByRange,
    Kv,
    Proposal,
    PutState,
    QueryResponse,
    QueryStateNext,
    Response,
)

T = ChaincodeMessageType
ADDRESS = sys.argv[-1].removeprefix("-peer.address=")
CCID = os.environ.get("CORE_CHAINCODE_ID_NAME", "")


class _Raw(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


class Call:
    """One handler stream, dialled or accepted."""

    def __init__(self, stream: Any, channel: Channel | None = None) -> None:
        self.stream = stream
        self._channel = channel

    def again(self) -> AbstractAsyncContextManager[Call]:
        """Open a second stream on the same connection."""
        assert self._channel is not None
        return register_at(self._channel)

    async def send_bytes(self, data: bytes) -> None:
        await self.stream.send_message(data)

    async def send(self, **fields: Any) -> None:
        await self.send_bytes(ChaincodeMessage(**fields).encode())

    async def receive(self) -> ChaincodeMessage | None:
        """Return the next message, None at the end of the stream.

        Raises:
            GRPCError: the peer refused the stream.
        """
        try:
            data = await self.stream.recv_message()
        except (StreamTerminatedError, ConnectionError):  # grpclib prefers the reset to the status
            data = None
        if data is None:
            trailers = dict(self.stream._stream.trailers or ())
            if (status := Status(int(trailers.get("grpc-status", 0)))) is not Status.OK:
                raise GRPCError(status, trailers.get("grpc-message"))
            return None
        return ChaincodeMessage.decode(data)

    async def register(self, name: str = CCID) -> None:
        """Register, and return when READY has come."""
        await self.send(type=T.REGISTER, payload=ChaincodeId(name=name).encode())
        for expected in (T.REGISTERED, T.READY):
            message = await self.receive()
            if message is None:
                raise ConnectionResetError("the peer ended the stream")
            assert message.type == expected, message


def server_only_tls() -> ssl.SSLContext:
    """Check the peer's certificate and show none."""
    context = ssl.create_default_context(cafile=os.environ["CORE_PEER_TLS_ROOTCERT_FILE"])
    context.set_alpn_protocols(["h2"])
    return context


def client_tls(certificate: str = "", key: str = "") -> ssl.SSLContext | None:
    """Return what the environment of a launched chaincode asks for, or another certificate."""
    if os.environ.get("CORE_PEER_TLS_ENABLED") != "true":
        return None
    context = server_only_tls()
    context.load_cert_chain(
        certificate or os.environ["CORE_TLS_CLIENT_CERT_FILE"],
        key or os.environ["CORE_TLS_CLIENT_KEY_FILE"],
    )
    return context


@asynccontextmanager
async def dial(
    address: str = ADDRESS, tls: Callable[[], ssl.SSLContext | None] = client_tls
) -> AsyncIterator[Call]:
    """Open `Register` at the peer."""
    if address.startswith("unix://"):
        named = Configuration(ssl_target_name_override="localhost")
        path = address.removeprefix("unix://")
        channel = Channel(path=path, codec=_Raw(), ssl=tls(), config=named)
    else:
        host, _, port = address.rpartition(":")
        channel = Channel(host, int(port), codec=_Raw(), ssl=tls())
    try:
        async with register_at(channel) as call:
            yield call
    finally:
        channel.close()


@asynccontextmanager
async def register_at(channel: Channel) -> AsyncIterator[Call]:
    method = StreamStreamMethod(channel, "/protos.ChaincodeSupport/Register", bytes, bytes)
    async with method.open() as stream:
        await stream.send_request()
        yield Call(stream, channel)
        with suppress(StreamTerminatedError, ConnectionError):
            await stream.cancel()


async def status_of(
    address: str, name: str, tls: Callable[[], ssl.SSLContext | None] = client_tls
) -> str:
    """Try to register and return how the peer refused it, or REGISTERED."""
    try:
        async with dial(address, tls) as call:
            await call.send(type=T.REGISTER, payload=ChaincodeId(name=name).encode())
            while (message := await call.receive()) is not None:
                return str(T(message.type).name)
    except GRPCError as exc:
        return f"{exc.status.name}: {exc.message}"
    except (OSError, StreamTerminatedError) as exc:
        return f"closed: {exc}"
    return "closed"


class Refused(Exception):
    """The peer answered a request with ERROR."""


class Stub:
    """One transaction, as a chaincode's function sees it."""

    def __init__(self, call: Call, message: ChaincodeMessage) -> None:
        self.call = call
        self.txid, self.channel_id = message.txid, message.channel_id
        self.is_init = message.type == T.INIT
        self.event: ChaincodeEvent | None = None
        self.answers: asyncio.Queue[ChaincodeMessage] = asyncio.Queue()
        self._proposal = message.proposal

    @property
    def transient(self) -> dict[str, bytes]:
        proposal = Proposal.decode(self._proposal.proposal_bytes)
        return ChaincodeProposalPayload.decode(proposal.payload).transient_map

    async def ask(self, kind: int, payload: bytes) -> bytes:
        await self.call.send(type=kind, payload=payload, txid=self.txid, channel_id=self.channel_id)
        answer = await self.answers.get()
        if answer.type != T.RESPONSE:
            raise Refused(answer.payload.decode())
        return answer.payload

    async def get(self, key: str, collection: str = "") -> bytes:
        return await self.ask(T.GET_STATE, GetState(key=key, collection=collection).encode())

    async def put(self, key: str, value: bytes, collection: str = "") -> None:
        request = PutState(key=key, value=value, collection=collection)
        await self.ask(T.PUT_STATE, request.encode())

    async def range(self, start: str, end: str) -> AsyncIterator[Kv]:
        page = QueryResponse.decode(
            await self.ask(
                T.GET_STATE_BY_RANGE, GetStateByRange(start_key=start, end_key=end).encode()
            )
        )
        while True:
            for result in page.results:
                yield Kv.decode(result.result_bytes)
            if not page.has_more:
                return
            page = QueryResponse.decode(
                await self.ask(T.QUERY_STATE_NEXT, QueryStateNext(id=page.id).encode())
            )

    async def invoke(self, name: str, channel_id: str, args: Sequence[bytes]) -> Response:
        spec = ChaincodeSpec(
            chaincode_id=ChaincodeId(name=f"{name}/{channel_id}" if channel_id else name),
            input=ChaincodeInput(args=list(args)),
        )
        answer = ChaincodeMessage.decode(await self.ask(T.INVOKE_CHAINCODE, spec.encode()))
        if answer.type != T.COMPLETED:
            raise Refused(answer.payload.decode())
        return Response.decode(answer.payload)

    async def complete(self, response: Response) -> None:
        await self.call.send(
            type=T.COMPLETED,
            payload=response.encode(),
            txid=self.txid,
            channel_id=self.channel_id,
            chaincode_event=self.event,
        )


strays: asyncio.Queue[ChaincodeMessage] = asyncio.Queue()
"""Messages that belong to no transaction."""

Function = Callable[[Stub, list[bytes]], Awaitable[bytes | Response]]


async def answer_calls(call: Call, function: Function) -> None:
    """Answer transactions, each in a task of its own, until the stream ends."""
    running: dict[tuple[str, str], tuple[Stub, asyncio.Task[None]]] = {}
    while (message := await call.receive()) is not None:
        key = (message.channel_id, message.txid)
        if message.type in (T.TRANSACTION, T.INIT):
            stub = Stub(call, message)
            args = ChaincodeInput.decode(message.payload).args
            running[key] = (stub, asyncio.create_task(_run(stub, function, args)))
        elif key in running:
            running[key][0].answers.put_nowait(message)
        else:
            strays.put_nowait(message)
    for _, task in running.values():
        task.cancel()


async def _run(stub: Stub, function: Function, args: list[bytes]) -> None:
    try:
        response = await function(stub, args)
    except Exception as exc:
        response = Response(status=500, message=f"{type(exc).__name__}: {exc}")
    if not isinstance(response, Response):
        response = Response(status=200, payload=response)
    await stub.complete(response)


async def chaincode(function: Function) -> None:
    """Dial the peer, register and answer calls until it hangs up."""
    async with dial() as call:
        await call.register()
        await answer_calls(call, function)


async def service(function: Function, port: int, name: str) -> None:
    """Be a chaincode that the peer dials: tell the port, then serve one stream after the other."""

    async def connect(stream: Any) -> None:
        call = Call(stream)
        await stream.send_initial_metadata()
        await call.register(name)
        await answer_calls(call, function)

    class Service:
        def __mapping__(self) -> dict[str, Handler]:
            return {
                "/protos.Chaincode/Connect": Handler(
                    connect, Cardinality.STREAM_STREAM, bytes, bytes
                )
            }

    server = Server([Service()], codec=_Raw())
    await server.start("127.0.0.1", port)
    [listener] = server._server.sockets
    print(listener.getsockname()[1], flush=True)
    await asyncio.Event().wait()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a chaincode's main; a peer that hangs up is a normal end."""
    try:
        asyncio.run(main)
    except (ConnectionError, StreamTerminatedError) as exc:
        sys.exit(f"gave up: {exc}")
    except GRPCError as exc:
        sys.exit(f"refused: {exc.status.name}: {exc.message}")
