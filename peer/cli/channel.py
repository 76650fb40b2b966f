"""``channel``: make, join, look at and change channels.

Room:      peer.cli
Loop:      none; joining and updating start Trio
Fabric:    internal/peer/channel (release-2.5)
"""

from __future__ import annotations

from pathlib import Path

import click

from peer.cli.flags import FabricCommand, OrdererFlags, orderer_flags, seconds

FILE = click.Path(path_type=Path, dir_okay=False)

channel_flag = click.option("-c", "--channelID", "channel_id", required=True, help="The channel.")
file_flag = click.option(
    "-f", "--file", "file", required=True, type=FILE, help="The configuration transaction."
)


@click.group()
def channel() -> None:
    """Make, join, look at and change channels."""


@channel.command(cls=FabricCommand)
@channel_flag
@file_flag
@click.option("--outputBlock", "output", type=FILE, help="Where to; CHANNEL.block without.")
@click.option(
    "-t",
    "--timeout",
    "timeout_s",
    callback=seconds,
    default="10s",
    show_default=True,
    help="How long to wait for the channel.",
)
@orderer_flags
def create(
    channel_id: str, file: Path, output: Path | None, timeout_s: float, orderer: OrdererFlags
) -> None:
    """Ask an orderer for a channel, and write its first block to a file."""
    from peer.cli import updating

    updating.create(channel_id, file, output or Path(f"{channel_id}.block"), timeout_s, orderer)


@channel.command(cls=FabricCommand)
@click.option("-b", "--blockpath", "block", required=True, type=FILE, help="The block.")
def join(block: Path) -> None:
    """Let the peer join a channel by its first block."""
    from peer.cli import joining

    joining.join(block)


@channel.command(cls=FabricCommand)
@click.option("--snapshotpath", "path", required=True, help="Its directory, on the peer's machine.")
def joinbysnapshot(path: str) -> None:
    """Let the peer join a channel by a snapshot of its ledger; the peer goes on by itself then."""
    from peer.cli import joining

    joining.join_by_snapshot(path)


@channel.command(cls=FabricCommand)
def joinbysnapshotstatus() -> None:
    """Tell whether the peer is joining a channel by a snapshot."""
    from peer.cli import joining

    joining.show_snapshot_status()


@channel.command("list", cls=FabricCommand)
def list_() -> None:
    """List the channels that the peer has joined."""
    from peer.cli import joining

    joining.list_channels()


@channel.command(cls=FabricCommand)
@channel_flag
def getinfo(channel_id: str) -> None:
    """Show height and last hashes of a channel on the peer."""
    from peer.cli import joining

    joining.show_info(channel_id)


@channel.command(cls=FabricCommand)
@click.argument("which")
@click.argument("output", type=FILE, required=False)
@channel_flag
@click.option("--bestEffort", "best_effort", is_flag=True, help="Of an orderer in trouble, too.")
@orderer_flags
def fetch(
    which: str, output: Path | None, channel_id: str, best_effort: bool, orderer: OrdererFlags
) -> None:
    """Write a block to a file: newest, oldest, config, or a number.

    It comes from the orderer if one is given, else from the peer.
    """
    from peer.cli import fetching

    fetching.fetch(
        which,
        output or Path(f"{channel_id}_{which}.block"),
        channel_id,
        orderer if orderer.orderer_address else None,
        best_effort=best_effort,
    )


@channel.command(cls=FabricCommand)
@channel_flag
@file_flag
@orderer_flags
def update(channel_id: str, file: Path, orderer: OrdererFlags) -> None:
    """Sign an update of a channel's configuration and send it to be ordered."""
    from peer.cli import updating

    updating.update(channel_id, file, orderer)


@channel.command(cls=FabricCommand)
@file_flag
def signconfigtx(file: Path) -> None:
    """Add your signature to an update of a configuration, in its file."""
    from peer.cli import updating

    updating.sign(file)
