"""``chaincode``: call chaincodes, and deploy them as before lifecycle v2.

Room:      peer.cli
Loop:      none; calling and deploying start Trio
Fabric:    internal/peer/chaincode (release-2.5)
"""

from __future__ import annotations

from pathlib import Path

import click

from peer.cli.flags import (
    FabricCommand,
    OrdererFlags,
    PeerFlags,
    channel_flag,
    name_flag,
    orderer_flags,
    peer_flags,
    wait_flags,
)

FILE = click.Path(path_type=Path, dir_okay=False)

constructor_flag = click.option(
    "-c", "--ctor", "constructor", default="{}", help='The call as JSON: {"Args":["f","a"]}.'
)
version_flag = click.option("-v", "--version", required=True, help="Version of the chaincode.")
language_flag = click.option(
    "-l", "--lang", "language", default="golang", show_default=True, help="Language of the code."
)


@click.group()
def chaincode() -> None:
    """Call chaincodes; deploy them the old way."""


@chaincode.command(cls=FabricCommand)
@channel_flag
@name_flag
@constructor_flag
@click.option("-I", "--isInit", "is_init", is_flag=True, help="Call its init.")
@click.option("--transient", default="", help="JSON object of name and Base64 value.")
@peer_flags
@orderer_flags
@wait_flags(default=False)
def invoke(
    channel_id: str,
    name: str,
    constructor: str,
    is_init: bool,
    transient: str,
    peers: PeerFlags,
    orderer: OrdererFlags,
    wait_s: float | None,
) -> None:
    """Let peers endorse a call, and send it to be ordered."""
    from peer.cli import calling

    call = calling.Invocation.read(channel_id, name, constructor, transient, is_init=is_init)
    calling.invoke(call, peers, orderer, wait_s)


@chaincode.command(cls=FabricCommand)
@channel_flag
@name_flag
@constructor_flag
@click.option("--transient", default="", help="JSON object of name and Base64 value.")
@click.option("-r", "--raw", is_flag=True, help="Print bytes as Go would.")
@click.option("-x", "--hex", "as_hex", is_flag=True, help="Print hex digits.")
@peer_flags
def query(
    channel_id: str,
    name: str,
    constructor: str,
    transient: str,
    raw: bool,
    as_hex: bool,
    peers: PeerFlags,
) -> None:
    """Let a peer run a call, and print what it returns."""
    if raw and as_hex:
        raise click.ClickException("options --raw (-r) and --hex (-x) are not compatible")
    from peer.cli import calling

    call = calling.Invocation.read(channel_id, name, constructor, transient)
    payload = calling.query(call, peers)
    if as_hex:
        click.echo(payload.hex())
    elif raw:
        click.echo(f"[{' '.join(map(str, payload))}]")
    else:
        click.echo(payload)


@chaincode.command(cls=FabricCommand)
@click.argument("output", type=FILE)
@name_flag
@version_flag
@click.option("-p", "--path", "source", required=True, help="Directory of the code.")
@language_flag
@click.option("-s", "--cc-package", "enveloped", is_flag=True, help="For owners to sign.")
@click.option("-S", "--sign", is_flag=True, help="With -s: sign it as an owner.")
@click.option("-i", "--instantiate-policy", "policy", default="", help="With -s: who may deploy.")
def package(
    output: Path,
    name: str,
    version: str,
    source: str,
    language: str,
    enveloped: bool,
    sign: bool,
    policy: str,
) -> None:
    """Write a deployment spec of a directory of code to OUTPUT."""
    from peer.cli import deploying

    owned = deploying.Owned(sign=sign, policy=policy) if enveloped else None
    deploying.package(output, Path(source), language, name, version, owned)


@chaincode.command(cls=FabricCommand)
@click.argument("package", type=FILE)
@click.argument("output", type=FILE)
def signpackage(package: Path, output: Path) -> None:
    """Sign the PACKAGE of several owners as one of them, into OUTPUT."""
    from peer.cli import deploying

    deploying.sign_package(package, output)


@chaincode.command(cls=FabricCommand)
@click.argument("package", type=FILE, required=False)
@click.option("-n", "--name", default="", help="Name of the chaincode.")
@click.option("-v", "--version", default="", help="Version of the chaincode.")
@click.option("-p", "--path", "source", default="", help="Directory of the code.")
@language_flag
@peer_flags
def install(
    package: Path | None, name: str, version: str, source: str, language: str, peers: PeerFlags
) -> None:
    """Install a deployment spec, a PACKAGE or made of a directory, on a peer."""
    from peer.cli import deploying

    if package is None and not (name and version and source):
        raise click.UsageError(
            "chaincode argument error: give a package, or name, version and path (-n, -v, -p)"
        )
    if package is not None:
        data = deploying.read_package(package, name, version)
    else:
        data = deploying.pack(Path(source), language, name, version)
    deploying.install(data, peers)


def _deployment(command: click.decorators.FC) -> click.decorators.FC:
    """Add the flags of a deployment."""
    for option in (
        click.option("--collections-config", "collections", default="", help="JSON file."),
        click.option("-V", "--vscc", default="", help="Validation plugin."),
        click.option("-E", "--escc", default="", help="Endorsement plugin."),
        click.option("-P", "--policy", default="", help="Who must endorse: \"OR('A.peer')\"."),
        language_flag,
        version_flag,
        constructor_flag,
        name_flag,
        channel_flag,
    ):
        command = option(command)
    return command


@chaincode.command(cls=FabricCommand)
@_deployment
@peer_flags
@orderer_flags
def instantiate(peers: PeerFlags, orderer: OrdererFlags, **given: str) -> None:
    """Deploy an installed deployment spec on a channel."""
    from peer.cli import deploying

    deploying.deploy("deploy", deploying.Deployment(**given), peers, orderer)


@chaincode.command(cls=FabricCommand)
@_deployment
@peer_flags
@orderer_flags
def upgrade(peers: PeerFlags, orderer: OrdererFlags, **given: str) -> None:
    """Replace a deployed chaincode by another version."""
    from peer.cli import deploying

    deploying.deploy("upgrade", deploying.Deployment(**given), peers, orderer)


@chaincode.command("list", cls=FabricCommand)
@click.option("-C", "--channelID", "channel_id", default="", help="The channel.")
@click.option("--installed", is_flag=True, help="What is installed on the peer.")
@click.option("--instantiated", is_flag=True, help="What is deployed on the channel.")
@peer_flags
def list_(channel_id: str, installed: bool, instantiated: bool, peers: PeerFlags) -> None:
    """List deployment specs: those installed, or those deployed on a channel."""
    if installed == instantiated:
        raise click.UsageError('must explicitly specify "--installed" or "--instantiated"')
    if instantiated and not channel_id:
        raise click.UsageError("the required parameter 'channelID' is empty")
    from peer.cli import deploying

    for line in deploying.listed(channel_id if instantiated else "", peers):
        click.echo(line)
