"""``network``: make a development network.

Room:      peer.cli
Loop:      none
Fabric:    none; cmd/cryptogen and cmd/configtxgen (release-2.5) in one step
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from peer.channel.network import Member, Network, NetworkOrganisation


@click.group()
def network() -> None:
    """Make a development network: organisations, keys, a channel."""


@network.command("create")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--org",
    "organisations",
    multiple=True,
    default=("Org1",),
    show_default=True,
    help="An organisation with peers; give it once for each.",
)
@click.option("--peers", default=1, show_default=True, help="Peers in each organisation.")
@click.option("--users", default=1, show_default=True, help="Users besides the administrator.")
@click.option("--channel", default="mychannel", show_default=True, help="Name of the channel.")
@click.option(
    "--capability",
    default="V2_0",
    show_default=True,
    help="What chaincodes may rely on: V1_4_2 (deployed through lscc), V2_0 or V2_5.",
)
@click.option(
    "--batch-timeout", default="2s", show_default=True, help="How long a block waits for more."
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="NODE=HOST:PORT",
    help="Where a node is, if not on this machine: orderer.example.com=order.example.net:7050. "
    "Its certificate and the channel then name that machine.",
)
def create_(
    directory: Path,
    organisations: tuple[str, ...],
    peers: int,
    users: int,
    channel: str,
    capability: str,
    batch_timeout: str,
    addresses: tuple[str, ...],
) -> None:
    """Make a development network in DIRECTORY, which must be new or empty.

    Keys and certificates lie where cryptogen puts them, so that Fabric's tools and samples find
    them. The keys of all organisations are there: for development alone.
    """
    from peer.channel.network import NetworkDescription, create

    description = NetworkDescription(
        channel_id=channel,
        organisations=organisations,
        peers=peers,
        users=users,
        capability=capability,
        batch_timeout=batch_timeout,
        addresses=dict(_named(each) for each in addresses),
    )
    for line in _listing(create(directory, description)):
        click.echo(line)


def _named(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not equals:
        raise click.BadParameter(f"expected NODE=HOST:PORT, got {text!r}", param_hint="--address")
    return name, address


def _listing(made: Network) -> Iterator[str]:
    yield f"{made.directory}"
    for organisation in (*made.organisations, made.orderer):
        yield f"  {organisation.directory.relative_to(made.directory)}  {organisation.msp_id}"
        for member in (*organisation.nodes, *organisation.users):
            yield f"    {_described(member, organisation)}"
    yield f"  {made.genesis_path.name}  genesis block of channel {made.channel_id}"


def _described(member: Member, organisation: NetworkOrganisation) -> str:
    return f"{member.directory.relative_to(organisation.directory)}  {member.address}".rstrip()
