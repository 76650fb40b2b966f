"""What a command needs to call peers and orderers: an identity, connections, and Fabric's texts.

Room:      peer.cli   (imports client, msp, rpc; used by what the commands do)
Loop:      Trio, with an asyncio loop inside for gRPC
Lifetime:  one command
Fabric:    internal/peer/common/common.go, internal/peer/chaincode/common.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from fabric_protos.codec import decode
from fabric_protos.common import Config, Status
from fabric_protos.protos import ProposalResponse
from fabric_protos.stream import ChaincodeInput, SignedProposal
from peer import logs
from peer.channel.bundle import Bundle
from peer.channel.embedded import open_embedded
from peer.cli.flags import OrdererFlags, PeerFlags
from peer.cli.profile import peers_of_profile
from peer.client.calls import Client, Result, Verdicts
from peer.client.remote import RemoteEndorser, RemoteOrderer, RemoteVerdicts
from peer.config import PeerConfig
from peer.errors import (
    BroadcastRefused,
    CallFailed,
    CommitTimeout,
    ConfigError,
    DeliverRefused,
    EndorsementsDiffer,
    PeerError,
)
from peer.ledger.api import ValidationCode
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity
from peer.remote import ClientTls, Connection, Endpoint
from peer.rpc.client import dial
from peer.rpc.loop import open_loop

log = logging.getLogger("peer.cli")

T = TypeVar("T")

OK = 200
EMBEDDED_NETWORK = "network"
"""Where a peer with a network of its own keeps it, below ``peer.fileSystemPath``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How Fabric's command says what went wrong; each is followed by the cause.

    Attributes:
        verb: the command.
        endorser_client: no connection to the peer.
        endorsing, endorsed: before and behind what a call that failed says.
        flags: the flags that name peers do not fit together.
        one_peer: there are too many.
        assembling: the endorsements make no transaction.
        sending: the orderer does not take it.
    """

    verb: str
    endorser_client: str
    endorsing: str
    endorsed: str = ""
    flags: str = "error validating peer connection parameters"
    one_peer: str = "'{verb}' command can only be executed against one peer. received {count}"
    assembling: str = "could not assemble transaction"
    sending: str = "error sending transaction for {verb}"


def run(work: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run what a command does.

    Raises:
        click.ClickException, PeerError: it failed.
    """
    return trio.run(_with_loop, work, args)


async def _with_loop(work: Callable[..., Awaitable[T]], args: Sequence[Any]) -> T:
    """Decide inside, raise outside: trio-asyncio's nursery would wrap an error."""
    failure: Exception | None = None
    async with open_loop():
        try:
            return await work(*args)
        except Exception as exc:
            failure = exc
    raise failure


class Session:
    """One command's dealings with others; made by `open_session`.

    Attributes:
        identity: who asks.
        peers: the peers to ask, at least one where the command asks for any.
        tls_hash: what requests for blocks are bound to, empty without a client certificate.
    """

    def __init__(self, config: PeerConfig, stack: AsyncExitStack, wording: Wording) -> None:
        self.identity = load_identity(config)
        self.peers: list[Connection] = []
        self.tls_hash = b""
        self.wording = wording
        self._config = config
        self._stack = stack

    async def connect_peers(self, flags: PeerFlags, channel_id: str, *, several: bool) -> None:
        """Connect to the peers of the flags, or to the configured one.

        Raises:
            click.ClickException: the flags do not fit together, or a peer cannot be reached.
        """
        wording, count = self.wording, len(flags.peer_addresses)
        if count > 1 and not several:
            problem = wording.one_peer.format(verb=wording.verb, count=count)
            raise click.ClickException(f"{wording.flags}: {problem}")
        try:
            endpoints = peer_endpoints(self._config, flags, channel_id)
        except _Unmatched as exc:
            raise click.ClickException(f"{wording.flags}: {exc}") from exc
        for endpoint in endpoints:
            self.peers.append(
                await self._dial(
                    endpoint,
                    f"{self.wording.endorser_client}: endorser client",
                    self._config.client.connect_timeout_s,
                )
            )
        tls = endpoints[0].tls
        self.tls_hash = tls.certificate_hash if tls is not None else b""

    async def connect_orderer(self, flags: OrdererFlags, channel_id: str = "") -> Connection:
        """Connect to the orderer of the flags, or to one that the channel names.

        Raises:
            click.ClickException: it cannot be reached, or nobody names one.
        """
        tls = None
        if flags.orderer_tls:
            tls = ClientTls(
                root=_read(flags.orderer_ca),
                certificate=_read(flags.orderer_certificate) if flags.orderer_client_auth else b"",
                key=_read(flags.orderer_key) if flags.orderer_client_auth else b"",
                server_name=flags.orderer_name,
            )
        address = flags.orderer_address or await self._orderer_of(channel_id)
        return await self._dial(
            Endpoint(address, tls),
            "error getting broadcast client: orderer client",
            flags.orderer_connect_s,
        )

    async def submit(
        self,
        channel_id: str,
        chaincode: str,
        payload: ChaincodeInput,
        transient: Mapping[str, bytes],
        orderer: Connection,
        wait_s: float | None,
    ) -> Result:
        """Let all peers endorse a call, and order what came of it unless it failed.

        Args:
            wait_s: for the verdicts of all peers; None not to wait.

        Raises:
            click.ClickException, PeerError: there is no transaction, it is not taken, or it is not
                valid.
        """
        verdicts = None
        if wait_s is not None:
            verdicts = RemoteVerdicts(
                self.identity,
                self.peers,
                timeout_s=wait_s,
                on_verdict=_tell_verdict,
                tls_hash=self.tls_hash,
            )
        try:
            result = await self._client(orderer, verdicts).submit(
                channel_id, chaincode, payload, transient
            )
        except EndorsementsDiffer as exc:
            raise click.ClickException(f"{self.wording.assembling}: {exc}") from exc
        except CommitTimeout as exc:
            raise click.ClickException("timed out waiting for txid on all peers") from exc
        except DeliverRefused as exc:
            raise click.ClickException(exc.info) from exc
        except CallFailed as exc:
            raise click.ClickException(f"error receiving from deliver filtered: {exc}") from exc
        if result.validation_code not in (None, ValidationCode.VALID):
            name = result.validation_code.name
            raise click.ClickException(f"transaction invalidated with status ({name})")
        return result

    async def evaluate(
        self,
        channel_id: str,
        chaincode: str,
        payload: ChaincodeInput,
        transient: Mapping[str, bytes] | None = None,
    ) -> Result:
        """Let the first peer run a call.

        Raises:
            PeerError: it gives no answer. An answer of any status is a result.
        """
        return await self._client().evaluate(channel_id, chaincode, payload, transient)

    async def ask(self, channel_id: str, chaincode: str, *args: bytes) -> Result:
        """Ask a system chaincode of the first peer; otherwise like `evaluate`."""
        return await self.evaluate(channel_id, chaincode, ChaincodeInput(args=list(args)))

    async def endorse(self, signed: SignedProposal) -> ProposalResponse:
        """Hand a proposal made otherwise to the first peer."""
        return await _Endorser(self.peers[0], self.wording).endorse(signed)

    def _client(
        self, orderer: Connection | None = None, verdicts: Verdicts | None = None
    ) -> Client:
        return Client(
            self.identity,
            endorsers=[_Endorser(each, self.wording) for each in self.peers],
            verdicts=verdicts,
            orderer=lambda channel_id: _Orderer(orderer, self.wording),
        )

    async def _orderer_of(self, channel_id: str) -> str:
        """Return the first orderer that the channel's configuration names."""
        prefix = f"error getting channel ({channel_id}) orderer endpoint"
        if not (channel_id and self.peers):
            raise click.ClickException("no orderer is given (-o)")
        result = await self.ask(channel_id, "cscc", b"GetChannelConfig", channel_id.encode())
        if result.status != OK:
            raise click.ClickException(f"{prefix}: {result.message}")
        endpoints = Bundle(channel_id, decode(Config, result.payload)).orderer_endpoints
        if not endpoints:
            raise click.ClickException(f"{prefix}: the channel names none; give one (-o)")
        return endpoints[0].address

    async def _dial(self, endpoint: Endpoint, who: str, timeout_s: float) -> Connection:
        try:
            return await self._stack.enter_async_context(
                dial(endpoint, connect_timeout_s=timeout_s)
            )
        except CallFailed as exc:
            text = f"failed to connect to {endpoint}: failed to create new connection"
            reason = exc.message.removeprefix(f"{endpoint}: ")
            raise click.ClickException(f"{who} {text}: {reason}") from exc


def peer_endpoints(config: PeerConfig, flags: PeerFlags, channel_id: str = "") -> list[Endpoint]:
    """Return the peers of the flags, or the configured one.

    Raises:
        ConfigError, click.ClickException: flags or TLS files are missing.
    """
    node, client = config.peer, config.client
    addresses, roots = flags.peer_addresses, flags.peer_roots
    if not (flags.profile or node.tls_enabled):
        return [Endpoint(each) for each in addresses or [node.address]]
    certificate, key = _read(client.certificate), _read(client.private_key)
    if flags.profile:
        return peers_of_profile(Path(flags.profile), channel_id, certificate, key)
    if not (roots or client.root_certificate):
        raise ConfigError(["peer.tls.enabled is true, but peer.tls.rootcert.file is not set"])
    if not addresses:
        root = _read(roots[0] if roots else client.root_certificate)
        return [Endpoint(node.address, ClientTls(root, certificate, key, client.server_name))]
    if len(addresses) != len(roots):
        raise _Unmatched(
            f"number of peer addresses ({len(addresses)}) does not match the number of TLS "
            f"root cert files ({len(roots)})"
        )
    return [
        Endpoint(address, ClientTls(_read(root), certificate, key))
        for address, root in zip(addresses, roots, strict=True)
    ]


@asynccontextmanager
async def connected(config: PeerConfig) -> AsyncIterator[Connection]:
    """Hold a connection with the configured peer, without anybody to sign as.

    Raises:
        ConfigError, click.ClickException: the TLS files are missing.
        CallFailed: the peer cannot be reached.
    """
    [endpoint] = peer_endpoints(config, PeerFlags((), ()))
    async with dial(endpoint, connect_timeout_s=config.client.connect_timeout_s) as connection:
        yield connection


def load_config() -> PeerConfig:
    """Read the configuration, and log as it says.

    Raises:
        ConfigError: it cannot be used.
    """
    config = PeerConfig.load()
    logs.configure(config.logging.spec, config.logging.format)
    return config


def load_identity(config: PeerConfig) -> SigningIdentity:
    """Return who the commands act as: the configured member, else a network's administrator.

    Raises:
        ConfigError: neither is configured.
        MspDirectoryError, NetworkDirectoryError: its files cannot be used.
    """
    msp_id, path = config.peer.local_msp_id, config.peer.msp_config_path
    if path:
        return load_signing_identity(path, msp_id)
    network = Path(config.peer.file_system_path) / EMBEDDED_NETWORK
    if config.peer.file_system_path and network.exists():
        return open_embedded(network, msp_id).admin
    problem = "peer.mspConfigPath is not set: nobody to sign as (CORE_PEER_MSPCONFIGPATH)"
    raise ConfigError([problem])


@asynccontextmanager
async def open_session(
    wording: Wording,
    peers: PeerFlags | None = None,
    *,
    channel_id: str = "",
    several: bool = False,
) -> AsyncIterator[Session]:
    """Hold a session.

    Args:
        peers: connect to these; to none if None.
        channel_id: chooses peers of a connection profile.
        several: more than one peer may be asked.

    Raises:
        click.ClickException: a peer cannot be reached, or the flags do not fit together.
        ConfigError, MspDirectoryError, NetworkDirectoryError: no identity.
    """
    async with AsyncExitStack() as stack:
        session = Session(load_config(), stack, wording)
        if peers is not None:
            await session.connect_peers(peers, channel_id, several=several)
        yield session


def _read(path: str) -> bytes:
    """Return the content of a PEM file; of none, nothing."""
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise click.ClickException(f"unable to load {path}: {exc.strerror}") from exc


def _tell_verdict(tx_id: str, address: str, code: ValidationCode) -> None:
    log.info("txid [%s] committed with status (%s) at %s", tx_id, code.name, address)


class _Unmatched(click.ClickException):
    """There are not as many of one flag as of another."""


class _Told(PeerError):
    """What Fabric's command says; an error of the peer, so that a client ends other calls on it."""


class _Endorser:
    """A peer whose failures are told as Fabric's command does."""

    def __init__(self, connection: Connection, wording: Wording) -> None:
        self._endorser = RemoteEndorser(connection)
        self._wording = wording

    async def endorse(self, signed: SignedProposal) -> ProposalResponse:
        try:
            return await self._endorser.endorse(signed)
        except CallFailed as exc:
            text = f"{self._wording.endorsing}: {exc}{self._wording.endorsed}"
            raise _Told(text) from exc


class _Orderer:
    """An orderer whose refusals are told as Fabric's command does."""

    def __init__(self, connection: Connection | None, wording: Wording) -> None:
        assert connection is not None  # whoever submits connects to one first
        self._orderer = RemoteOrderer(connection)
        self._wording = wording

    async def broadcast(self, data: bytes) -> None:
        try:
            await self._orderer.broadcast(data)
        except (BroadcastRefused, CallFailed) as exc:
            sending = self._wording.sending.format(verb=self._wording.verb)
            raise _Told(f"{sending}: {refusal(exc)}") from exc


def refusal(exc: BroadcastRefused | CallFailed) -> str:
    """Return how Fabric's client tells of an orderer that takes nothing."""
    if isinstance(exc, CallFailed):
        return str(exc)
    return f"got unexpected status: {Status(exc.status).name} -- {exc.info}"
