"""Two organisations, a peer each, one orderer, and everybody's keys.

Room:      tests.integration.network   (imports peer)
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from fabric_protos.common import Block
from fabric_protos.stream import ChaincodeInput, ChaincodeMessage
from fabric_protos.stream import ChaincodeMessageType as Type
from peer import Peer, PeerConfig, open_peer
from peer.channel import network
from peer.channel.configblock import bundle_of
from peer.channel.network import Network, NetworkDescription, NetworkOrganisation
from peer.client.calls import Client, OwnVerdicts, Result
from peer.endorser.proposal import prepare_args
from peer.ledger.blocks import commit_hash_of, flags_of
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity
from peer.ordering.solo import SoloOrderer

CHANNEL = "mychannel"
ASSETS = "assets"
SOON_S = 60.0


class Chain:
    """The orderer's blocks; every peer commits each one before the next is cut."""

    def __init__(self, genesis: Block, peers: list[Peer]) -> None:
        self._last = genesis
        self._peers = peers
        self.appending = trio.Lock()

    async def last_block(self) -> Block:
        return self._last

    async def append(self, block: Block) -> None:
        async with self.appending, trio.open_nursery() as commits:
            for peer in self._peers:
                commits.start_soon(peer.joined.get(CHANNEL).committer.commit_block, block)
        self._last = block


@dataclass
class Scene:
    """Two peers that are joined to one channel, and who works with them.

    Attributes:
        ran: ids of the chaincodes that answered, on each peer, in their order.
    """

    made: Network
    peers: list[Peer]
    chain: Chain
    orderer: SoloOrderer
    ran: list[list[str]]

    def client(self, index: int, user: int, endorsers: list[int] | None = None) -> Client:
        """Return a member of an organisation; all peers endorse for it unless told otherwise."""
        chosen = self.peers if endorsers is None else [self.peers[each] for each in endorsers]
        return Client(
            identity_of(self.made.organisations[index], user),
            endorsers=[peer.endorser for peer in chosen],
            verdicts=OwnVerdicts(self.peers[index].joined),
            orderer=lambda channel_id: self.orderer,
        )

    async def invoke(
        self,
        *args: str,
        name: str = ASSETS,
        endorsers: list[int] | None = None,
        is_init: bool = False,
    ) -> Result:
        """Let a client of the first organisation submit, until both peers have committed."""
        client = self.client(0, 1, endorsers)
        payload = ChaincodeInput(args=prepare_args(args), is_init=is_init)
        result = await client.submit(CHANNEL, name, payload)
        if result.validation_code is not None:
            await self.peers[1].joined.get(CHANNEL).statuses.wait(result.tx_id)
        return result

    async def query(self, index: int, *args: str, name: str = ASSETS) -> Result:
        """Let a client of an organisation ask its peer."""
        client = self.client(index, 1, [index])
        return await client.evaluate(CHANNEL, name, ChaincodeInput(args=prepare_args(args)))

    async def level(self) -> None:
        """Wait until both peers have committed what one of them has."""
        async with self.chain.appending:
            pass

    async def check_agreement(self) -> None:
        """Compare verdicts and commit hashes of every block."""
        ledgers = [peer.ledger(CHANNEL) for peer in self.peers]
        assert ledgers[0].height == ledgers[1].height
        for number in range(1, ledgers[0].height):
            blocks = [await ledger.block_by_number(number) for ledger in ledgers]
            assert blocks[0] is not None
            assert blocks[1] is not None
            assert flags_of(blocks[0]) == flags_of(blocks[1])
            assert commit_hash_of(blocks[0]) == commit_hash_of(blocks[1]) != b""


def identity_of(organisation: NetworkOrganisation, user: int) -> SigningIdentity:
    """Return the administrator (0) or a user of an organisation."""
    return load_signing_identity(organisation.users[user].msp, organisation.msp_id)


Configure = Callable[[int, PeerConfig], PeerConfig]


@asynccontextmanager
async def open_scene(
    directory: Path,
    *,
    capability: str = "V2_0",
    configure: Configure = lambda index, config: config,
    limit_s: float = SOON_S,
) -> AsyncIterator[Scene]:
    """Open both peers on a network, made if the directory has none yet."""
    place = directory / "network"
    if place.exists():
        made = network.load(place)
    else:
        organisations = ("Org1", "Org2")
        description = NetworkDescription(
            organisations=organisations, capability=capability, batch_timeout="50ms"
        )
        made = network.create(place, description)
    async with AsyncExitStack() as stack:
        peers, ran = [], []
        for index, organisation in enumerate(made.organisations):
            answers: list[str] = []
            config = configure(index, PeerConfig())
            node = replace(
                config.peer,
                local_msp_id=organisation.msp_id,
                msp_config_path=str(organisation.nodes[0].msp),
            )
            config = replace(config, peer=node)
            opening = open_peer(config, trace=note_answers(answers))
            peer = await stack.enter_async_context(opening)
            if not peer.channels:
                await peer.join(made.genesis_block())
            peers.append(peer)
            ran.append(answers)
        ledger = peers[0].ledger(CHANNEL)
        last = await ledger.block_by_number(ledger.height - 1)
        assert last is not None
        chain = Chain(last, peers)
        orderer = SoloOrderer(
            bundle_of(CHANNEL, made.genesis_block()),
            chain,
            load_signing_identity(made.orderer.nodes[0].msp, made.orderer.msp_id),
        )
        ordering = await stack.enter_async_context(trio.open_nursery())
        await ordering.start(orderer.run)
        with trio.fail_after(limit_s):
            yield Scene(made, peers, chain, orderer, ran)
        ordering.cancel_scope.cancel()


def note_answers(ran: list[str]) -> Callable[[str, bool, ChaincodeMessage], None]:
    """Return a trace that takes down which chaincode answers."""

    def trace(ccid: str, from_chaincode: bool, message: ChaincodeMessage) -> None:
        if from_chaincode and message.type == Type.COMPLETED and not ccid.endswith(".syscc"):
            ran.append(ccid)

    return trace
