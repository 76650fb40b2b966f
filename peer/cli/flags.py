"""Flags that many commands share, Fabric's names and habits.

Room:      peer.cli   (used by the families of commands; light, as --help needs it)
Loop:      none
Fabric:    internal/peer/common/ordererenv.go, internal/peer/chaincode/chaincode.go (release-2.5)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[Any], Any]

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


class FabricCommand(click.Command):
    """A command whose switches may say ``--waitForEvent=false``, as those of Go programs do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take a value off each switch, then parse as ever."""
        switches = {
            name: each
            for each in self.params
            if isinstance(each, click.Option) and each.is_flag and not each.is_eager
            for name in each.opts
        }
        end = args.index("--") if "--" in args else len(args)
        plain = []
        for arg in args[:end]:
            name, _, value = arg.partition("=")
            if name in switches and value in _TRUE:
                plain.append(name)
            elif name in switches and value in _FALSE:
                plain += switches[name].secondary_opts[:1]
            else:
                plain.append(arg)
        return super().parse_args(ctx, plain + args[end:])


def seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Read a Go duration such as ``30s``; a callback for options."""
    from peer.config.values import parse_duration

    try:
        return parse_duration(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


class OrdererFlags(NamedTuple):
    """How to reach the ordering service; an empty address leaves that to the channel."""

    orderer_address: str
    orderer_tls: bool
    orderer_client_auth: bool
    orderer_ca: str
    orderer_key: str
    orderer_certificate: str
    orderer_name: str
    orderer_connect_s: float


class PeerFlags(NamedTuple):
    """Which peers to ask instead of ``CORE_PEER_ADDRESS``, and their TLS roots in that order."""

    peer_addresses: tuple[str, ...]
    peer_roots: tuple[str, ...]
    profile: str = ""


_ORDERER = (
    click.option("-o", "--orderer", "orderer_address", default="", help="Orderer, host:port."),
    click.option("--tls", "orderer_tls", is_flag=True, help="Use TLS with the orderer."),
    click.option(
        "--clientauth", "orderer_client_auth", is_flag=True, help="Use mutual TLS with the orderer."
    ),
    click.option("--cafile", "orderer_ca", default="", help="PEM file: who certifies the orderer."),
    click.option("--keyfile", "orderer_key", default="", help="PEM file: key for mutual TLS."),
    click.option(
        "--certfile", "orderer_certificate", default="", help="PEM file: certificate of that key."
    ),
    click.option(
        "--ordererTLSHostnameOverride",
        "orderer_name",
        default="",
        help="Name to expect in the orderer's certificate.",
    ),
    click.option(
        "--connTimeout",
        "orderer_connect_s",
        callback=seconds,
        default="3s",
        show_default=True,
        help="How long to try to connect.",
    ),
)
_PEERS = (
    click.option(
        "--peerAddresses", "peer_addresses", multiple=True, help="Peer, host:port; for each once."
    ),
    click.option(
        "--tlsRootCertFiles",
        "peer_roots",
        multiple=True,
        help="PEM file: who certifies the peer; in the same order.",
    ),
    click.option(
        "--connectionProfile", "profile", default="", help="YAML file that lists peers instead."
    ),
)
channel_flag = click.option("-C", "--channelID", "channel_id", required=True, help="The channel.")
name_flag = click.option("-n", "--name", required=True, help="Name of the chaincode.")
output_flag = click.option(
    "-O", "--output", type=click.Choice(["json"]), help="Print JSON instead of text."
)


def orderer_flags(command: F) -> F:
    """Add the flags of `OrdererFlags`, and hand them over as ``orderer``."""
    packed: F = _packed(command, "orderer", OrdererFlags, _ORDERER)
    return packed


def peer_flags(command: F) -> F:
    """Add the flags of `PeerFlags`, and hand them over as ``peers``."""
    packed: F = _packed(command, "peers", PeerFlags, _PEERS)
    return packed


def wait_flags(*, default: bool) -> Callable[[F], F]:
    """Add ``--waitForEvent``; ``wait_s`` is how long to wait for a verdict, None not to wait."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def packed(*args: Any, wait: bool, wait_s: float, **given: Any) -> Any:
            return command(*args, wait_s=wait_s if wait else None, **given)

        options = (
            click.option(
                "--waitForEvent/--no-waitForEvent",
                "wait",
                default=default,
                show_default=True,
                help="Wait until each peer has committed the transaction.",
            ),
            click.option(
                "--waitForEventTimeout",
                "wait_s",
                callback=seconds,
                default="30s",
                show_default=True,
                help="How long.",
            ),
        )
        decorated: F = _with_options(packed, options)
        return decorated

    return decorate


def _packed(command: Any, name: str, kind: type[Any], options: Sequence[Decorator]) -> Any:
    @functools.wraps(command)
    def packed(*args: Any, **given: Any) -> Any:
        fields = {each: given.pop(each) for each in kind._fields}
        return command(*args, **{name: kind(**fields)}, **given)

    return _with_options(packed, options)


def _with_options(command: Any, options: Sequence[Decorator]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
