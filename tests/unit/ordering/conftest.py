"""A small network, an orderer on it, and clients."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    ConfigSignature,
    ConfigUpdateEnvelope,
    Envelope,
    Header,
    HeaderType,
    Payload,
)
from fabric_protos.orderer import BatchSize
from fabric_protos.stream import ChannelHeader, SignatureHeader, Timestamp
from peer.channel import network
from peer.channel.bundle import Bundle
from peer.channel.configtx import genesis_config
from peer.channel.network import Network, NetworkDescription, NetworkOrganisation
from peer.channel.tree import propose_update
from peer.ledger.blocks import envelopes_of, header_of
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity
from peer.ordering.solo import SoloOrderer

CHANNEL = "mychannel"


def envelope_of(
    signer: SigningIdentity,
    data: bytes = b"data",
    *,
    kind: int = HeaderType.ENDORSER_TRANSACTION,
    channel_id: str = CHANNEL,
    seconds: int = 1,
) -> bytes:
    """Return a signed envelope, marshalled."""
    clock = Timestamp(seconds=seconds)
    channel = ChannelHeader(type=kind, channel_id=channel_id, timestamp=clock)
    creator = SignatureHeader(creator=signer.creator, nonce=os.urandom(24))
    header = Header(channel_header=channel.encode(), signature_header=creator.encode())
    payload = encode(Payload(header=header, data=data))
    return encode(Envelope(payload=payload, signature=signer.sign(payload)))


def update_of(
    bundle: Bundle, client: SigningIdentity, signers: list[SigningIdentity], *, count: int
) -> bytes:
    """Return a signed update that sets how many messages make a block."""
    old = bundle.config
    new = decode(type(old), encode(old))
    assert new.channel_group is not None
    size = new.channel_group.groups["Orderer"].values["BatchSize"]
    changed = decode(BatchSize, size.value)
    changed.max_message_count = count
    size.value = encode(changed)
    update = encode(propose_update(CHANNEL, old, new))
    signatures = []
    for signer in signers:
        header = SignatureHeader(creator=signer.creator, nonce=b"nonce").encode()
        signatures.append(
            ConfigSignature(signature_header=header, signature=signer.sign(header + update))
        )
    signed = ConfigUpdateEnvelope(config_update=update, signatures=signatures)
    return envelope_of(client, encode(signed), kind=HeaderType.CONFIG_UPDATE)


def data_of(block: Block) -> list[bytes]:
    """Return what the envelopes of a block carry."""
    return [decode(Payload, decode(Envelope, data).payload).data for data in envelopes_of(block)]


class MemoryStore:
    """Keeps blocks in a list; can be told to refuse."""

    def __init__(self, genesis: Block) -> None:
        self.blocks = [genesis]
        self.failures: list[Exception] = []
        self._changed = trio.Condition()
        self._writing = trio.Lock()

    async def last_block(self) -> Block:
        return self.blocks[-1]

    async def append(self, block: Block) -> None:
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        assert header_of(block).number == len(self.blocks)
        async with self._writing:
            self.blocks.append(block)
        async with self._changed:
            self._changed.notify_all()

    def standstill(self) -> trio.Lock:
        """Return what keeps blocks from being written while it is held."""
        return self._writing

    async def reached(self, height: int) -> list[Block]:
        """Return all blocks once there are so many."""
        async with self._changed:
            while len(self.blocks) < height:
                await self._changed.wait()
        return self.blocks


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """A network of two organisations."""
    description = NetworkDescription(organisations=("Org1", "Org2"), batch_timeout="2s")
    return network.create(tmp_path_factory.mktemp("network") / "net", description)


@pytest.fixture(scope="session")
def bundle(made: Network) -> Bundle:
    """Its configuration."""
    [envelope] = envelopes_of(made.genesis_block())
    return Bundle(CHANNEL, genesis_config(CHANNEL, decode(Envelope, envelope)))


def signer_of(organisation: NetworkOrganisation, directory: Path) -> SigningIdentity:
    """Return a member's signing identity."""
    return load_signing_identity(directory, organisation.msp_id)


@pytest.fixture(scope="session")
def orderer_identity(made: Network) -> SigningIdentity:
    """Who signs blocks."""
    return signer_of(made.orderer, made.orderer.nodes[0].msp)


@pytest.fixture(scope="session")
def client(made: Network) -> SigningIdentity:
    """A user of Org1."""
    return signer_of(made.organisations[0], made.organisations[0].users[1].msp)


@pytest.fixture(scope="session")
def orderer_admin(made: Network) -> SigningIdentity:
    """The administrator of the orderers' organisation."""
    return signer_of(made.orderer, made.orderer.users[0].msp)


@pytest.fixture
def store(made: Network) -> MemoryStore:
    """Blocks in memory, the genesis block so far."""
    return MemoryStore(made.genesis_block())


@pytest.fixture
async def orderer(
    bundle: Bundle, store: MemoryStore, orderer_identity: SigningIdentity, nursery: trio.Nursery
) -> SoloOrderer:
    """An orderer at work."""
    made = SoloOrderer(bundle, store, orderer_identity)
    await nursery.start(made.run)
    return made
