"""``node``: run a peer, and tend its ledgers while it does not run.

Room:      peer.cli
Loop:      none; running and tending start Trio
Fabric:    internal/peer/node (release-2.5)
"""

from __future__ import annotations

from pathlib import Path

import click

from peer.importing import importing

CONFIG = click.option("--config", "path", type=click.Path(path_type=Path), help="A core.yaml.")
CHANNEL = click.option("-c", "--channelID", "channel_id", required=True, help="The channel.")


@click.group()
def node() -> None:
    """Run a peer, or tend its ledgers while it does not run."""


@node.command()
@CONFIG
@click.option("--runtime", help="Where chaincodes run: process or another one installed.")
@click.option("--peer-chaincodedev", "dev", is_flag=True, help="Start chaincodes by hand.")
def start(path: Path | None, runtime: str | None, dev: bool) -> int:
    """Run a peer until SIGTERM or SIGINT, then stop its chaincodes and leave."""
    with importing():
        from peer.cli import running

    return running.start(path, runtime, dev=dev)


@node.command()
def status() -> int:
    """Ask the peer at peer.address whether it serves."""
    from peer.cli import asking

    return asking.status()


@node.command("rebuild-dbs")
@CONFIG
def rebuild_dbs(path: Path | None) -> None:
    """Drop the databases of all channels; the next start makes them again from the blocks.

    The peer must not run.
    """
    from peer.cli import tending

    tending.rebuild(path)


@node.command()
@CONFIG
def reset(path: Path | None) -> None:
    """Cut every channel back to its first block.

    The peer must not run. Blocks are lost here, and must come again from an ordering service;
    private data are kept.
    """
    from peer.cli import tending

    tending.reset(path)


@node.command()
@CONFIG
@CHANNEL
@click.option(
    "-b", "--blockNumber", "number", required=True, type=click.IntRange(min=0), help="To stay last."
)
def rollback(path: Path | None, channel_id: str, number: int) -> None:
    """Cut one channel back to a block.

    The peer must not run. Blocks are lost here, and must come again from an ordering service;
    private data are kept.
    """
    from peer.cli import tending

    tending.rollback(path, channel_id, number)


@node.command()
@CONFIG
@CHANNEL
def pause(path: Path | None, channel_id: str) -> None:
    """Let the next start leave a channel alone.

    The peer must not run.
    """
    from peer.cli import tending

    tending.pause(path, channel_id)


@node.command()
@CONFIG
@CHANNEL
def resume(path: Path | None, channel_id: str) -> None:
    """Let the next start open a paused channel again.

    The peer must not run.
    """
    from peer.cli import tending

    tending.resume(path, channel_id)


@node.command()
@CONFIG
@CHANNEL
def unjoin(path: Path | None, channel_id: str) -> None:
    """Remove a channel with everything this peer has of it, private data too.

    The peer must not run.
    """
    from peer.cli import tending

    tending.unjoin(path, channel_id)
