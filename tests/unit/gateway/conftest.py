"""A gateway of Org1, a peer of Org2 that it can reach, and an orderer, all on one channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope
from fabric_protos.gateway import EndorseRequest, EvaluateRequest, SubmitRequest
from fabric_protos.protos import ProposalResponse
from fabric_protos.protos import SignedProposal as SignedProposalMessage
from fabric_protos.stream import ChaincodeInput, SignedProposal
from peer.channels import Channels, Joined
from peer.discovery.endorsement import Endorsements
from peer.discovery.peers import KnownPeers, PeerNode
from peer.endorser.endorser import Endorser
from peer.endorser.proposal import PreparedProposal, prepare_proposal
from peer.errors import CallFailed, CallRefused, Code, ProposalRefused
from peer.gateway.endorsing import Process
from peer.gateway.gateway import Gateway, Limits
from peer.ledger import open_ledger
from peer.lifecycle.state import LIFECYCLE
from peer.msp.directory import load_config
from peer.msp.identity import SigningIdentity
from peer.msp.msp import Msp, MspVersion
from peer.ordering.embedded import CommittingStore
from peer.ordering.solo import SoloOrderer
from peer.ordering.submitting import OrdererNode
from peer.scc.access import AccessControl
from peer.services.api import Caller
from tests.unit.channel.networks import Scene
from tests.unit.endorser.conftest import Collections, Definitions, Script
from tests.unit.validation.conftest import scene as scene
from tests.unit.validation.forging import CC, CHANNEL, World, definition, endorsed_by

ORG1, ORG2 = "Org1MSP", "Org2MSP"
CALLER = Caller("127.0.0.1:50000")
OWN, OTHER = "peer0.org1.example.com:7051", "peer0.org2.example.com:9051"


@dataclass
class Stage:
    """All there is, to be changed before the gateway is asked for.

    Attributes:
        world: the channel, to put something on it at once.
        joined: the same channel, as this peer has joined it.
        scripts: what the peer of each organisation does instead of running a chaincode.
        nodes: this peer, and the one of Org2.
        processes: how each is given proposals.
        reachable: what the gateway was told of, beside its own peer.
        installed: names of the chaincodes that can run on this peer.
        orderers: of the channel; none unless the test has some.
        close: closes the peer's channels.
    """

    scene: Scene
    world: World
    channels: Channels
    joined: Joined
    scripts: list[Script]
    nodes: list[PeerNode]
    processes: dict[PeerNode, Process]
    orderers: list[OrdererNode]
    close: Callable[[], Awaitable[None]]
    reachable: Sequence[PeerNode] = ()
    installed: set[str] = field(default_factory=lambda: {CC, LIFECYCLE})
    limits: Limits = field(default_factory=Limits)

    @property
    def gateway(self) -> Gateway:
        local = load_config(
            self.scene.network.organisations[0].nodes[0].msp,
            self.scene.network.organisations[0].msp_id,
        )
        peers = KnownPeers(
            self.nodes[0],
            self.reachable,
            channel=self.channels.find,
            can_run=lambda channel_id, name: name in self.installed,
        )
        return Gateway(
            peers=peers,
            processes=self.processes,
            endorsements=Endorsements(peers, self.channels.find),
            orderers=self._orderers,
            channels=self.channels,
            access=AccessControl(
                channel=self.channels.find, local=Msp(local, version=MspVersion.V1_4_3)
            ),
            limits=self.limits,
        )

    def _orderers(self, channel_id: str) -> Sequence[OrdererNode]:
        self.channels.get(channel_id)
        return self.orderers

    @property
    def client(self) -> SigningIdentity:
        return self.scene.user(0)

    async def define(self, policy: str, name: str = CC) -> None:
        """Let a chaincode have this endorsement policy."""
        await self.world.define(name, definition(endorsed_by(policy)))

    def propose(
        self,
        *args: bytes,
        channel_id: str = CHANNEL,
        name: str = CC,
        transient: Mapping[str, bytes] | None = None,
    ) -> PreparedProposal:
        called = ChaincodeInput(args=list(args))
        return prepare_proposal(self.client, channel_id, name, called, transient or {})

    async def evaluate(self, proposal: PreparedProposal, *targets: str) -> bytes:
        """Return the payload of the response."""
        request = EvaluateRequest(
            proposed_transaction=message(proposal), target_organizations=list(targets)
        )
        result = (await self.gateway.evaluate(request, CALLER)).result
        assert result is not None
        assert result.status == 200
        return result.payload

    async def endorse(self, proposal: PreparedProposal, *organisations: str) -> bytes:
        """Return the payload of the transaction to sign."""
        request = EndorseRequest(
            proposed_transaction=message(proposal), endorsing_organizations=list(organisations)
        )
        envelope = (await self.gateway.endorse(request, CALLER)).prepared_transaction
        assert envelope is not None
        assert envelope.signature == b""
        return envelope.payload

    async def submit(self, payload: bytes, signer: SigningIdentity | None = None) -> None:
        """Sign a transaction and hand it in."""
        envelope = Envelope(payload=payload, signature=(signer or self.client).sign(payload))
        request = SubmitRequest(channel_id=CHANNEL, prepared_transaction=envelope)
        await self.gateway.submit(request, CALLER)


def message(proposal: PreparedProposal) -> SignedProposalMessage:
    """Return a proposal as it travels in requests."""
    return decode(SignedProposalMessage, proposal.signed.encode())


def refusal(caught: pytest.ExceptionInfo[CallRefused]) -> tuple[Code, str]:
    return caught.value.code, caught.value.message


def details(caught: pytest.ExceptionInfo[CallRefused]) -> list[tuple[str, str, str]]:
    return [tuple(each) for each in caught.value.details]


def remote(endorser: Endorser) -> Process:
    """Return an endorser as it is seen from another machine."""

    async def process(proposal: SignedProposal) -> ProposalResponse:
        try:
            return decode(ProposalResponse, encode(await endorser.process_proposal(proposal)))
        except ProposalRefused as exc:
            raise CallFailed(Code.UNKNOWN, str(exc)) from exc

    return process


async def gone(proposal: SignedProposal) -> ProposalResponse:
    """Stand for a peer that is not there."""
    raise CallFailed(Code.UNAVAILABLE, "connection refused")


async def silent(proposal: SignedProposal) -> ProposalResponse:
    """Stand for a peer that does not answer."""
    await trio.sleep_forever()
    raise AssertionError


@pytest.fixture
async def stage(scene: Scene, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        channels = Channels(
            tmp_path, lambda name: open_ledger(tmp_path, name), stack, lambda name, block: None
        )
        joined = await channels.join(scene.network.genesis_block())
        world = World(scene, joined.ledger)
        world.channel, world.committer = joined.channel, joined.committer
        scripts, nodes, processes = [], [], {}
        for index, address in enumerate((OWN, OTHER)):
            organisation = scene.network.organisations[index]
            local = load_config(organisation.nodes[0].msp, organisation.msp_id)
            script = Script()
            endorser = Endorser(
                chaincode=script,
                channel=channels.find,
                definitions=Definitions(),
                collections=Collections(),
                local=Msp(local, version=MspVersion.V1_4_3),
                signer=scene.peer(index),
            )
            identity = scene.peer(index).creator if index == 0 else b""
            node = PeerNode(organisation.msp_id, address, identity)
            scripts.append(script)
            nodes.append(node)
            processes[node] = endorser.process_proposal if index == 0 else remote(endorser)
        made = Stage(scene, world, channels, joined, scripts, nodes, processes, [], stack.aclose)
        await made.define("OR('Org1MSP.peer')")
        yield made


@pytest.fixture
async def ordered(stage: Stage, nursery: trio.Nursery) -> Stage:
    """The same with an orderer, which continues after the blocks there are."""
    bundle = stage.joined.channel.bundle
    orderer = bundle.orderer
    assert orderer is not None
    bundle.orderer = replace(orderer, batch_timeout_s=0.01)
    solo = SoloOrderer(bundle, CommittingStore(stage.joined), stage.scene.orderer)
    await nursery.start(solo.run)
    stage.orderers = [OrdererNode("orderer.example.com:7050", "OrdererMSP", solo.broadcast)]
    return stage
