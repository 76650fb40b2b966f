"""``ledger``: look at ledgers that lie somewhere.

Room:      peer.cli
Loop:      none; auditing starts Trio
Fabric:    none; compare cmd/ledgerutil (release-2.5)
"""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def ledger() -> None:
    """Audit a ledger, this peer's or one of Fabric's."""


@ledger.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--replay", is_flag=True, help="Judge every transaction again, and show the state.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def verify(path: Path, replay: bool, as_json: bool) -> int:
    """Check hashes, signatures and verdicts in the block files at PATH, which are only read.

    PATH is a block file, a channel's directory, or one above several. The exit code is 1 if
    anything is not as it must be, and 2 if PATH cannot be read.
    """
    from peer.cli import auditing

    return auditing.verify(path, replay=replay, as_json=as_json)
