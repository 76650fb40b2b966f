"""``orderer``: an ordering service by itself.

Room:      peer.cli
Loop:      none
Fabric:    orderer/common/server/main.go (release-2.5)
"""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path)


@click.group()
def orderer() -> None:
    """Run an ordering service by itself."""


@orderer.command()
@click.option("--network", "directory", type=FILE, help="What `network create` made.")
@click.option("--listen", "address", default="", help="Where to serve, host:port.")
@click.option("--data", type=FILE, help="Directory of the blocks.")
@click.option("--msp", type=FILE, help="MSP directory of the orderer; instead of --network.")
@click.option("--msp-id", default="OrdererMSP", show_default=True, help="Its organisation.")
@click.option("--genesis", type=FILE, multiple=True, help="Block 0 of a channel; any number.")
@click.option("--tls", is_flag=True, help="Serve with TLS.")
@click.option("--cert", type=FILE, help="PEM file: certificate to serve with.")
@click.option("--key", type=FILE, help="PEM file: its key.")
@click.option("--client-auth", is_flag=True, help="Let in only clients with a certificate.")
@click.option("--client-ca", type=FILE, multiple=True, help="PEM file: who certifies clients.")
def start(
    directory: Path | None,
    address: str,
    data: Path | None,
    msp: Path | None,
    msp_id: str,
    genesis: tuple[Path, ...],
    tls: bool,
    cert: Path | None,
    key: Path | None,
    client_auth: bool,
    client_ca: tuple[Path, ...],
) -> int:
    """Order the channels there are until SIGTERM or SIGINT.

    With --network everything has a default. Otherwise --msp, --data and --listen are needed, and
    --genesis for every channel that is new. One orderer orders, without consensus: when it is
    down, nothing is ordered; blocks are kept.
    """
    from peer.cli import ordering
    from peer.orderer import OrdererSettings, TlsFiles, settings_of_network

    if directory is not None:
        if msp or genesis or cert or key or client_ca:
            raise click.UsageError("--network has MSP, genesis block and certificates of its own")
        return ordering.run(
            settings_of_network(
                directory, address=address, data=data, tls=tls, client_auth=client_auth
            )
        )
    if msp is None or data is None or not address:
        raise click.UsageError("give --network, or --msp, --data and --listen")
    files = None
    if tls:
        if cert is None or key is None:
            raise click.UsageError("--tls needs --cert and --key")
        files = TlsFiles(certificate=cert, key=key, client_roots=client_ca)
    if client_auth and not (tls and client_ca):
        raise click.UsageError("--client-auth needs --tls and --client-ca")
    if client_ca and not client_auth:
        raise click.UsageError("--client-ca is for --client-auth")
    return ordering.run(
        OrdererSettings(
            address=address, msp=msp, msp_id=msp_id, data=data, genesis=genesis, tls=files
        )
    )
