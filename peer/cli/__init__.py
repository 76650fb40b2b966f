"""The command line: one file per command family, imported when it is used.

Room:      peer.cli   (imports everything below it; used by peer.__main__)
Loop:      none; a command that needs Trio starts it
Fabric:    cmd/peer/main.go (release-2.5)

Results go to standard output, logs and errors to standard error. Exit codes: 0 done, 1 failed,
2 wrong usage or configuration, 130 interrupted.

A family's file declares commands and nothing else, so that ``--help`` is quick; what they do is in
files of its own, imported when one runs.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from peer.errors import ConfigError, PeerError
from peer.version import VERSION

FAILED = 1
USAGE = 2
INTERRUPTED = 130


class Lazy(NamedTuple):
    """A command that is imported when it runs; its help is here so that ``--help`` is quick."""

    target: str
    help: str


COMMANDS: Mapping[str, Lazy] = {
    "chaincode": Lazy("peer.cli.chaincode:chaincode", "Call chaincodes; deploy them the old way."),
    "channel": Lazy("peer.cli.channel:channel", "Make, join, look at and change channels."),
    "config": Lazy("peer.cli.config:config", "Show the configuration and where it comes from."),
    "demo": Lazy("peer.cli.demo:demo", "Show a chaincode's life, from launch to shutdown."),
    "dev": Lazy(
        "peer.cli.dev:dev", "Run the chaincode in PATH, again after every change, and call it."
    ),
    "doctor": Lazy(
        "peer.cli.doctor:doctor", "Check the runtime and the configuration, and say what to do."
    ),
    "ledger": Lazy("peer.cli.ledger:ledger", "Audit a ledger, this peer's or one of Fabric's."),
    "lifecycle": Lazy(
        "peer.cli.lifecycle:lifecycle", "Package, install, approve and commit chaincodes."
    ),
    "network": Lazy(
        "peer.cli.network:network", "Make a development network: organisations, keys, a channel."
    ),
    "node": Lazy("peer.cli.node:node", "Run a peer, or tend its ledgers while it does not run."),
    "orderer": Lazy("peer.cli.orderer:orderer", "Run an ordering service by itself."),
    "snapshot": Lazy("peer.cli.snapshot:snapshot", "Ask a peer for snapshots of its ledgers."),
    "version": Lazy("peer.cli.version:version", "Show the versions of the peer and its platform."),
}


class LazyGroup(click.Group):
    """A group whose sub-commands live in modules of their own."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name].target.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in sorted(self.lazy.items())])


def keep_all() -> None:
    """Keep the garbage collector away from all that there is now: a peer has opened, and stays.

    What it was imported from is most of it, and a full collection stops every call.
    """
    gc.freeze()


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"triopeer {VERSION}")
        ctx.exit()


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """A Hyperledger-Fabric-compatible peer on Trio."""


def run(args: Sequence[str] | None = None, *, program: str = "triopeer") -> int:
    """Run one command line and return its exit code; `args` are those of the process by default."""
    try:
        result = cli.main(args, prog_name=program, standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ConfigError as exc:
        click.echo("Error: the configuration cannot be used:", err=True)
        for problem in exc.problems:
            click.echo(f"  {problem}", err=True)
        return USAGE
    except PeerError as exc:
        click.echo(f"Error: {exc}", err=True)
        return FAILED
    return result if isinstance(result, int) else 0
