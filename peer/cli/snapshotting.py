"""What the commands of ``snapshot`` do.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/snapshot (release-2.5)
"""

from __future__ import annotations

import os

import betterproto2
import click

from fabric_protos.codec import decode, encode
from fabric_protos.common import SignatureHeader
from fabric_protos.protos import (
    QueryPendingSnapshotsResponse,
    SignedSnapshotRequest,
    SnapshotQuery,
    SnapshotRequest,
)
from peer.cli.flags import PeerFlags
from peer.cli.session import Session, Wording, open_session, run
from peer.errors import CallFailed

NONCE_BYTES = 24


def submit(channel_id: str, number: int, address: str, root: str) -> None:
    """Ask for a snapshot."""
    run(_change, "Generate", "submit", channel_id, number, _flags(address, root))
    click.echo("Snapshot request submitted successfully")


def cancel(channel_id: str, number: int, address: str, root: str) -> None:
    """Take a request back."""
    if not number:
        raise click.ClickException(
            "the required parameter 'blockNumber' is empty or set to 0. Rerun the command with -b "
            "flag"
        )
    run(_change, "Cancel", "cancel", channel_id, number, _flags(address, root))
    click.echo("Snapshot request cancelled successfully")


def list_pending(channel_id: str, address: str, root: str) -> None:
    """Print the blocks at which snapshots are asked for."""
    pending = run(_list, channel_id, _flags(address, root))
    told = " ".join(map(str, pending))
    click.echo(f"Successfully got pending snapshot requests: [{told}]")


async def _change(method: str, verb: str, channel_id: str, number: int, peers: PeerFlags) -> None:
    async with open_session(_wording(verb), peers) as session:
        request = SnapshotRequest(
            signature_header=_header(session), channel_id=channel_id, block_number=number
        )
        await _call(session, method, request, f"failed to {verb} the request")


async def _list(channel_id: str, peers: PeerFlags) -> list[int]:
    async with open_session(_wording("list"), peers) as session:
        query = SnapshotQuery(signature_header=_header(session), channel_id=channel_id)
        answer = await _call(session, "QueryPendings", query, "failed to list pending requests")
        return decode(QueryPendingSnapshotsResponse, answer).block_numbers


async def _call(session: Session, method: str, request: betterproto2.Message, failed: str) -> bytes:
    content = encode(request)
    signed = SignedSnapshotRequest(request=content, signature=session.identity.sign(content))
    try:
        return await session.peers[0].unary(f"/protos.Snapshot/{method}", encode(signed))
    except CallFailed as exc:
        raise click.ClickException(f"{failed}: {exc}") from exc


def _header(session: Session) -> SignatureHeader:
    return SignatureHeader(creator=session.identity.creator, nonce=os.urandom(NONCE_BYTES))


def _flags(address: str, root: str) -> PeerFlags:
    return PeerFlags((address,) if address else (), (root,) if root else ())


def _wording(verb: str) -> Wording:
    return Wording(
        verb=verb, endorser_client="failed to retrieve snapshot client", endorsing="failed"
    )
