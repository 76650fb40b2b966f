"""``doctor``: what stands between this configuration and a working peer.

Room:      peer.cli
Loop:      none; the diagnosis starts Trio
Fabric:    none
"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="A core.yaml.")
@click.option("--runtime", help="Check this runtime rather than the configured one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(path: Path | None, runtime: str | None, as_json: bool) -> int:
    """Check the runtime and the configuration, and say what to do.

    Nothing is changed, and a peer that runs is not disturbed. The exit code is 1 if anything is
    broken; advice alone leaves it 0.
    """
    from peer.cli import diagnosis

    return diagnosis.examine(path, runtime, as_json=as_json)
