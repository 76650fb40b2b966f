"""What ``channel create``, ``update`` and ``signconfigtx`` do.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/channel/{create,update,signconfigtx}.go (release-2.5)
"""

from __future__ import annotations

import logging
from pathlib import Path

import click
import trio

from fabric_protos.codec import encode
from fabric_protos.common import Block
from peer.channel.updates import signed_update
from peer.cli.fetching import orderer_source
from peer.cli.files import read_file, write_file
from peer.cli.flags import OrdererFlags
from peer.cli.joining import wording
from peer.cli.session import Session, load_config, load_identity, open_session, refusal, run
from peer.client.remote import RemoteOrderer
from peer.errors import BroadcastRefused, CallFailed, DeliverRefused
from peer.events.requests import at
from peer.remote import Connection

log = logging.getLogger("peer.cli")

POLL_S = 0.2


def create(
    channel_id: str, file: Path, output: Path, timeout_s: float, orderer: OrdererFlags
) -> None:
    """Ask an orderer for a channel, and write its first block to a file."""
    data = read_file(file, "channel create configuration tx file not found")
    block = run(_create, channel_id, data, timeout_s, orderer)
    write_file(output, encode(block))


def update(channel_id: str, file: Path, orderer: OrdererFlags) -> None:
    """Send an update of a channel's configuration to be ordered."""
    data = read_file(file, "channel update configuration tx file not found")
    run(_update, channel_id, data, orderer)
    log.info("Successfully submitted channel update")


def sign(file: Path) -> None:
    """Add a signature to an update in its file."""
    identity = load_identity(load_config())
    data = read_file(file, "error reading config update")
    write_file(file, signed_update(data, identity))


async def _create(channel_id: str, data: bytes, timeout_s: float, orderer: OrdererFlags) -> Block:
    async with open_session(wording("create")) as session:
        source = await orderer_source(session, orderer, channel_id)
        await _broadcast(session, source.connection, data, channel_id)
        with trio.move_on_after(timeout_s):
            while True:
                try:
                    return await source.block(at(0))
                except DeliverRefused:  # the orderer does not know it yet
                    await trio.sleep(POLL_S)
        raise click.ClickException("timeout waiting for channel creation")


async def _update(channel_id: str, data: bytes, orderer: OrdererFlags) -> None:
    async with open_session(wording("update")) as session:
        connection = await session.connect_orderer(orderer)
        await _broadcast(session, connection, data, channel_id)


async def _broadcast(
    session: Session, connection: Connection, data: bytes, channel_id: str
) -> None:
    try:
        envelope = signed_update(data, session.identity, channel_id)
        await RemoteOrderer(connection).broadcast(envelope)
    except (BroadcastRefused, CallFailed) as exc:
        raise click.ClickException(refusal(exc)) from exc
