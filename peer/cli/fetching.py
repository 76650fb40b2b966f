"""What ``channel fetch`` does.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/channel/fetch.go, internal/peer/common/deliverclient.go (release-2.5)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import click

from fabric_protos.codec import encode
from fabric_protos.common import Block
from fabric_protos.orderer import SeekPosition
from peer.cli.files import read_file, write_file
from peer.cli.flags import OrdererFlags
from peer.cli.joining import CONFIGURED, wording
from peer.cli.session import Session, open_session, run
from peer.client.remote import DELIVER_OF_ORDERERS, DELIVER_OF_PEERS, fetch_block
from peer.errors import CallFailed, DeliverRefused
from peer.events.requests import NEWEST, OLDEST, at
from peer.ledger.blocks import header_of, last_config_index
from peer.remote import Connection, certificate_hash

log = logging.getLogger("peer.cli")

CONFIG = "config"
_POSITIONS = {"newest": NEWEST, "oldest": OLDEST, CONFIG: NEWEST}
_LARGEST = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Source:
    """Where blocks of a channel come from."""

    session: Session
    connection: Connection
    channel_id: str
    path: str
    tls_hash: bytes
    best_effort: bool = False

    async def block(self, position: SeekPosition) -> Block:
        """Return a block, once there is one.

        Raises:
            DeliverRefused: it is not for this identity.
            click.ClickException: there is no answer.
        """
        try:
            block = await fetch_block(
                self.connection,
                self.session.identity,
                self.channel_id,
                position,
                path=self.path,
                waits=True,
                best_effort=self.best_effort,
                tls_hash=self.tls_hash,
            )
        except CallFailed as exc:
            raise click.ClickException(f"error receiving: {exc}") from exc
        log.info("Received block: %d", header_of(block).number)
        return block


def fetch(
    which: str,
    output: Path,
    channel_id: str,
    orderer: OrdererFlags | None,
    *,
    best_effort: bool,
) -> None:
    """Write a block to a file."""
    position = _POSITIONS.get(which)
    if position is None:
        if not which.isdecimal() or int(which) > _LARGEST:
            raise click.ClickException(f"fetch target illegal: {which}")
        position = at(int(which))
    block = run(_fetch, position, which == CONFIG, channel_id, orderer, best_effort)
    write_file(output, encode(block))


async def _fetch(
    position: SeekPosition,
    is_config: bool,
    channel_id: str,
    orderer: OrdererFlags | None,
    best_effort: bool,
) -> Block:
    peers = CONFIGURED if orderer is None else None
    async with open_session(wording("fetch"), peers) as session:
        if orderer is None:
            source = Source(
                session, session.peers[0], channel_id, DELIVER_OF_PEERS, session.tls_hash
            )
        else:
            source = await orderer_source(session, orderer, channel_id, best_effort=best_effort)
        try:
            block = await source.block(position)
            return await source.block(at(last_config_index(block))) if is_config else block
        except DeliverRefused as exc:
            raise click.ClickException(exc.info) from exc


async def orderer_source(
    session: Session, flags: OrdererFlags, channel_id: str, *, best_effort: bool = False
) -> Source:
    """Return the orderer of the flags, connected, as a source of blocks."""
    connection = await session.connect_orderer(flags)
    tls_hash = b""
    if flags.orderer_tls and flags.orderer_client_auth:
        certificate = read_file(Path(flags.orderer_certificate), "unable to load")
        tls_hash = certificate_hash(certificate)
    return Source(session, connection, channel_id, DELIVER_OF_ORDERERS, tls_hash, best_effort)
