"""``protos.Deliver``: blocks of a channel, whole, filtered, or with private data.

Room:      peer.services   (imports peer.events; used by broadcast and assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/peer/deliverevents.go (release-2.5)
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, Envelope, Payload, Status
from fabric_protos.protos import BlockAndPrivateData, DeliverResponse
from fabric_protos.rwset import TxPvtReadWriteSet
from fabric_protos.stream import ChannelHeader, SignatureHeader
from peer.channel.bundle import Bundle
from peer.channel.channel import Channel
from peer.events.deliver import TIME_WINDOW_S, BlockSource, Chain, Deliverer
from peer.events.filtered import filtered_block
from peer.ledger.api import Ledger
from peer.ledger.blocks import header_of
from peer.metrics import DeliverMeters, Registry
from peer.msp.policies import SignedData
from peer.services.api import SMALL, Caller, Method, Requests, Send, Streaming, decoder

BLOCK_ACL = "event/Block"
FILTERED_ACL = "event/FilteredBlock"

FindChannel = Callable[[str], Channel | None]
IsMember = Callable[[str, str, str, SignedData], bool]
"""Tells of channel, chaincode and collection whether the signer is a member."""

Answer = Callable[[Envelope, Block], Awaitable[DeliverResponse | bytes]]
"""Makes the response of a block for a request; marshalled, where many get the same."""

RECENT_BLOCKS = 16
"""Filtered blocks that are kept for others who follow their channels."""


class _Asked(NamedTuple):
    """Who asks for the blocks of what."""

    channel_id: str
    requester: SignedData


def methods(
    find: FindChannel,
    is_member: IsMember,
    *,
    time_window_s: float = TIME_WINDOW_S,
    meters: DeliverMeters | None = None,
) -> Sequence[Method]:
    """Return the methods of the service.

    Args:
        find: returns a joined channel, None where there is none of that name.
        time_window_s: how far the clock of a request may be off.
        meters: streams, requests and blocks are counted there.
    """
    counted = meters or DeliverMeters(Registry())

    def deliverer(resource: str, data_type: str) -> Deliverer:
        return Deliverer(
            find=partial(chain, find),
            policy=lambda bundle: bundle.acl(resource),
            time_window_s=time_window_s,
            data_type=data_type,
            meters=counted,
        )

    async def whole(_: Envelope, block: Block) -> DeliverResponse:
        return DeliverResponse(block=block)

    recent: dict[tuple[str, int, bytes], bytes] = {}

    async def filtered(request: Envelope, block: Block) -> bytes:
        channel_id, _ = _asked(request)
        header = header_of(block)
        which = channel_id, header.number, header.data_hash
        if which not in recent:
            if len(recent) == RECENT_BLOCKS:
                del recent[next(iter(recent))]
            channel = find(channel_id)
            assert channel is not None  # the request was found good, and channels stay
            told = filtered_block(channel_id, block, channel.ledger.newest)
            recent[which] = encode(DeliverResponse(filtered_block=told))
        return recent[which]

    async def with_private_data(request: Envelope, block: Block) -> DeliverResponse:
        channel_id, requester = _asked(request)
        channel = find(channel_id)
        assert channel is not None  # the request was found good, and channels stay
        held = await channel.ledger.private_data(header_of(block).number)
        may_see = partial(is_member, channel_id)
        visible = {tx: _visible(data, may_see, requester) for tx, data in held.items()}
        private = {tx: data for tx, data in visible.items() if data.ns_pvt_rwset}
        both = BlockAndPrivateData(block=block, private_data_map=private)
        return DeliverResponse(block_and_private_data=both)

    return [
        _method("Deliver", deliverer(BLOCK_ACL, "block"), whole),
        _method("DeliverFiltered", deliverer(FILTERED_ACL, "filtered_block"), filtered),
        _method(
            "DeliverWithPrivateData", deliverer(BLOCK_ACL, "block_and_pvtdata"), with_private_data
        ),
    ]


def tls_hash(caller: Caller) -> bytes:
    """Return what a request must be bound to: the hash of the TLS certificate, if there is one."""
    return hashlib.sha256(caller.certificate).digest() if caller.certificate else b""


def chain(find: FindChannel, channel_id: str) -> Chain | None:
    """Return a joined channel as far as it can be delivered from, None where there is none."""
    channel = find(channel_id)
    return None if channel is None else _Chain(channel)


class _Chain:
    """A joined channel; see `Chain`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.blocks: BlockSource = _Blocks(channel.ledger)

    @property
    def bundle(self) -> Bundle:
        """Its configuration at this moment."""
        return self._channel.bundle


class _Blocks:
    """The blocks of a ledger; see `BlockSource`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.first = ledger.first_block
        self.reached = ledger.reached

    @property
    def height(self) -> int:
        """Number of the block that comes next."""
        return self._ledger.height

    async def block(self, number: int) -> Block:
        """Return a block that is there."""
        block = await self._ledger.block_by_number(number)
        assert block is not None, "there are as many blocks as the height says"
        return block


def _method(name: str, deliverer: Deliverer, answer: Answer) -> Method:
    async def deliver(requests: Requests, send: Send, caller: Caller) -> None:
        with deliverer.meters.stream():
            async for request in requests:

                async def send_block(block: Block, request: Envelope = request) -> None:
                    await send(await answer(request, block))

                status = await deliverer.serve(request, send_block, tls_hash=tls_hash(caller))
                await send(DeliverResponse(status=status))
                if status != Status.SUCCESS:
                    return

    return Streaming(
        path=f"/protos.Deliver/{name}",
        decode=decoder(Envelope),
        call=deliver,
        encode=_encoded,
        max_request=SMALL,
        is_endless=True,
    )


def _encoded(response: DeliverResponse | bytes) -> bytes:
    return response if isinstance(response, bytes) else encode(response)


def _asked(request: Envelope) -> _Asked:
    """Read a request that was found good."""
    header = decode(Payload, request.payload).header
    assert header is not None
    creator = SignatureHeader.decode(header.signature_header).creator
    channel_id = ChannelHeader.decode(header.channel_header).channel_id
    return _Asked(channel_id, SignedData(request.payload, creator, request.signature))


def _visible(data: bytes, may_see: Callable[..., bool], requester: SignedData) -> TxPvtReadWriteSet:
    """Return what a requester may see of a transaction's private data."""
    private = decode(TxPvtReadWriteSet, data)
    for namespace in private.ns_pvt_rwset:
        namespace.collection_pvt_rwset = [
            each
            for each in namespace.collection_pvt_rwset
            if may_see(namespace.namespace, each.collection_name, requester)
        ]
    private.ns_pvt_rwset = [each for each in private.ns_pvt_rwset if each.collection_pvt_rwset]
    return private
