"""Two organisations, a peer each, one orderer: the whole signed path, and what breaks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, Envelope
from fabric_protos.stream import ChaincodeInput
from peer import Peer, PeerConfig, open_peer
from peer.channel import network
from peer.channel.configblock import bundle_of
from peer.channel.network import Network, NetworkDescription, NetworkOrganisation
from peer.client.calls import Client, OwnVerdicts, Result
from peer.client.definitions import WantedDefinition, approve, commit
from peer.endorser.proposal import PreparedProposal, prepare_args, prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.errors import BroadcastRefused
from peer.ledger.api import ValidationCode
from peer.ledger.blocks import commit_hash_of, flags_of
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity
from peer.ordering.solo import SoloOrderer

CHANNEL = "mychannel"
EXAMPLE = Path(__file__).parents[3] / "examples" / "asset_transfer"
SOON_S = 60.0


class Chain:
    """The orderer's blocks; every peer commits each one before the next is cut."""

    def __init__(self, genesis: Block, peers: list[Peer]) -> None:
        self._last = genesis
        self._peers = peers

    async def last_block(self) -> Block:
        return self._last

    async def append(self, block: Block) -> None:
        async with trio.open_nursery() as commits:
            for peer in self._peers:
                commits.start_soon(peer.joined.get(CHANNEL).committer.commit_block, block)
        self._last = block


@dataclass
class Scene:
    """Two peers that are joined to one channel, and who works with them."""

    made: Network
    peers: list[Peer]
    orderer: SoloOrderer

    def client(self, index: int, user: int, endorsers: list[int] | None = None) -> Client:
        """Return a member of an organisation; all peers endorse for it unless told otherwise."""
        chosen = self.peers if endorsers is None else [self.peers[each] for each in endorsers]
        return Client(
            identity_of(self.made.organisations[index], user),
            endorsers=[peer.endorser for peer in chosen],
            verdicts=OwnVerdicts(self.peers[index].joined),
            orderer=lambda channel_id: self.orderer,
        )

    async def invoke(self, *args: str, endorsers: list[int] | None = None) -> Result:
        client = self.client(0, 1, endorsers)
        payload = ChaincodeInput(args=prepare_args(args))
        result = await client.submit(CHANNEL, "assets", payload)
        await self.peers[1].joined.get(CHANNEL).statuses.wait(result.tx_id)
        return result

    async def query(self, index: int, *args: str) -> Result:
        client = self.client(index, 1, [index])
        return await client.evaluate(CHANNEL, "assets", ChaincodeInput(args=prepare_args(args)))

    async def endorsed(self, *args: str) -> tuple[PreparedProposal, bytes]:
        """Return a proposal that both peers endorsed, and the envelope of its transaction."""
        signer = identity_of(self.made.organisations[0], 1)
        payload = ChaincodeInput(args=prepare_args(args))
        proposal = prepare_proposal(signer, CHANNEL, "assets", payload, {})
        answers = [await peer.endorser.process_proposal(proposal.signed) for peer in self.peers]
        assert answers[0].payload == answers[1].payload
        return proposal, signed_transaction(proposal.signed, answers, signer)

    async def order(self, *envelopes: bytes) -> None:
        """Send envelopes so that one block holds them all."""
        for envelope in envelopes:
            await self.orderer.broadcast(envelope)

    async def code(self, proposal: PreparedProposal) -> ValidationCode:
        """Return the verdict of both peers on a transaction."""
        codes = [
            (await peer.joined.get(CHANNEL).statuses.wait(proposal.tx_id)).code
            for peer in self.peers
        ]
        assert len(set(codes)) == 1
        return codes[0]

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
    return load_signing_identity(organisation.users[user].msp, organisation.msp_id)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Scene]:
    """Open both peers on a new network, with the example installed and defined."""
    made = network.create(
        directory / "network",
        NetworkDescription(organisations=("Org1", "Org2"), batch_timeout="50ms"),
    )
    genesis = made.genesis_block()
    async with AsyncExitStack() as stack:
        peers = []
        for organisation in made.organisations:
            config = PeerConfig()
            node = replace(
                config.peer,
                local_msp_id=organisation.msp_id,
                msp_config_path=str(organisation.nodes[0].msp),
            )
            peer = await stack.enter_async_context(open_peer(replace(config, peer=node)))
            await peer.join(genesis)
            peers.append(peer)
        orderer = SoloOrderer(
            bundle_of(CHANNEL, genesis),
            Chain(genesis, peers),
            load_signing_identity(made.orderer.nodes[0].msp, made.orderer.msp_id),
        )
        ordering = await stack.enter_async_context(trio.open_nursery())
        await ordering.start(orderer.run)
        scene = Scene(made, peers, orderer)
        await deploy(scene)
        with trio.fail_after(SOON_S):
            yield scene
        ordering.cancel_scope.cancel()


async def deploy(scene: Scene) -> None:
    """Install on both peers, approve for both organisations, commit for all."""
    [ccid] = {(await peer.packages.install(EXAMPLE, "assets")).ccid for peer in scene.peers}
    wanted = WantedDefinition(name="assets", version="1.0", package_id=ccid)
    for index, peer in enumerate(scene.peers):
        channel = peer.joined.get(CHANNEL).channel
        admin = scene.client(index, 0, [index])
        await approve(admin, channel, wanted, 1)
    admin = scene.client(0, 0)
    await commit(admin, scene.peers[0].joined.get(CHANNEL).channel, wanted, 1)


async def test_both_endorse_and_commit_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        result = await scene.invoke("put", "key", "value")
        assert (result.status, result.validation_code) == (200, ValidationCode.VALID)
        await scene.check_agreement()
        for index in (0, 1):
            assert (await scene.query(index, "get", "key")).payload == b"value"


async def test_one_endorsement_is_too_few(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        result = await scene.invoke("put", "key", "value", endorsers=[0])
        assert result.validation_code is ValidationCode.ENDORSEMENT_POLICY_FAILURE
        await scene.check_agreement()
        for index in (0, 1):
            assert (await scene.query(index, "get", "key")).payload == b""


async def test_stale_reads_and_phantoms_and_repeated_ids_do_not_touch_the_state(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as scene:
        await scene.invoke("InitLedger")
        transfer = [await scene.endorsed("TransferAsset", "asset1", owner) for owner in ("A", "B")]
        await scene.order(*(envelope for _, envelope in transfer))
        codes = [await scene.code(proposal) for proposal, _ in transfer]
        assert codes == [ValidationCode.VALID, ValidationCode.MVCC_READ_CONFLICT]
        again = await scene.endorsed("put", "key", "1")
        await scene.order(again[1], again[1])
        assert await scene.code(again[0]) is ValidationCode.VALID
        await scene.check_agreement()
        assert b'"Owner":"A"' in (await scene.query(1, "ReadAsset", "asset1")).payload
        last = scene.peers[0].ledger(CHANNEL)
        block = await last.block_by_number(last.height - 1)
        assert block is not None
        assert flags_of(block) == bytes([ValidationCode.VALID, ValidationCode.DUPLICATE_TXID])


async def test_a_broken_signature_is_refused_by_the_orderer_and_by_the_peers(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as scene:
        proposal, data = await scene.endorsed("put", "key", "value")
        good = decode(Envelope, data)
        stranger = identity_of(scene.made.organisations[1], 1)
        forged = Envelope(payload=good.payload, signature=stranger.sign(good.payload))
        with pytest.raises(BroadcastRefused, match="status FORBIDDEN"):
            await scene.order(encode(forged))
        assert not scene.peers[0].ledger(CHANNEL).has_transaction(proposal.tx_id)
