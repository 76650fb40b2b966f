"""``node``: run a peer.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/node/start.go (release-2.5)
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import click
import trio

from peer import logs
from peer.app import open_peer
from peer.cli.progress import Progress
from peer.config import PeerConfig

log = logging.getLogger("peer")


@click.group()
def node() -> None:
    """Run a peer."""


@node.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="A core.yaml.")
@click.option("--runtime", help="Where chaincodes run: process or another one installed.")
@click.option("--peer-chaincodedev", "dev", is_flag=True, help="Start chaincodes by hand.")
def start(path: Path | None, runtime: str | None, dev: bool) -> int:
    """Run a peer until SIGTERM or SIGINT, then stop its chaincodes and leave."""
    overrides = {"vm.runtime": runtime or "", "chaincode.mode": "dev" if dev else ""}
    config = PeerConfig.load(path, overrides={key: text for key, text in overrides.items() if text})
    progress = Progress(sys.stderr)
    logs.configure(config.logging.spec, config.logging.format, stream=progress)
    for warning in config.warnings:
        log.warning("%s", warning)
    return trio.run(_run, config, progress)


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
            click.echo(f"peer {config.peer.id} started; joined {channels}; Ctrl-C ends it")
            async for received in signals:
                log.info("%s: stopping", signal.Signals(received).name)
                return 130 if received == signal.SIGINT else 0
    raise AssertionError("the signal receiver never ends by itself")
