"""What ``doctor`` finds: what stands between this configuration and a working peer.

Room:      peer.cli
Loop:      starts Trio, for the backend's own opinion
Fabric:    none
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
import trio

from peer.cli import findings
from peer.cli.findings import Finding, Status, broken, ok
from peer.config import PeerConfig
from peer.errors import ConfigError
from peer.rpc.loop import open_loop
from runtimes import loader
from runtimes.api import RuntimeFailure, RuntimeSettings

BACKEND_LIMIT_S = 20.0

_MARKS = {Status.OK: ("ok", "green"), Status.ADVICE: ("!", "yellow"), Status.BROKEN: ("X", "red")}


def examine(path: Path | None, runtime: str | None, *, as_json: bool) -> int:
    """Print every finding and return the exit code: 1 if anything is broken."""
    name, found = diagnose(path, runtime)
    is_broken = any(finding.status is Status.BROKEN for finding in found)
    if as_json:
        rows = [{**asdict(finding), "status": finding.status.value} for finding in found]
        document = {"runtime": name, "broken": is_broken, "findings": rows}
        click.echo(json.dumps(document, indent=2))
    else:
        _print_table(found)
    return int(is_broken)


def diagnose(path: Path | None, runtime: str | None) -> tuple[str, list[Finding]]:
    """Return the name of the runtime, empty if it is not known, and every finding."""
    try:
        config = PeerConfig.load(path, overrides={"vm.runtime": runtime} if runtime else None)
    except ConfigError as exc:
        what_to_do = "correct it; docs/configuration.md lists the keys"
        return "", [broken("configuration", problem, what_to_do) for problem in exc.problems]
    return config.vm.runtime, list(_findings(config))


def _findings(config: PeerConfig) -> Iterator[Finding]:
    yield from findings.configuration(config)
    yield from findings.addresses(config)
    yield from findings.disk(config)
    match config.vm.runtime:
        case "process":
            yield from findings.processes()
        case "docker" | "podman":
            from peer.cli.doctor_engine import engine

            yield from engine(config)
    yield trio.run(_backend, config)


async def _backend(config: PeerConfig) -> Finding:
    """Open the backend beside whatever peer there may be, and ask how it is."""
    name = config.vm.runtime
    what_to_do = "see the findings above, and docs/runtimes.md"
    with tempfile.TemporaryDirectory(prefix="triopeer-doctor-") as state_dir:
        settings = RuntimeSettings(
            network_id="doctor",
            peer_id=f"{os.getpid()}",
            state_dir=Path(state_dir),
            options=config.vm.options,
            on_output=lambda ccid, line: None,
        )
        failure: RuntimeFailure | None = None
        with trio.move_on_after(BACKEND_LIMIT_S) as limit:
            async with open_loop():
                try:
                    async with loader.load(name)(settings) as backend:
                        await backend.health()
                except RuntimeFailure as exc:
                    failure = exc
    if limit.cancelled_caught:
        return broken("runtime", f"{name}: no answer within {BACKEND_LIMIT_S:g} s", what_to_do)
    if isinstance(failure, loader.UnknownRuntime):
        return broken("runtime", str(failure), "install it, or set vm.runtime to another one")
    if failure is not None:
        return broken("runtime", f"{name}: {failure}", what_to_do)
    return ok("runtime", f"{name} could start a chaincode now")


def _print_table(found: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in found:
        mark, color = _MARKS[finding.status]
        told = Text(finding.detail)
        if finding.advice:
            told.append(f"\n-> {finding.advice}", style=color)
        table.add_row(Text(mark, style=color), finding.check, told)
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)
