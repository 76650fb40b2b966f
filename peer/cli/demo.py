"""``demo``: a chaincode's life, as it happens.

Room:      peer.cli
Loop:      none; the demonstration starts Trio
"""

from __future__ import annotations

from pathlib import Path

import click

import peer
from peer.importing import importing

EXAMPLE = Path(peer.__file__).parent.parent / "examples" / "asset_transfer"


@click.command()
@click.option("--runtime", help="Where the chaincode runs, if not where the configuration says.")
@click.option(
    "--chaincode",
    type=click.Path(path_type=Path),
    default=EXAMPLE,
    help="Directory of the asset transfer example; found by itself in a checkout.",
)
@click.option("--verbose", is_flag=True, help="Show the log too.")
def demo(runtime: str | None, chaincode: Path, verbose: bool) -> None:
    """Show a chaincode's life, from launch to shutdown."""
    with importing():
        from peer.cli import demonstration

    demonstration.show(runtime, chaincode, verbose=verbose)
