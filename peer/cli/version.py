"""``version``: what to write into a bug report.

Room:      peer.cli
Loop:      none
Fabric:    internal/peer/version/version.go (release-2.5)
"""

from __future__ import annotations

import platform
import sys

import click

from peer.version import VERSION

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@click.command()
def version() -> None:
    """Show the versions of the peer and its platform."""
    machine = platform.machine()
    click.echo("peer:")
    click.echo(f" Version: {VERSION}")
    click.echo(" Commit SHA: development build")
    click.echo(f" Python version: {platform.python_version()} ({platform.python_implementation()})")
    click.echo(f" OS/Arch: {sys.platform}/{_GO_ARCHITECTURES.get(machine, machine)}")
    click.echo(" Chaincode:")
    click.echo("  Base Docker Label: org.hyperledger.fabric")
    click.echo("  Docker Namespace: hyperledger")
