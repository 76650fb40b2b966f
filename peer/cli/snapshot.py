"""``snapshot``: ask a peer for snapshots of its ledgers.

Room:      peer.cli
Loop:      none; asking starts Trio
Fabric:    internal/peer/snapshot (release-2.5)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from peer.cli.flags import FabricCommand

NUMBER = click.IntRange(min=0, max=2**64 - 1)


def _peer(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--tlsRootCertFile", "root", default="", help="PEM file: who certifies it."),
        click.option("--peerAddress", "address", default="", help="Peer, host:port."),
        click.option("-c", "--channelID", "channel_id", required=True, help="The channel."),
    ):
        command = option(command)
    return command


@click.group()
def snapshot() -> None:
    """Ask a peer for snapshots of its ledgers."""


@snapshot.command(cls=FabricCommand)
@_peer
@click.option("-b", "--blockNumber", "number", type=NUMBER, default=0, help="0: the last block.")
def submitrequest(channel_id: str, address: str, root: str, number: int) -> None:
    """Ask for a snapshot at a block, which is generated once that is the last one."""
    from peer.cli import snapshotting

    snapshotting.submit(channel_id, number, address, root)


@snapshot.command(cls=FabricCommand)
@_peer
@click.option("-b", "--blockNumber", "number", type=NUMBER, required=True, help="The block.")
def cancelrequest(channel_id: str, address: str, root: str, number: int) -> None:
    """Take a request back."""
    from peer.cli import snapshotting

    snapshotting.cancel(channel_id, number, address, root)


@snapshot.command(cls=FabricCommand)
@_peer
def listpending(channel_id: str, address: str, root: str) -> None:
    """List the blocks at which snapshots are asked for and not there yet."""
    from peer.cli import snapshotting

    snapshotting.list_pending(channel_id, address, root)
