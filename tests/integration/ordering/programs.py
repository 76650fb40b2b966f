"""An orderer and peers as programs of their own, and clients of them in the test.

Room:      tests.integration.ordering   (imports peer)
Loop:      Trio
Lifetime:  one test; every program is killed at its end
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import trio

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockData,
    ConfigEnvelope,
    Envelope,
    Header,
    HeaderType,
    OrdererAddresses,
    Payload,
)
from fabric_protos.lifecycle import InstallChaincodeArgs
from fabric_protos.stream import ChaincodeInput, ChannelHeader, SignatureHeader, Timestamp
from peer.channel import network
from peer.channel.network import Member, Network, NetworkDescription
from peer.client.calls import Client
from peer.client.definitions import WantedDefinition, approval, commitment
from peer.client.remote import (
    RemoteEndorser,
    RemoteOrderer,
    RemoteVerdicts,
    fetch_block,
)
from peer.events.requests import NEWEST, at
from peer.ledger.blocks import data_hash, envelopes_of, header_of
from peer.lifecycle import state
from peer.lifecycle.packages import pack
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity
from peer.remote import ClientTls, Connection, Endpoint
from peer.rpc.client import dial

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "asset_transfer"
CHANNEL = "mychannel"
ASSETS = "assets"
SOON_S = 240.0
VERDICT_S = 20.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_network(directory: Path, *, peers: int = 1) -> Network:
    """Make a network whose orderer has a free port of this machine."""
    addresses = {"orderer.example.com": f"localhost:{free_port()}"}
    description = NetworkDescription(peers=peers, batch_timeout="50ms", addresses=addresses)
    return network.create(directory, description)


def name_orderers(made: Network, *addresses: str) -> None:
    """Let the channel name these orderers from its first block on."""
    block = made.genesis_block()
    envelope = decode(Envelope, envelopes_of(block)[0])
    payload = decode(Payload, envelope.payload)
    config = decode(ConfigEnvelope, payload.data)
    assert config.config is not None
    assert config.config.channel_group is not None
    organisation = config.config.channel_group.groups["Orderer"].groups["Orderer"]
    organisation.values["Endpoints"].value = encode(OrdererAddresses(addresses=list(addresses)))
    payload.data = encode(config)
    envelope.payload = encode(payload)
    block.data = BlockData(data=[encode(envelope)])
    header_of(block).data_hash = data_hash(block.data)
    made.genesis_path.write_bytes(encode(block))


@dataclass
class Program:
    """A command of ours; `start` returns once it says where it listens.

    Attributes:
        log: file of what it wrote to standard error, all starts together.
    """

    args: Sequence[str | Path]
    env: Mapping[str, str]
    log: Path
    module: str = "peer"
    address: str = ""
    _process: trio.Process | None = field(default=None, repr=False)

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", self.module, *map(str, self.args)],
                env={**_plain_environment(), **self.env},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        said = b""
        with trio.fail_after(SOON_S):
            while b"\n" not in said:
                received = await self._process.stdout.receive_some()
                assert received, self.log.read_text()
                said += received
        self.address = said.decode().partition(" started at ")[2].partition(";")[0]

    async def kill(self) -> None:
        """End it as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                if process.stdout is not None:
                    await process.stdout.aclose()

    async def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        assert self._process is not None
        self._process.terminate()
        with trio.fail_after(SOON_S):
            code = await self._process.wait()
        await self.kill()
        return code


def _plain_environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    return {**kept, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}"}


@asynccontextmanager
async def running(program: Program) -> AsyncIterator[Program]:
    """Run a program; it is killed at the end, whatever became of it."""
    try:
        await program.start()
        yield program
    finally:
        await program.kill()


def orderer_program(made: Network, directory: Path, *args: str) -> Program:
    """Return the network's orderer, with mutual TLS."""
    return Program(
        args=[
            "orderer", "start", "--network", made.directory, "--data", directory / "orderer",
            "--tls", "--client-auth", *args,
        ],
        env={},
        log=directory / "orderer.log",
    )  # fmt: skip


def peer_program(made: Network, index: int, directory: Path) -> Program:
    """Return a peer of the network, with TLS, at a port of its own."""
    [organisation] = made.organisations
    node = organisation.nodes[index]
    address = f"localhost:{free_port()}"
    return Program(
        args=["node", "start"],
        env={
            "CORE_PEER_ID": f"peer{index}",
            "CORE_PEER_LOCALMSPID": organisation.msp_id,
            "CORE_PEER_MSPCONFIGPATH": str(node.msp),
            "CORE_PEER_FILESYSTEMPATH": str(directory / f"peer{index}"),
            "CORE_PEER_LISTENADDRESS": address,
            "CORE_PEER_ADDRESS": address,
            "CORE_PEER_TLS_ENABLED": "true",
            "CORE_PEER_TLS_CERT_FILE": str(node.tls / "server.crt"),
            "CORE_PEER_TLS_KEY_FILE": str(node.tls / "server.key"),
            "CORE_PEER_DELIVERYCLIENT_RECONNECTBACKOFFTHRESHOLD": "1s",
        },
        log=directory / f"peer{index}.log",
    )


@dataclass(frozen=True)
class User:
    """A member of the organisation with peers, and his TLS certificate."""

    made: Network
    member: Member

    @property
    def identity(self) -> SigningIdentity:
        return load_signing_identity(self.member.msp, self.made.organisations[0].msp_id)

    def endpoint(self, address: str, server: Member) -> Endpoint:
        """Return how to reach a node of the network."""
        tls = self.member.tls
        return Endpoint(
            address,
            ClientTls(
                (server.tls / "ca.crt").read_bytes(),
                (tls / "client.crt").read_bytes(),
                (tls / "client.key").read_bytes(),
            ),
        )

    def client(self, orderer: Connection, *peers: Connection) -> Client:
        """Return a client that all these peers endorse for, and tell the verdicts."""
        identity = self.identity
        return Client(
            identity,
            endorsers=[RemoteEndorser(peer) for peer in peers],
            verdicts=RemoteVerdicts(
                identity, peers, timeout_s=VERDICT_S, on_verdict=lambda tx_id, address, code: None
            ),
            orderer=lambda channel_id: RemoteOrderer(orderer),
        )


def administrator(made: Network) -> User:
    return User(made, made.organisations[0].users[0])


def user(made: Network) -> User:
    return User(made, made.organisations[0].users[1])


@asynccontextmanager
async def dialled(endpoint: Endpoint) -> AsyncIterator[Connection]:
    """Hold a connection; it must be possible at once."""
    async with dial(endpoint) as connection:
        yield connection


async def join(admin: User, peer: Connection, block: Block) -> None:
    """Let a peer join a channel, as `peer channel join` does."""
    client = Client(
        admin.identity,
        endorsers=[RemoteEndorser(peer)],
        verdicts=None,
        orderer=lambda channel_id: RemoteOrderer(peer),  # a query has no use for one
    )
    args = [b"JoinChain", encode(block)]
    result = await client.evaluate("", "cscc", ChaincodeInput(args=args))
    assert result.status == 200, result.message


async def deploy(admin: User, peers: Sequence[Connection], orderer: Connection) -> None:
    """Install the example on all peers, and define it on the channel; all have committed that."""
    data = pack(EXAMPLE, "python", ASSETS)
    args = [b"InstallChaincode", encode(InstallChaincodeArgs(chaincode_install_package=data))]
    for peer in peers:
        client = admin.client(orderer, peer)
        result = await client.evaluate("", state.LIFECYCLE, ChaincodeInput(args=args))
        assert result.status == 200, result.message
    wanted = WantedDefinition(
        name=ASSETS, version="1.0", package_id=f"{ASSETS}:{sha256(data).hexdigest()}"
    )
    client = admin.client(orderer, *peers)  # each keeps what the approval says in private
    for function, what in (
        (b"ApproveChaincodeDefinitionForMyOrg", approval(wanted, 1)),
        (b"CommitChaincodeDefinition", commitment(wanted, 1)),
    ):
        await client.define(CHANNEL, state.LIFECYCLE, ASSETS, [function, encode(what)])


async def chain_of(who: User, peer: Connection, height: int) -> list[Block]:
    """Return the first blocks of a peer; waits until it has so many."""
    return [
        await fetch_block(peer, who.identity, CHANNEL, at(number), waits=True)
        for number in range(height)
    ]


async def height_of(who: User, peer: Connection) -> int:
    """Return the height of a peer."""
    newest = await fetch_block(peer, who.identity, CHANNEL, NEWEST)
    return header_of(newest).number + 1


def something(who: User) -> bytes:
    """Return an envelope that orderers take. No peer will find it valid."""
    signer = who.identity
    channel = ChannelHeader(
        type=HeaderType.ENDORSER_TRANSACTION, channel_id=CHANNEL, timestamp=Timestamp(seconds=1)
    )
    creator = SignatureHeader(creator=signer.creator, nonce=os.urandom(24))
    header = Header(channel_header=channel.encode(), signature_header=creator.encode())
    payload = encode(Payload(header=header, data=b"nothing"))
    return encode(Envelope(payload=payload, signature=signer.sign(payload)))
