"""What ``node status`` does.

Room:      peer.cli
Loop:      starts Trio
Lifetime:  one command
Fabric:    internal/peer/node/status.go (release-1.4)
"""

from __future__ import annotations

import click

from fabric_protos.codec import decode
from fabric_protos.grpc.health.v1 import HealthCheckResponse, HealthCheckResponseServingStatus
from peer.cli.session import connected, load_config, run
from peer.errors import CallFailed

HEALTH = "/grpc.health.v1.Health/Check"
ANSWER_S = 10.0


def status() -> int:
    """Print whether the configured peer serves, and return 0 if it does."""
    try:
        answer = run(_ask)
    except CallFailed as exc:
        click.echo("status:UNKNOWN")
        raise click.ClickException(f"trying to get status from local peer: {exc}") from exc
    serving = answer.status == HealthCheckResponseServingStatus.SERVING
    click.echo("status:STARTED" if serving else "status:STOPPED")
    return 0 if serving else 1


async def _ask() -> HealthCheckResponse:
    async with connected(load_config()) as connection:
        return decode(HealthCheckResponse, await connection.unary(HEALTH, b"", timeout_s=ANSWER_S))
