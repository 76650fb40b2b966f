"""``dev``: write a chaincode, with a peer around it that keeps up.

Room:      peer.cli
Loop:      none; developing starts Trio
"""

from __future__ import annotations

from pathlib import Path

import click

from peer.importing import importing

DEBUG_PORT = 5678


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-n", "--name", default="", help="What it is called as; PATH's name by default.")
@click.option(
    "--command",
    default="",
    help="Run this in PATH instead; {peer.address} in it becomes the address to dial.",
)
@click.option(
    "-e", "--env", multiple=True, metavar="NAME=VALUE", help="Variable for it; repeatable."
)
@click.option("--init", default="", metavar="CALL", help="Initialise it, with 'f a b' or JSON.")
@click.option(
    "--collections",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON file of its private data collections.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep ledger, keys and history there; they are temporary otherwise.",
)
@click.option("--runtime", help="Where it runs, if not where the configuration says.")
@click.option(
    "--debugpy",
    "debug_port",
    type=click.IntRange(1, 65535),
    is_flag=False,
    flag_value=DEBUG_PORT,
    metavar="[PORT]",
    help=f"Let a Python debugger connect, on port {DEBUG_PORT} by default.",
)
@click.pass_context
def dev(
    ctx: click.Context,
    path: Path,
    name: str,
    command: str,
    env: tuple[str, ...],
    init: str,
    collections: Path | None,
    data: Path | None,
    runtime: str | None,
    debug_port: int | None,
) -> int:
    """Run the chaincode in PATH, again after every change, and call it.

    A network of its own, a prompt for calls, and what each transaction reads and writes. Other
    terminals can call it, too. Ctrl-C ends it all.
    """
    with importing():
        from peer.cli import developing

    wanted = developing.Wanted(
        path=path,
        name=name,
        command=command,
        env=env,
        init=init,
        collections=collections,
        data=data,
        runtime=runtime,
        debug_port=debug_port,
        program=ctx.find_root().info_name or "triopeer",
    )
    return developing.develop(wanted)
