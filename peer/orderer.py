"""An ordering service by itself, put together: channels, TLS, and what it serves.

Room:      peer.orderer   (imports ordering, rpc, services; used by cli)
Loop:      Trio, with an asyncio loop inside for gRPC
Lifetime:  the process of `python -m peer orderer start`
Fabric:    orderer/common/server/main.go (release-2.5)
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from fabric_protos.codec import decode
from fabric_protos.common import Block
from fabric_protos.errors import DecodeError
from peer.channel import network
from peer.config.values import split_address
from peer.directories import private_directory
from peer.errors import ConfigError
from peer.msp.directory import load_signing_identity
from peer.ordering.node import open_node
from peer.rpc.loop import open_loop
from peer.rpc.server import Limits, Server
from peer.rpc.tls import server_context
from peer.services import broadcast
from peer.services.introspection import CONCURRENCY, introspected

DATA = "orderer-data"
"""Where blocks are kept, in the directory of a development network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files; with `client_roots` only holders of a certificate of theirs are let in."""

    certificate: Path
    key: Path
    client_roots: Sequence[Path] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdererSettings:
    """What an ordering service needs.

    Attributes:
        address: where it serves, port 0 for any free one.
        msp: MSP directory of the member that signs blocks.
        data: directory of the blocks.
        genesis: files with block 0 of channels; of a channel that is there already, without effect.
        tls: None without TLS.
    """

    address: str
    msp: Path
    msp_id: str
    data: Path
    genesis: Sequence[Path] = ()
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True)
class OpenOrderer:
    """An ordering service at work."""

    address: str
    channels: Sequence[str]


def settings_of_network(
    directory: Path,
    *,
    address: str = "",
    data: Path | None = None,
    tls: bool = False,
    client_auth: bool = False,
) -> OrdererSettings:
    """Return the settings of the orderer of a development network.

    Args:
        address: where it serves; if empty, where its channel says.
        data: directory of the blocks; one in the network's if None.
        tls: serve with the network's certificate.
        client_auth: let in only members of the network's organisations.

    Raises:
        NetworkDirectoryError: there is no such network.
    """
    found = network.load(directory)
    node = found.orderer.nodes[0]
    roots = [member.tls / "ca.crt" for each in found.organisations for member in each.nodes[:1]]
    files = TlsFiles(
        certificate=node.tls / "server.crt",
        key=node.tls / "server.key",
        client_roots=[node.tls / "ca.crt", *roots] if client_auth else (),
    )
    return OrdererSettings(
        address=address or node.address,
        msp=node.msp,
        msp_id=found.orderer.msp_id,
        data=data or found.directory / DATA,
        genesis=[found.genesis_path],
        tls=files if tls else None,
    )


@asynccontextmanager
async def open_orderer(settings: OrdererSettings) -> AsyncIterator[OpenOrderer]:
    """Order and serve until the context is left.

    Raises:
        ConfigError: a file cannot be read, or the address cannot be listened on.
        MspDirectoryError: the MSP directory cannot be used.
        ChannelConfigRefused, ConfigUpdateRefused: a channel cannot be ordered by this member.
        LedgerStorageError: the data directory cannot be used.

    Cancellation: calls that are being answered have 5 s to end; blocks are whole.
    """
    failure: BaseException | None = None
    async with AsyncExitStack() as stack:
        try:
            yield await _open(settings, stack)
        except (Exception, BaseExceptionGroup, KeyboardInterrupt, SystemExit) as exc:
            failure = exc  # raised below, outside the nurseries that would wrap it
    if failure is not None:
        raise failure


async def _open(settings: OrdererSettings, stack: AsyncExitStack) -> OpenOrderer:
    signer = await trio.to_thread.run_sync(load_signing_identity, settings.msp, settings.msp_id)
    genesis = [await trio.to_thread.run_sync(_block, path) for path in settings.genesis]
    tls = None
    if settings.tls is not None:
        tls = await trio.to_thread.run_sync(_context, settings.tls)
    data = await trio.to_thread.run_sync(private_directory, settings.data)
    await stack.enter_async_context(open_loop())
    node = await stack.enter_async_context(open_node(data, signer, genesis))
    methods = broadcast.methods(node.orderer, node.channels.get)
    limits = Limits(concurrency=CONCURRENCY)
    try:
        server = Server(introspected(methods), tls=tls, limits=limits)
        address = await stack.enter_async_context(server.listen(*split_address(settings.address)))
    except (OSError, ValueError) as exc:
        raise ConfigError([f"--listen {settings.address}: {exc}"]) from exc
    return OpenOrderer(address, sorted(node.channels))


def _block(path: Path) -> Block:
    try:
        return decode(Block, path.read_bytes())
    except (OSError, DecodeError) as exc:
        raise ConfigError([f"{path} is no block: {exc}"]) from exc


def _context(files: TlsFiles) -> ssl.SSLContext:
    try:
        roots = b"\n".join(path.read_bytes() for path in files.client_roots)
        return server_context(files.certificate.read_bytes(), files.key.read_bytes(), roots)
    except (OSError, ssl.SSLError, ValueError) as exc:
        raise ConfigError([f"TLS: {exc}"]) from exc
