"""``lifecycle chaincode``: package and install chaincodes, and agree on their definitions.

Room:      peer.cli
Loop:      none; packaging and defining start Trio
Fabric:    internal/peer/lifecycle/chaincode (release-2.5)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from peer.cli.flags import (
    FabricCommand,
    OrdererFlags,
    PeerFlags,
    channel_flag,
    name_flag,
    orderer_flags,
    output_flag,
    peer_flags,
    wait_flags,
)

FILE = click.Path(path_type=Path, dir_okay=False)

package_flag = click.option("--package-id", default="", help="Id of the installed package.")


@click.group()
def lifecycle() -> None:
    """Package, install, approve and commit chaincodes."""


@lifecycle.group()
def chaincode() -> None:
    """Package, install, approve and commit chaincodes."""


@chaincode.command(cls=FabricCommand)
@click.argument("output", type=FILE)
@click.option("-p", "--path", "source", required=True, help="Directory of the code.")
@click.option(
    "-l", "--lang", "language", default="golang", show_default=True, help="Language of the code."
)
@click.option("--label", required=True, help="What the package is known by.")
def package(output: Path, source: str, language: str, label: str) -> None:
    """Write a package of a directory of code to OUTPUT, a .tar.gz."""
    from peer.cli import packaging

    packaging.package(output, Path(source), language, label)


@chaincode.command(cls=FabricCommand)
@click.argument("package", type=FILE)
@peer_flags
def install(package: Path, peers: PeerFlags) -> None:
    """Install a PACKAGE on a peer."""
    from peer.cli import packaging

    packaging.install(package, peers)


@chaincode.command(cls=FabricCommand)
@output_flag
@peer_flags
def queryinstalled(output: str | None, peers: PeerFlags) -> None:
    """List the packages that are installed on a peer."""
    from peer.cli import packaging

    packaging.query_installed(peers, as_json=output is not None)


@chaincode.command(cls=FabricCommand)
@click.option("--package-id", required=True, help="Id of the installed package.")
@click.option("--output-directory", default=".", type=click.Path(path_type=Path), help="Where to.")
@peer_flags
def getinstalledpackage(package_id: str, output_directory: Path, peers: PeerFlags) -> None:
    """Fetch a package from a peer into a file."""
    from peer.cli import packaging

    packaging.get_installed(package_id, output_directory, peers)


@chaincode.command(cls=FabricCommand)
@click.argument("package", type=FILE)
@output_flag
def calculatepackageid(package: Path, output: str | None) -> None:
    """Print the id that a PACKAGE will have."""
    from peer.cli import packaging

    packaging.calculate_id(package, as_json=output is not None)


def _definition(command: Any) -> Any:
    """Add the flags of a definition."""
    for option in (
        click.option("--collections-config", "collections", default="", help="JSON file."),
        click.option("--init-required", is_flag=True, help="Its init must be called first."),
        click.option("--channel-config-policy", default="", help="Or a policy of the channel."),
        click.option(
            "--signature-policy", default="", help="Who must endorse: \"OR('Org1MSP.peer')\"."
        ),
        click.option("-V", "--validation-plugin", default="", help="Validation plugin."),
        click.option("-E", "--endorsement-plugin", default="", help="Endorsement plugin."),
        click.option(
            "--sequence", required=True, type=click.IntRange(min=1), help="How often defined."
        ),
        click.option("-v", "--version", required=True, help="Version of the chaincode."),
        name_flag,
        channel_flag,
    ):
        command = option(command)
    return command


@chaincode.command(cls=FabricCommand)
@_definition
@package_flag
@peer_flags
@orderer_flags
@wait_flags(default=True)
def approveformyorg(
    package_id: str, peers: PeerFlags, orderer: OrdererFlags, wait_s: float | None, **given: Any
) -> None:
    """Agree to a definition for your organisation."""
    from peer.cli import defining

    definition = defining.Definition(**given, package_id=package_id)
    defining.approve(definition, peers, orderer, wait_s)


@chaincode.command(cls=FabricCommand)
@_definition
@peer_flags
@orderer_flags
@wait_flags(default=True)
def commit(peers: PeerFlags, orderer: OrdererFlags, wait_s: float | None, **given: Any) -> None:
    """Make what organisations agreed to the channel's definition."""
    from peer.cli import defining

    defining.commit(defining.Definition(**given), peers, orderer, wait_s)


@chaincode.command(cls=FabricCommand)
@_definition
@output_flag
@peer_flags
def checkcommitreadiness(output: str | None, peers: PeerFlags, **given: Any) -> None:
    """Tell which organisations have agreed to a definition."""
    from peer.cli import defining

    defining.check_readiness(defining.Definition(**given), peers, as_json=output is not None)


@chaincode.command(cls=FabricCommand)
@channel_flag
@click.option("-n", "--name", default="", help="Name of the chaincode; all of them without.")
@output_flag
@peer_flags
def querycommitted(channel_id: str, name: str, output: str | None, peers: PeerFlags) -> None:
    """Show the definitions of a channel."""
    from peer.cli import defining

    defining.query_committed(channel_id, name, peers, as_json=output is not None)


@chaincode.command(cls=FabricCommand)
@channel_flag
@name_flag
@click.option("--sequence", default=0, help="Which definition; the last one without.")
@output_flag
@peer_flags
def queryapproved(
    channel_id: str, name: str, sequence: int, output: str | None, peers: PeerFlags
) -> None:
    """Show what your organisation has agreed to."""
    from peer.cli import defining

    defining.query_approved(channel_id, name, sequence, peers, as_json=output is not None)
