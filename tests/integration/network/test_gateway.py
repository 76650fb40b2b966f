"""The Gateway and Discovery of one peer, and endorsements of another, over TLS."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import betterproto2
import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope
from fabric_protos.discovery import (
    AuthInfo,
    ChaincodeQuery,
    ConfigQuery,
    PeerMembershipQuery,
    Query,
    QueryResult,
    Request,
    Response,
    SignedRequest,
)
from fabric_protos.gateway import (
    CommitStatusRequest,
    CommitStatusResponse,
    EndorseRequest,
    EndorseResponse,
    EvaluateRequest,
    EvaluateResponse,
    SignedCommitStatusRequest,
)
from fabric_protos.gossip import GossipMessage
from fabric_protos.protos import (
    ChaincodeCall,
    ChaincodeInterest,
    SignedProposal,
    TxValidationCode,
)
from fabric_protos.stream import ChaincodeInput
from peer import PeerConfig, open_peer
from peer.channel import network
from peer.client.definitions import WantedDefinition, approve, commit
from peer.config.neighbours import GatewayEndorser
from peer.endorser.proposal import PreparedProposal, prepare_args, prepare_proposal
from peer.errors import CallFailed, Code, ConfigError
from peer.remote import ClientTls, Connection, Endpoint
from peer.rpc.client import dial
from tests.integration.network.scene import ASSETS, CHANNEL, Scene, identity_of, open_scene

EXAMPLE = Path(__file__).parents[3] / "examples" / "asset_transfer"
SERVICE = "/gateway.Gateway/"
DISCOVER = "/discovery.Discovery/Discover"

M = TypeVar("M", bound=betterproto2.Message)


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def configured(directory: Path, ports: list[int]) -> Callable[[int, PeerConfig], PeerConfig]:
    """Return what lets both peers serve over TLS, and tells the first one of the second."""

    def configure(index: int, config: PeerConfig) -> PeerConfig:
        made = network.load(directory / "network")
        tls = [organisation.nodes[0].tls for organisation in made.organisations]
        node = replace(
            config.peer,
            listen_address=f"127.0.0.1:{ports[index]}",
            tls_enabled=True,
            tls_certificate=str(tls[index] / "server.crt"),
            tls_key=str(tls[index] / "server.key"),
        )
        other = GatewayEndorser(
            msp_id=made.organisations[1].msp_id,
            address=f"localhost:{ports[1]}",
            tls_root=tls[1] / "ca.crt",
        )
        gateway = replace(config.gateway, endorsers=() if index else (other,))
        return replace(config, peer=node, gateway=gateway)

    return configure


class GatewayClient:
    """A client of the first organisation that knows its own peer and no other.

    Attributes:
        ccid: the chaincode's package.
    """

    def __init__(self, scene: Scene, connection: Connection, ccid: str) -> None:
        self.identity = identity_of(scene.made.organisations[0], 1)
        self.ccid = ccid
        self._connection = connection

    def propose(self, *args: str) -> PreparedProposal:
        called = ChaincodeInput(args=prepare_args(args))
        return prepare_proposal(self.identity, CHANNEL, ASSETS, called, {})

    async def evaluate(self, proposal: PreparedProposal, *targets: str) -> bytes:
        request = EvaluateRequest(
            proposed_transaction=message(proposal), target_organizations=list(targets)
        )
        result = (await self._call("Evaluate", request, EvaluateResponse)).result
        assert result is not None
        return result.payload

    async def endorse(self, proposal: PreparedProposal) -> bytes:
        """Return the marshalled envelope, signed."""
        request = EndorseRequest(proposed_transaction=message(proposal))
        prepared = (await self._call("Endorse", request, EndorseResponse)).prepared_transaction
        assert prepared is not None
        signature = self.identity.sign(prepared.payload)
        return encode(Envelope(payload=prepared.payload, signature=signature))

    async def commit_status(self, proposal: PreparedProposal) -> TxValidationCode:
        request = encode(
            CommitStatusRequest(
                transaction_id=proposal.tx_id,
                channel_id=CHANNEL,
                identity=self.identity.creator,
            )
        )
        signed = SignedCommitStatusRequest(request=request, signature=self.identity.sign(request))
        return (await self._call("CommitStatus", signed, CommitStatusResponse)).result

    async def discover(self, *queries: Query) -> list[QueryResult]:
        authentication = AuthInfo(client_identity=self.identity.creator)
        payload = encode(Request(authentication=authentication, queries=list(queries)))
        signed = SignedRequest(payload=payload, signature=self.identity.sign(payload))
        answer = await self._connection.unary(DISCOVER, encode(signed), timeout_s=30)
        return decode(Response, answer).results

    async def _call(self, name: str, request: betterproto2.Message, response: type[M]) -> M:
        answer = await self._connection.unary(SERVICE + name, encode(request), timeout_s=30)
        return decode(response, answer)


def message(proposal: PreparedProposal) -> SignedProposal:
    return decode(SignedProposal, proposal.signed.encode())


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[Scene, GatewayClient]]:
    """Open both peers with a chaincode that both have to endorse."""
    network.create(
        directory / "network",
        network.NetworkDescription(organisations=("Org1", "Org2"), batch_timeout="50ms"),
    )
    ports = [free_port(), free_port()]
    async with open_scene(directory, configure=configured(directory, ports)) as scene:
        [ccid] = {(await peer.packages.install(EXAMPLE, ASSETS)).ccid for peer in scene.peers}
        wanted = WantedDefinition(name=ASSETS, version="1.0", package_id=ccid)
        channels = [peer.joined.get(CHANNEL).channel for peer in scene.peers]
        for index, channel in enumerate(channels):
            await approve(scene.client(index, 0, [index]), channel, wanted, 1)
        await scene.level()
        await commit(scene.client(0, 0), channels[0], wanted, 1)
        await scene.level()
        root = (scene.made.organisations[0].nodes[0].tls / "ca.crt").read_bytes()
        endpoint = Endpoint(f"localhost:{ports[0]}", ClientTls(root=root))
        async with dial(endpoint) as connection:
            yield scene, GatewayClient(scene, connection, ccid)


async def test_both_endorse_for_a_client_that_knows_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as (scene, client):
        proposal = client.propose("put", "k", "v")
        await scene.orderer.broadcast(await client.endorse(proposal))
        assert await client.commit_status(proposal) is TxValidationCode.VALID
        await scene.level()
        assert [len(each) for each in scene.ran] == [1, 1]
        assert await client.evaluate(client.propose("get", "k")) == b"v"
        assert await client.evaluate(client.propose("get", "k"), "Org2MSP") == b"v"
        assert [len(each) for each in scene.ran] == [2, 2]


async def test_what_the_other_peer_refuses(tmp_path: Path) -> None:
    async with opened(tmp_path) as (scene, client):
        await scene.peers[1].packages.uninstall(client.ccid)
        with pytest.raises(CallFailed) as caught:
            await client.endorse(client.propose("put", "k", "v"))
        assert caught.value.code is Code.ABORTED
        text = "failed to collect enough transaction endorsements"
        assert caught.value.message.startswith(text)
        [detail] = caught.value.details
        assert detail.msp_id == "Org2MSP"
        assert detail.message.endswith("exists, but chaincode is not installed")
        assert [len(each) for each in scene.ran] == [1, 0]


async def test_discovery_tells_of_the_peer_that_is_asked(tmp_path: Path) -> None:
    async with opened(tmp_path) as (scene, client):
        call = ChaincodeCall(name=ASSETS)
        queries = [
            Query(channel=CHANNEL, config_query=ConfigQuery()),
            Query(channel=CHANNEL, peer_query=PeerMembershipQuery()),
            Query(
                channel=CHANNEL,
                cc_query=ChaincodeQuery(interests=[ChaincodeInterest(chaincodes=[call])]),
            ),
        ]
        config, peers, endorsers = await client.discover(*queries)
        assert config.config_result is not None
        assert sorted(config.config_result.msps) == ["OrdererMSP", "Org1MSP", "Org2MSP"]
        assert peers.members is not None
        [peer] = peers.members.peers_by_org["Org1MSP"].peers
        assert peer.state_info is not None
        state = decode(GossipMessage, peer.state_info.payload).state_info
        assert state is not None
        assert state.properties is not None
        assert state.properties.ledger_height == scene.peers[0].ledger(CHANNEL).height
        told = {each.name: each.version for each in state.properties.chaincodes}
        assert told == {ASSETS: "1", "_lifecycle": "1"}
        assert endorsers.error is not None  # both organisations have to, and one is known
        assert "no peer combination can satisfy" in endorsers.error.content
        await scene.peers[0].packages.uninstall(client.ccid)
        [peers] = await client.discover(queries[1])
        assert peers.members is not None
        [peer] = peers.members.peers_by_org["Org1MSP"].peers
        assert peer.state_info is not None
        state = decode(GossipMessage, peer.state_info.payload).state_info
        assert state is not None
        assert state.properties is not None
        assert [each.name for each in state.properties.chaincodes] == ["_lifecycle"]


async def test_what_is_switched_off_is_not_served() -> None:
    config = PeerConfig()
    config = replace(
        config,
        peer=replace(config.peer, listen_address="127.0.0.1:0"),
        gateway=replace(config.gateway, enabled=False),
        discovery=replace(config.discovery, enabled=False),
    )
    async with open_peer(config) as peer, dial(Endpoint(peer.address)) as connection:
        for path in (f"{SERVICE}Evaluate", DISCOVER):
            with pytest.raises(CallFailed) as caught:
                await connection.unary(path, b"", timeout_s=30)
            assert caught.value.code is Code.UNIMPLEMENTED


async def test_a_neighbour_whose_certificate_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "ca.crt"
    config = PeerConfig()
    other = GatewayEndorser(msp_id="Org2MSP", address="localhost:1", tls_root=missing)
    config = replace(config, gateway=replace(config.gateway, endorsers=(other,)))
    with pytest.raises(ConfigError) as caught:
        async with open_peer(config):
            pass
    [problem] = caught.value.problems
    assert problem == f"peer.gateway.endorsers: {missing}: No such file or directory"
