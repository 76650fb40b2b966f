"""``config``: look at the configuration.

Room:      peer.cli
Loop:      none
"""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def config() -> None:
    """Show the configuration and where it comes from."""


@config.command()
@click.option("--all", "everything", is_flag=True, help="Fabric's keys without effect too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, by key.")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="A core.yaml or its directory; otherwise FABRIC_CFG_PATH says where it is.",
)
def show(everything: bool, as_json: bool, path: Path | None) -> None:
    """Show the value of each setting and where it comes from.

    Flags win over environment variables, these over core.yaml, and that over the defaults.
    """
    from peer.cli import settings

    settings.show(path, everything=everything, as_json=as_json)
