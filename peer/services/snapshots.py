"""``protos.Snapshot``: ask for snapshots of ledgers.

Room:      peer.services   (imports peer.scc; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/ledger/snapshotgrpc/snapshot_service.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from fabric_protos.codec import decode, encode
from fabric_protos.common import SignatureHeader
from fabric_protos.errors import DecodeError
from fabric_protos.google.protobuf import Empty
from fabric_protos.protos import (
    QueryPendingSnapshotsResponse,
    SignedSnapshotRequest,
    SnapshotQuery,
    SnapshotRequest,
)
from peer.channel.channel import Channel
from peer.errors import CallRefused, Code, PeerError
from peer.ledger.api import Snapshots
from peer.msp.policies import SignedData
from peer.scc.access import AccessControl
from peer.services.api import SMALL, Caller, Method, Unary, decoder

FindChannel = Callable[[str], Channel | None]


def methods(find: FindChannel, access: AccessControl) -> Sequence[Method]:
    """Return the methods of the service.

    Who may ask is an administrator of the peer's own organisation. A refusal is UNKNOWN, as of
    Fabric.

    Args:
        find: returns a joined channel, None where there is none of that name.
    """

    async def generate(signed: SignedSnapshotRequest) -> Empty:
        request = _read(SnapshotRequest, signed)
        check("snapshot/submitrequest", request.signature_header, signed)
        await snapshots(request.channel_id).submit(request.block_number)
        return Empty()

    async def cancel(signed: SignedSnapshotRequest) -> Empty:
        request = _read(SnapshotRequest, signed)
        check("snapshot/cancelrequest", request.signature_header, signed)
        await snapshots(request.channel_id).cancel(request.block_number)
        return Empty()

    async def query_pendings(signed: SignedSnapshotRequest) -> QueryPendingSnapshotsResponse:
        query = _read(SnapshotQuery, signed)
        check("snapshot/listpending", query.signature_header, signed)
        return QueryPendingSnapshotsResponse(block_numbers=snapshots(query.channel_id).pending())

    def check(resource: str, header: SignatureHeader | None, signed: SignedSnapshotRequest) -> None:
        if header is None:
            raise PeerError("missing signature header")
        data = SignedData(signed.request, header.creator, signed.signature)
        access.check_data(resource, "", data)

    def snapshots(channel_id: str) -> Snapshots:
        if not channel_id:
            raise PeerError("missing channel ID")
        channel = find(channel_id)
        if channel is None:
            raise PeerError(f"cannot find ledger for channel {channel_id}")
        return channel.ledger.snapshots

    return [
        _method("Generate", generate),
        _method("Cancel", cancel),
        _method("QueryPendings", query_pendings),
    ]


def _method(name: str, call: Callable[[SignedSnapshotRequest], Awaitable[Any]]) -> Method:
    return Unary(
        path=f"/protos.Snapshot/{name}",
        decode=decoder(SignedSnapshotRequest),
        call=partial(_answer, call),
        encode=encode,
        max_request=SMALL,
    )


async def _answer(
    call: Callable[[SignedSnapshotRequest], Awaitable[Any]],
    signed: SignedSnapshotRequest,
    _: Caller,
) -> Any:
    try:
        return await call(signed)
    except PeerError as exc:
        raise CallRefused(Code.UNKNOWN, str(exc)) from exc


def _read(cls: Any, signed: SignedSnapshotRequest) -> Any:
    try:
        return decode(cls, signed.request)
    except DecodeError as exc:
        raise PeerError(f"failed to unmarshal snapshot request: {exc}") from exc
