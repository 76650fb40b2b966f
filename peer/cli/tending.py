"""What ``node`` does with ledgers while the peer does not run.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/node/{rebuilddbs,reset,rollback,pause,resume,unjoin}.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import trio

from peer import ledger, logs
from peer.config import PeerConfig
from peer.directories import LEDGERS
from peer.errors import ConfigError

AGAIN = "the next start makes state and history again"


def rebuild(path: Path | None) -> None:
    """Drop the databases of all channels."""
    directory = _ledgers(path)
    channel_ids = ledger.ledger_ids(directory)
    trio.run(ledger.rebuild_databases, directory, *channel_ids)
    _tell(channel_ids, f"databases dropped; {AGAIN}")


def reset(path: Path | None) -> None:
    """Cut every channel back to its first block."""
    _tell(trio.run(ledger.reset, _ledgers(path)), f"block 0 is the last one; {AGAIN}")


def rollback(path: Path | None, channel_id: str, number: int) -> None:
    """Cut one channel back to a block."""
    trio.run(ledger.rollback, _ledgers(path), channel_id, number)
    _tell([channel_id], f"block {number} is the last one; {AGAIN}")


def pause(path: Path | None, channel_id: str) -> None:
    """Let the next start leave a channel alone."""
    trio.run(ledger.pause, _ledgers(path), channel_id)
    _tell([channel_id], "paused; the next start leaves it alone")


def resume(path: Path | None, channel_id: str) -> None:
    """Let the next start open a channel again."""
    trio.run(ledger.resume, _ledgers(path), channel_id)
    _tell([channel_id], "resumed; the next start opens it")


def unjoin(path: Path | None, channel_id: str) -> None:
    """Remove a channel."""
    trio.run(ledger.unjoin, _ledgers(path), channel_id)
    _tell([channel_id], "removed with everything in it")


def _ledgers(path: Path | None) -> Path:
    """Return where the configured peer keeps its ledgers."""
    config = PeerConfig.load(path)
    logs.configure(config.logging.spec, config.logging.format)
    if not config.peer.file_system_path:
        problem = "peer.fileSystemPath is not set: a temporary ledger goes with its peer"
        raise ConfigError([problem])
    return Path(config.peer.file_system_path) / LEDGERS


def _tell(channel_ids: Sequence[str], what: str) -> None:
    for channel_id in channel_ids:
        click.echo(f"channel {channel_id}: {what}")
    if not channel_ids:
        click.echo("this peer has joined no channel")
