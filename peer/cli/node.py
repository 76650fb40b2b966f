"""``node``: run a peer, and tend its ledgers while it does not run.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/node/{start,rebuilddbs,reset,rollback}.go (release-2.5)
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import trio

from peer import ledger, logs
from peer.app import open_peer
from peer.cli.progress import Progress
from peer.config import PeerConfig
from peer.directories import LEDGERS
from peer.errors import ConfigError
from peer.ledger import ledger_ids, rebuild_databases

log = logging.getLogger("peer")

DEFAULT_PEER = "127.0.0.1:7051"
DEFAULT_ORDERER = "127.0.0.1:7050"

CONFIG = click.option("--config", "path", type=click.Path(path_type=Path), help="A core.yaml.")


@click.group()
def node() -> None:
    """Run a peer, or tend its ledgers while it does not run."""


@node.command()
@CONFIG
@click.option("--runtime", help="Where chaincodes run: process or another one installed.")
@click.option("--peer-chaincodedev", "dev", is_flag=True, help="Start chaincodes by hand.")
def start(path: Path | None, runtime: str | None, dev: bool) -> int:
    """Run a peer until SIGTERM or SIGINT, then stop its chaincodes and leave."""
    overrides = {"vm.runtime": runtime or "", "chaincode.mode": "dev" if dev else ""}
    config = _listening(
        PeerConfig.load(path, overrides={key: text for key, text in overrides.items() if text})
    )
    progress = Progress(sys.stderr)
    logs.configure(config.logging.spec, config.logging.format, stream=progress)
    for warning in config.warnings:
        log.warning("%s", warning)
    return trio.run(_run, config, progress)


@node.command("rebuild-dbs")
@CONFIG
def rebuild_dbs(path: Path | None) -> None:
    """Drop the databases of all channels; the next start makes them again from the blocks.

    The peer must not run.
    """
    directory = _ledgers(path)
    channel_ids = ledger_ids(directory)
    trio.run(rebuild_databases, directory, *channel_ids)
    _tell(channel_ids, "databases dropped")


@node.command()
@CONFIG
def reset(path: Path | None) -> None:
    """Cut every channel back to its first block.

    The peer must not run. Blocks are lost here, and must come again from an ordering service;
    private data are kept.
    """
    _tell(trio.run(ledger.reset, _ledgers(path)), "block 0 is the last one")


@node.command()
@CONFIG
@click.option("-c", "--channelID", "channel_id", required=True, help="The channel.")
@click.option(
    "-b", "--blockNumber", "number", required=True, type=click.IntRange(min=0), help="To stay last."
)
def rollback(path: Path | None, channel_id: str, number: int) -> None:
    """Cut one channel back to a block.

    The peer must not run. Blocks are lost here, and must come again from an ordering service;
    private data are kept.
    """
    trio.run(ledger.rollback, _ledgers(path), channel_id, number)
    _tell([channel_id], f"block {number} is the last one")


def _listening(config: PeerConfig) -> PeerConfig:
    """Return a configuration that listens, where Fabric's peer and orderer would if nothing is set.

    But on the loopback address only. There is an orderer where the peer makes its own network.
    """
    peer, orderer = config.peer, config.orderer
    peer = replace(peer, listen_address=peer.listen_address or DEFAULT_PEER)
    if not peer.msp_config_path:
        orderer = replace(orderer, listen_address=orderer.listen_address or DEFAULT_ORDERER)
    return replace(config, peer=peer, orderer=orderer)


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
        click.echo(f"channel {channel_id}: {what}; the next start makes state and history again")
    if not channel_ids:
        click.echo("this peer has joined no channel")


async def _run(config: PeerConfig, progress: Progress) -> int:
    """Hold the peer until a signal asks for its end; return the exit code."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            progress.showing(),
            open_peer(config, on_stage=progress.on_stage, on_output=progress.on_output) as peer,
        ):
            if not config.peer.file_system_path:
                log.warning("the ledger is temporary; set peer.fileSystemPath to keep it")
            channels = ", ".join(peer.channels)
            name = config.peer.id
            click.echo(f"peer {name} started at {peer.address}; joined {channels}; Ctrl-C ends it")
            async for received in signals:
                log.info("%s: stopping", signal.Signals(received).name)
                return 130 if received == signal.SIGINT else 0
    raise AssertionError("the signal receiver never ends by itself")
