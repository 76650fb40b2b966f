"""What ``orderer start`` does.

Room:      peer.cli   (used by orderer)
Loop:      starts Trio
Fabric:    orderer/common/server/main.go (release-2.5)
"""

from __future__ import annotations

import logging
import os
import signal

import click
import trio

from peer import logs
from peer.config import PeerConfig
from peer.orderer import OrdererSettings, open_orderer

log = logging.getLogger("peer.ordering")


def run(settings: OrdererSettings) -> int:
    """Order until a signal asks for the end; return the exit code.

    Raises:
        PeerError: it cannot start.
    """
    names = ("FABRIC_LOGGING_SPEC", "FABRIC_LOGGING_FORMAT")
    config = PeerConfig.load(env={name: os.environ.get(name, "") for name in names}).logging
    logs.configure(config.spec, config.format)
    return trio.run(_run, settings)


async def _run(settings: OrdererSettings) -> int:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_orderer(settings) as orderer:
            channels = ", ".join(orderer.channels) or "no channel"
            click.echo(f"orderer started at {orderer.address}; orders {channels}; Ctrl-C ends it")
            async for received in signals:
                log.info("%s: stopping", signal.Signals(received).name)
                return 130 if received == signal.SIGINT else 0
    raise AssertionError("the signal receiver never ends by itself")
