"""What ``channel join``, ``joinbysnapshot``, ``list`` and ``getinfo`` do.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/channel/{join,joinbysnapshot,list,getinfo}.go (release-2.5)
"""

from __future__ import annotations

import base64
import json
import logging
import os
from pathlib import Path

import click

from fabric_protos.codec import decode
from fabric_protos.common import BlockchainInfo
from fabric_protos.protos import ChannelQueryResponse, JoinBySnapshotStatus, Response
from fabric_protos.stream import ChaincodeInput
from peer.cli.files import read_file
from peer.cli.flags import PeerFlags
from peer.cli.session import OK, Wording, open_session, run
from peer.client.calls import Result
from peer.endorser.proposal import CONFIG, prepare_proposal

log = logging.getLogger("peer.cli")

CONFIGURED = PeerFlags((), ())


def wording(verb: str) -> Wording:
    """Return how the commands of this family tell of failures."""
    return Wording(
        verb=verb,
        endorser_client="error getting endorser client for channel",
        endorsing="failed sending proposal" if verb == "list" else "proposal failed",
    )


def join(file: Path) -> None:
    """Let the configured peer join a channel."""
    _join(b"JoinChain", read_file(file, "error reading genesis block file"))


def join_by_snapshot(path: str) -> None:
    """Let the configured peer begin to join a channel by a snapshot."""
    _join(b"JoinChainBySnapshot", os.fsencode(path))
    log.info(
        "The joinbysnapshot operation is in progress. Use 'peer channel joinbysnapshotstatus' to "
        "check the status."
    )


def show_snapshot_status() -> None:
    """Print whether the configured peer is joining a channel by a snapshot."""
    result = run(_ask, "joinbysnapshotstatus", "", "cscc", b"JoinBySnapshotStatus")
    if result.status != OK:
        raise click.ClickException(
            f"received bad response, status {result.status}: {result.message}"
        )
    status = decode(JoinBySnapshotStatus, result.payload)
    if status.in_progress:
        where = status.bootstrapping_snapshot_dir
        click.echo(f"A joinbysnapshot operation is in progress for snapshot at {where}")
    else:
        click.echo("No joinbysnapshot operation is in progress")


def _join(function: bytes, argument: bytes) -> None:
    response = run(_propose, function, argument)
    if response.status != OK:
        raise click.ClickException(
            f"proposal failed (err: bad proposal response {response.status}: {response.message})"
        )
    log.info("Successfully submitted proposal to join channel")


async def _propose(function: bytes, argument: bytes) -> Response:
    payload = ChaincodeInput(args=[function, argument])
    async with open_session(wording("join"), CONFIGURED) as session:
        proposal = prepare_proposal(session.identity, "", "cscc", payload, {}, kind=CONFIG)
        answer = await session.endorse(proposal.signed)
        return answer.response or Response()


def list_channels() -> None:
    """Print the channels of the configured peer."""
    result = run(_ask, "list", "", "cscc", b"GetChannels")
    if result.status != OK:
        raise click.ClickException(
            f"received bad response, status {result.status}: {result.message}"
        )
    click.echo("Channels peers has joined: ")
    for each in decode(ChannelQueryResponse, result.payload).channels:
        click.echo(each.channel_id)


def show_info(channel_id: str) -> None:
    """Print height and last hashes of a channel."""
    result = run(_ask, "getinfo", channel_id, "qscc", b"GetChainInfo", channel_id.encode())
    if result.status != OK:
        raise click.ClickException(
            f"received bad response, status {result.status}: {result.message}"
        )
    info = decode(BlockchainInfo, result.payload)
    fields: dict[str, object] = {
        "height": info.height,
        "currentBlockHash": base64.b64encode(info.current_block_hash).decode(),
        "previousBlockHash": base64.b64encode(info.previous_block_hash).decode(),
    }
    if (begun := info.bootstrapping_snapshot_info) is not None:
        fields["bootstrappingSnapshotInfo"] = {"lastBlockInSnapshot": begun.last_block_in_snapshot}
    told = {key: value for key, value in fields.items() if value}
    click.echo(f"Blockchain info: {json.dumps(told, separators=(',', ':'))}")


async def _ask(verb: str, channel_id: str, chaincode: str, *args: bytes) -> Result:
    async with open_session(wording(verb), CONFIGURED) as session:
        return await session.ask(channel_id, chaincode, *args)
