"""What ``node start`` does.

Room:      peer.cli
Loop:      starts Trio
Lifetime:  as long as the peer runs
Fabric:    internal/peer/node/start.go (release-2.5)
"""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click
import trio

from peer import logs
from peer.app import open_peer
from peer.cli import keep_all
from peer.cli.progress import Progress
from peer.config import PeerConfig

log = logging.getLogger("peer")

DEFAULT_PEER = "127.0.0.1:7051"
DEFAULT_ORDERER = "127.0.0.1:7050"


def start(path: Path | None, runtime: str | None, *, dev: bool) -> int:
    """Run a peer until a signal asks for its end; return the exit code."""
    overrides = {"vm.runtime": runtime or "", "chaincode.mode": "dev" if dev else ""}
    config = _listening(
        PeerConfig.load(path, overrides={key: text for key, text in overrides.items() if text})
    )
    progress = Progress(sys.stderr)
    logs.configure(config.logging.spec, config.logging.format, stream=progress)
    for warning in config.warnings:
        log.warning("%s", warning)
    return trio.run(_run, config, progress)


def _listening(config: PeerConfig) -> PeerConfig:
    """Return a configuration that listens, where Fabric's peer and orderer would if nothing is set.

    But on the loopback address only. There is an orderer where the peer makes its own network.
    """
    peer, orderer = config.peer, config.orderer
    peer = replace(peer, listen_address=peer.listen_address or DEFAULT_PEER)
    if not peer.msp_config_path:
        orderer = replace(orderer, listen_address=orderer.listen_address or DEFAULT_ORDERER)
    return replace(config, peer=peer, orderer=orderer)


async def _run(config: PeerConfig, progress: Progress) -> int:
    """Hold the peer until a signal asks for its end; return the exit code."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            progress.showing(),
            open_peer(config, on_stage=progress.on_stage, on_output=progress.on_output) as peer,
        ):
            keep_all()
            if not config.peer.file_system_path:
                log.warning("the ledger is temporary; set peer.fileSystemPath to keep it")
            channels = ", ".join(peer.channels)
            name = config.peer.id
            click.echo(f"peer {name} started at {peer.address}; joined {channels}; Ctrl-C ends it")
            async for received in signals:
                log.info("%s: stopping", signal.Signals(received).name)
                return 130 if received == signal.SIGINT else 0
    raise AssertionError("the signal receiver never ends by itself")
