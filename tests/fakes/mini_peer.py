"""A scripted peer, just large enough to prove that the test chaincodes work.

Room:      tests.fakes   (imports fabric_protos; used by test_counterparts_smoke.py)
Loop:      asyncio
Lifetime:  one test
Fabric:    core/chaincode/handler.go (release-2.5), without checks, endorsement or blocks

It trusts every chaincode, keeps the state in dictionaries and commits a transaction when it ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grpclib.client import Channel
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Server

from fabric_protos.common import ChannelHeader, Header, SignatureHeader
from fabric_protos.protos import (
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeProposalPayload,
    ChaincodeSpec,
    DelState,
    GetHistoryForKey,
    GetState,
    GetStateByRange,
    GetStateMetadata,
    GetStateMultiple,
    GetStateMultipleResult,
    Proposal,
    PutState,
    PutStateMetadata,
    QueryMetadata,
    QueryResponse,
    QueryResponseMetadata,
    QueryResultBytes,
    QueryStateClose,
    QueryStateNext,
    Response,
    SignedProposal,
    StateMetadata,
    StateMetadataResult,
)
from fabric_protos.protos import ChaincodeMessageType as Type
from fabric_protos.queryresult import KeyModification, Kv
from tests.integration.driver import NoResponse, Result

_REGISTER = "/protos.ChaincodeSupport/Register"
_CONNECT = "/protos.Chaincode/Connect"
BATCH = 100
COLLECTION = "secrets"  # the only one, of every chaincode
CREATOR = b"\n\x07Org1MSP\x12\x0bcertificate"  # a SerializedIdentity

Key = tuple[str, str, str]
"""Namespace, collection (empty for public state) and key."""


class Refused(Exception):
    """A request is answered with ERROR and this text."""


class _Raw(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


@dataclass
class World:
    """The state of one channel."""

    values: dict[Key, bytes] = field(default_factory=dict)
    metadata: dict[Key, bytes] = field(default_factory=dict)
    history: dict[Key, list[KeyModification]] = field(default_factory=lambda: defaultdict(list))

    def commit(self, transaction: Transaction) -> None:
        for store, key, value in transaction.writes:
            if store == "metadata":
                self.metadata[key] = value
                continue
            self.history[key].append(
                KeyModification(
                    tx_id=transaction.tx_id,
                    value=value,
                    timestamp=transaction.timestamp,
                    is_delete=not value,
                )
            )
            if value:
                self.values[key] = value
            else:
                self.values.pop(key, None)


@dataclass
class Transaction:
    """One execution of the outermost chaincode; callees share its writes or have their own."""

    channel: str
    world: World
    tx_id: str
    timestamp: datetime
    proposal: SignedProposal
    writes: list[tuple[str, Key, bytes]] = field(default_factory=list)
    iterators: dict[str, list[bytes]] = field(default_factory=dict)
    paged: bool = False

    def write(self, store: str, key: Key, value: bytes) -> bytes:
        if self.paged:
            raise Refused(
                f"txid [{self.tx_id}]: unsupported transaction. Transaction has already performed "
                "a paginated query. Writes are not allowed"
            )
        self.writes.append((store, key, value))
        return b""

    def page(self, iterator: str, pending: list[bytes]) -> bytes:
        page, rest = pending[:BATCH], pending[BATCH:]
        if rest:
            self.iterators[iterator] = rest
        else:
            self.iterators.pop(iterator, None)
        return _results(page, iterator, has_more=bool(rest))

    def range(self, namespace: str, request: GetStateByRange) -> bytes:
        start, end = request.start_key.encode(), request.end_key.encode()
        metadata = QueryMetadata.parse(request.metadata)
        start = metadata.bookmark.encode() or start
        found = sorted(
            (key.encode(), value)
            for (owner, collection, key), value in self.world.values.items()
            if (owner, collection) == (namespace, request.collection)
            and start <= key.encode()
            and (not end or key.encode() < end)
        )
        records = [bytes(Kv(namespace=namespace, key=k.decode(), value=v)) for k, v in found]
        iterator = secrets.token_hex(8)
        if not request.metadata:
            return self.page(iterator, records)
        self.paged = True
        size = metadata.page_size
        bookmark = found[size][0].decode() if len(found) > size else ""
        page = records[:size]
        counted = QueryResponseMetadata(fetched_records_count=len(page), bookmark=bookmark)
        return _results(page, iterator, metadata=bytes(counted))


def _key(namespace: str, collection: str, key: str) -> Key:
    if collection not in ("", COLLECTION):
        raise Refused(f"collection {namespace}/{collection} could not be found")
    return namespace, collection, key


def _results(
    records: Sequence[bytes], iterator: str, *, has_more: bool = False, metadata: bytes = b""
) -> bytes:
    results = [QueryResultBytes(result_bytes=record) for record in records]
    return bytes(QueryResponse(results=results, has_more=has_more, id=iterator, metadata=metadata))


class Link:
    """One chaincode's stream."""

    def __init__(self, peer: MiniPeer, stream: Any) -> None:
        self._peer = peer
        self._stream = stream
        self._running: dict[tuple[str, str], tuple[Transaction, str, asyncio.Future[Any]]] = {}
        self.log: list[ChaincodeMessage] = []

    async def run(self) -> None:
        name = ""
        try:
            async with asyncio.TaskGroup() as requests:
                while (data := await self._receive()) is not None:
                    message = ChaincodeMessage.parse(data)
                    self.log.append(message)
                    if message.type == Type.REGISTER:
                        name = ChaincodeId.parse(message.payload).name
                        await self.send(type=Type.REGISTERED)
                        await self.send(type=Type.READY)
                        self._peer.attach(name, self)
                    elif running := self._running.get((message.channel_id, message.txid)):
                        transaction, namespace, ended = running
                        if message.type in (Type.COMPLETED, Type.ERROR):
                            ended.set_result(message)
                        else:
                            answer = self._answer(transaction, namespace, message)
                            requests.create_task(answer)
        finally:
            self._peer.detach(name)
            for _, _, ended in self._running.values():
                if not ended.done():
                    ended.set_exception(NoResponse("chaincode stream terminated"))

    async def _receive(self) -> bytes | None:
        try:
            return await self._stream.recv_message()
        except (StreamTerminatedError, GRPCError):
            return None

    async def send(self, **fields: Any) -> None:
        try:
            await self._stream.send_message(bytes(ChaincodeMessage(**fields)))
        except StreamTerminatedError:
            raise NoResponse("chaincode stream terminated") from None

    async def execute(
        self, transaction: Transaction, namespace: str, kind: Type, chaincode_input: ChaincodeInput
    ) -> ChaincodeMessage:
        key = transaction.channel, transaction.tx_id
        if key in self._running:
            raise Refused(f"txid: {transaction.tx_id}({transaction.channel}) exists")
        ended = asyncio.get_running_loop().create_future()
        self._running[key] = transaction, namespace, ended
        try:
            await self.send(
                type=kind,
                payload=bytes(chaincode_input),
                txid=transaction.tx_id,
                channel_id=transaction.channel,
                proposal=transaction.proposal,
            )
            async with asyncio.timeout(self._peer.execute_timeout_s):
                return await ended
        except TimeoutError:
            raise NoResponse("timeout expired while executing transaction") from None
        finally:
            del self._running[key]

    async def _answer(
        self, transaction: Transaction, namespace: str, message: ChaincodeMessage
    ) -> None:
        try:
            kind, payload = Type.RESPONSE, await self._handle(transaction, namespace, message)
        except Exception as exc:  # a malformed request too is answered
            kind, payload = Type.ERROR, (str(exc) or repr(exc)).encode()
        with suppress(NoResponse):
            await self.send(
                type=kind, payload=payload, txid=message.txid, channel_id=message.channel_id
            )

    async def _handle(self, tx: Transaction, namespace: str, message: ChaincodeMessage) -> bytes:
        world, payload = tx.world, message.payload
        match message.type:
            case Type.GET_STATE:
                get = GetState.parse(payload)
                return world.values.get(_key(namespace, get.collection, get.key), b"")
            case Type.GET_STATE_MULTIPLE:
                many = GetStateMultiple.parse(payload)
                keys = [_key(namespace, many.collection, key) for key in many.keys]
                values = [world.values.get(key, b"") for key in keys]
                return bytes(GetStateMultipleResult(values=values))
            case Type.GET_PRIVATE_DATA_HASH:
                get = GetState.parse(payload)
                value = world.values.get(_key(namespace, get.collection, get.key))
                return hashlib.sha256(value).digest() if value else b""
            case Type.PUT_STATE:
                put = PutState.parse(payload)
                return tx.write("values", _key(namespace, put.collection, put.key), put.value)
            case Type.DEL_STATE | Type.PURGE_PRIVATE_DATA:
                gone = DelState.parse(payload)
                return tx.write("values", _key(namespace, gone.collection, gone.key), b"")
            case Type.GET_STATE_METADATA:
                get = GetStateMetadata.parse(payload)
                policy = world.metadata.get(_key(namespace, get.collection, get.key))
                entry = StateMetadata(metakey="VALIDATION_PARAMETER", value=policy or b"")
                return bytes(StateMetadataResult(entries=[entry] if policy else []))
            case Type.PUT_STATE_METADATA:
                meta = PutStateMetadata.parse(payload)
                assert meta.metadata is not None
                assert meta.metadata.metakey == "VALIDATION_PARAMETER"
                key = _key(namespace, meta.collection, meta.key)
                return tx.write("metadata", key, meta.metadata.value)
            case Type.GET_STATE_BY_RANGE:
                return tx.range(namespace, GetStateByRange.parse(payload))
            case Type.GET_HISTORY_FOR_KEY:
                key = (namespace, "", GetHistoryForKey.parse(payload).key)
                entries = [bytes(entry) for entry in reversed(world.history[key])]
                return tx.page(secrets.token_hex(8), entries)
            case Type.QUERY_STATE_NEXT:
                iterator = QueryStateNext.parse(payload).id
                if iterator not in tx.iterators:
                    raise Refused("query iterator not found")
                return tx.page(iterator, tx.iterators[iterator])
            case Type.QUERY_STATE_CLOSE:
                iterator = QueryStateClose.parse(payload).id
                tx.iterators.pop(iterator, None)
                return _results([], iterator)
            case Type.INVOKE_CHAINCODE:
                return await self._call(tx, ChaincodeSpec.parse(payload))
        raise Refused(f"{message.type!r} is not supported")

    async def _call(self, caller: Transaction, spec: ChaincodeSpec) -> bytes:
        assert spec.chaincode_id is not None
        assert spec.input is not None
        name, _, channel = spec.chaincode_id.name.partition("/")
        callee = caller
        if channel and channel != caller.channel:
            callee = self._peer.transaction(channel, like=caller)
        link = self._peer.find(callee.channel, name)
        try:
            return bytes(await link.execute(callee, name, Type.TRANSACTION, spec.input))
        except (Refused, NoResponse) as exc:
            raise Refused(f"INVOKE_CHAINCODE failed: execute failed: {exc}") from exc


class MiniPeer:
    """Channels, the chaincodes on them and the streams of those that run."""

    def __init__(self, execute_timeout_s: float = 20.0) -> None:
        self.execute_timeout_s = execute_timeout_s
        self._worlds: dict[str, World] = defaultdict(World)
        self._definitions: dict[tuple[str, str], str] = {}
        self._links: dict[str, asyncio.Future[Link]] = {}

    def define(self, channel: str, name: str, ccid: str) -> None:
        """Let `name` on `channel` be served by the process that registers as `ccid`."""
        self._definitions[channel, name] = ccid
        self._links.setdefault(ccid, asyncio.get_running_loop().create_future())

    @asynccontextmanager
    async def listening(self, unix_path: Path | None = None) -> AsyncIterator[str]:
        """Accept chaincodes that dial; yields the address to give to them."""
        register = Handler(self._register, Cardinality.STREAM_STREAM, bytes, bytes)
        service = type("S", (), {"__mapping__": lambda _: {_REGISTER: register}})()
        server = Server([service], codec=_Raw())
        if unix_path is None:
            await server.start("127.0.0.1", 0)
            port = server._server.sockets[0].getsockname()[1]
            address = f"127.0.0.1:{port}"
        else:
            await server.start(path=str(unix_path))
            address = f"unix://{unix_path}"
        try:
            yield address
        finally:
            server.close()
            await server.wait_closed()

    async def connect(self, host: str, port: int) -> None:
        """Dial a chaincode that runs as a service; returns when its stream has ended."""
        # Nobody listens, or the stream broke or ended from the other side.
        with suppress(OSError, ProtocolError, StreamTerminatedError, GRPCError):
            async with (
                Channel(host, port, codec=_Raw()) as channel,
                channel.request(_CONNECT, Cardinality.STREAM_STREAM, bytes, bytes) as stream,
            ):
                await stream.send_request()
                await Link(self, stream).run()

    async def _register(self, stream: Any) -> None:
        await stream.send_initial_metadata()
        await Link(self, stream).run()

    def attach(self, ccid: str, link: Link) -> None:
        self._links[ccid].set_result(link)

    def detach(self, ccid: str) -> None:
        if ccid:
            self._links[ccid] = asyncio.get_running_loop().create_future()

    def is_ready(self, ccid: str) -> bool:
        return self._links[ccid].done()

    async def ready(self, ccid: str) -> Link:
        """Wait until `ccid` has registered."""
        return await asyncio.shield(self._links[ccid])

    def find(self, channel: str, name: str) -> Link:
        ccid = self._definitions.get((channel, name))
        if ccid is None or not self.is_ready(ccid):
            raise Refused(f"chaincode {name} not found on channel {channel}")
        return self._links[ccid].result()

    def transaction(
        self,
        channel: str,
        *,
        like: Transaction | None = None,
        transient: Mapping[str, bytes] | None = None,
    ) -> Transaction:
        world = self._worlds[channel]
        if like is not None:
            return Transaction(channel, world, like.tx_id, like.timestamp, like.proposal)
        tx_id, now = secrets.token_hex(32), datetime.now(UTC)
        header = Header(
            channel_header=bytes(
                ChannelHeader(type=3, timestamp=now, channel_id=channel, tx_id=tx_id)
            ),
            signature_header=bytes(SignatureHeader(creator=CREATOR, nonce=secrets.token_bytes(24))),
        )
        # Node refuses a proposal with an empty payload, so the input is never left out.
        payload = ChaincodeProposalPayload(input=b"\n\x00", transient_map=dict(transient or {}))
        proposal = bytes(Proposal(header=bytes(header), payload=bytes(payload)))
        return Transaction(channel, world, tx_id, now, SignedProposal(proposal_bytes=proposal))

    async def execute(
        self,
        channel: str,
        chaincode: str,
        args: Sequence[bytes],
        *,
        transient: Mapping[str, bytes] | None = None,
        kind: Type = Type.TRANSACTION,
        commit: bool = True,
    ) -> Result:
        """Run one transaction and commit its writes if the chaincode liked it."""
        transaction = self.transaction(channel, transient=transient)
        link = self.find(channel, chaincode)
        ended = await link.execute(transaction, chaincode, kind, ChaincodeInput(args=list(args)))
        if ended.type == Type.ERROR:
            raise NoResponse(f"transaction returned with failure: {ended.payload.decode()}")
        response = Response.parse(ended.payload)
        if commit and response.status < 400:
            transaction.world.commit(transaction)
        event = ended.chaincode_event
        return Result(
            tx_id=transaction.tx_id,
            status=response.status,
            message=response.message,
            payload=response.payload,
            event=(event.event_name, event.payload) if event else None,
        )
