"""Discover: what clients read out of the answers, and who gets none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.discovery import (
    AuthInfo,
    ChaincodeQuery,
    ConfigQuery,
    ConfigResult,
    Endpoint,
    Endpoints,
    Error,
    LocalPeerQuery,
    Peer,
    PeerMembershipQuery,
    Query,
    QueryResult,
    Request,
    Response,
    SignedRequest,
)
from fabric_protos.gossip import Envelope, GossipMessage
from fabric_protos.msp import SerializedIdentity
from fabric_protos.protos import ChaincodeCall, ChaincodeInterest
from peer.channel.acls import LocalPolicy
from peer.channel.bundle import Bundle
from peer.discovery.announcements import Announcer
from peer.discovery.config import config_result
from peer.discovery.endorsement import Endorsements
from peer.discovery.peers import KnownPeers, PeerNode
from peer.discovery.service import MAX_QUERIES, Discovery
from peer.errors import CallRefused, Code
from peer.msp.directory import load_config
from peer.msp.identity import SigningIdentity
from peer.msp.msp import Msp, MspVersion
from peer.scc.access import AccessControl
from peer.services.api import Caller, Unary
from tests.unit.channel.networks import Scene
from tests.unit.validation.conftest import bare as bare
from tests.unit.validation.conftest import scene as scene
from tests.unit.validation.forging import CC, CHANNEL, World, definition, endorsed_by

CALLER = Caller("127.0.0.1:50000")
ADDRESS = "peer0.org1.example.com:7051"


@dataclass
class Desk:
    """A peer of Org1 that answers."""

    world: World
    local: LocalPolicy = LocalPolicy.ADMINS

    @property
    def scene(self) -> Scene:
        return self.world.scene

    @property
    def discovery(self) -> Discovery:
        organisation = self.scene.network.organisations[0]
        msp = Msp(
            load_config(organisation.nodes[0].msp, organisation.msp_id),
            version=MspVersion.V1_4_3,
        )
        find = {CHANNEL: self.world.channel}.get
        signer = self.scene.peer(0)
        own = PeerNode(organisation.msp_id, ADDRESS, signer.creator)
        peers = KnownPeers(
            own, [], channel=find, can_run=lambda channel_id, name: name in {CC, "_lifecycle"}
        )
        return Discovery(
            own=own,
            announcer=Announcer(signer, ADDRESS),
            channel=find,
            chaincodes=chaincodes,
            endorsements=Endorsements(peers, find),
            access=AccessControl(channel=find, local=msp),
            local=self.local,
        )

    async def ask(
        self,
        *queries: Query,
        signer: SigningIdentity | None = None,
        identity: bytes | None = None,
        tls_hash: bytes = b"",
        caller: Caller = CALLER,
    ) -> list[QueryResult]:
        """Ask as a client of Org1 unless told otherwise."""
        signer = signer or self.scene.user(0)
        identity = signer.creator if identity is None else identity
        payload = encode(
            Request(
                authentication=AuthInfo(client_identity=identity, client_tls_cert_hash=tls_hash),
                queries=list(queries),
            )
        )
        [method] = self.discovery.methods()
        assert isinstance(method, Unary)
        assert method.path == "/discovery.Discovery/Discover"
        request = SignedRequest(payload=payload, signature=signer.sign(payload))
        answer = await method.call(method.decode(encode(request)), caller)
        return decode(Response, method.encode(answer)).results

    async def error(self, query: Query, signer: SigningIdentity | None = None) -> str:
        [found] = await self.ask(query, signer=signer)
        assert found.error is not None
        return found.error.content


async def chaincodes(channel_id: str) -> Mapping[str, str]:
    return {CC: "3"}


@pytest.fixture
async def desk(bare: World) -> Desk:
    await bare.define(CC, definition(endorsed_by("OR('Org1MSP.peer')")))
    return Desk(bare)


def about(*names: str) -> ChaincodeInterest:
    return ChaincodeInterest(chaincodes=[ChaincodeCall(name=name) for name in names])


CONFIG = Query(channel=CHANNEL, config_query=ConfigQuery())
PEERS = Query(channel=CHANNEL, peer_query=PeerMembershipQuery())
ENDORSERS = Query(channel=CHANNEL, cc_query=ChaincodeQuery(interests=[about(CC)]))
LOCAL = Query(local_peers=LocalPeerQuery())


async def test_the_configuration(desk: Desk) -> None:
    [found] = await desk.ask(CONFIG)
    assert found.config_result is not None
    assert sorted(found.config_result.msps) == ["OrdererMSP", "Org1MSP", "Org2MSP"]
    bundle = desk.world.channel.bundle
    for each in bundle.members:
        assert found.config_result.msps[each.msp_id] == each.msp
    assert found.config_result == config_result(bundle)


class Addresses:
    """A configuration as far as it tells where orderers are."""

    def __init__(self, own: Mapping[str, list[str]], of_channel: list[str]) -> None:
        self.members = ()
        self.orderer_addresses = of_channel
        self.orderer = self
        self.organisations = {
            name: type("Organisation", (), {"msp_id": name, "endpoints": endpoints})
            for name, endpoints in own.items()
        }


def orderers(own: Mapping[str, list[str]], of_channel: list[str]) -> ConfigResult:
    made: Bundle = Addresses(own, of_channel)  # type: ignore[assignment]  # as far as it is used
    return config_result(made)


def test_where_the_orderers_are() -> None:
    a, b = Endpoint(host="a", port=7050), Endpoint(host="::1", port=1)
    found = orderers({"A": ["a:7050", "[::1]:1"], "B": []}, ["c:1"])
    assert found.orderers == {"A": Endpoints(endpoint=[a, b]), "B": Endpoints()}
    found = orderers({"A": [], "B": []}, ["a:7050", "no port", "a:b", ":1"])
    assert found.orderers == {"A": Endpoints(endpoint=[a]), "B": Endpoints(endpoint=[a])}


def opened(envelope: Envelope | None, signer: SigningIdentity, world: World) -> GossipMessage:
    """Return what is in an envelope that a peer has signed."""
    assert envelope is not None
    identity = world.channel.bundle.msps.deserialize(signer.creator)
    identity.verify(envelope.payload, envelope.signature)
    return decode(GossipMessage, envelope.payload)


def the_peer(desk: Desk, found: QueryResult) -> Peer:
    assert found.members is not None
    [(organisation, peers)] = found.members.peers_by_org.items()
    assert organisation == "Org1MSP"
    [peer] = peers.peers
    return peer


async def test_the_peers_of_a_channel(desk: Desk) -> None:
    signer = desk.scene.peer(0)
    [found] = await desk.ask(PEERS)
    peer = the_peer(desk, found)
    assert peer.identity == signer.creator
    identity = decode(SerializedIdentity, signer.creator)
    pki_id = sha256(b"Org1MSP" + identity.id_bytes).digest()
    alive = opened(peer.membership_info, signer, desk.world).alive_msg
    assert alive is not None
    assert alive.membership is not None
    assert (alive.membership.endpoint, alive.membership.pki_id) == (ADDRESS, pki_id)
    state = opened(peer.state_info, signer, desk.world).state_info
    assert state is not None
    assert (state.pki_id, state.channel_MAC) == (pki_id, sha256(pki_id + b"mychannel").digest())
    assert state.properties is not None
    assert state.properties.ledger_height == desk.world.ledger.height
    assert [(each.name, each.version) for each in state.properties.chaincodes] == [(CC, "3")]
    for time in (alive.timestamp, state.timestamp):
        assert time is not None
        assert 0 < time.inc_num <= time.seq_num


async def test_the_peers_that_can_run_a_chaincode(desk: Desk) -> None:
    def of(*names: str) -> Query:
        return Query(channel=CHANNEL, peer_query=PeerMembershipQuery(filter=about(*names)))

    [found] = await desk.ask(of(CC))
    assert the_peer(desk, found).identity == desk.scene.peer(0).creator
    await desk.world.define("other", definition(endorsed_by("OR('Org1MSP.peer')")))
    [found] = await desk.ask(of(CC, "other"))
    assert found.members is not None
    assert found.members.peers_by_org["Org1MSP"].peers == []
    text = "No metadata was found for chaincode unknown in channel mychannel"
    assert await desk.error(of("unknown")) == text


async def test_who_can_endorse(desk: Desk) -> None:
    [found] = await desk.ask(ENDORSERS)
    assert found.cc_query_res is not None
    [descriptor] = found.cc_query_res.content
    assert descriptor.chaincode == CC
    [layout] = descriptor.layouts
    assert layout.quantities_by_group == {"G0": 1}
    [peer] = descriptor.endorsers_by_groups["G0"].peers
    assert peer.identity == desk.scene.peer(0).creator
    assert opened(peer.state_info, desk.scene.peer(0), desk.world).state_info is not None


async def test_nobody_can_endorse(desk: Desk) -> None:
    query = Query(channel=CHANNEL, cc_query=ChaincodeQuery(interests=[about("_lifecycle")]))
    assert await desk.error(query) == (
        "failed constructing descriptor for _lifecycle: no peer combination can satisfy the "
        "endorsement policy"
    )


async def test_the_peer_itself(desk: Desk) -> None:
    [found] = await desk.ask(LOCAL, signer=desk.scene.admin(0))
    peer = the_peer(desk, found)
    assert peer.state_info is None
    assert opened(peer.membership_info, desk.scene.peer(0), desk.world).alive_msg is not None
    assert await desk.error(LOCAL, desk.scene.user(0)) == "access denied"
    desk.local = LocalPolicy.MEMBERS
    [found] = await desk.ask(LOCAL)
    assert the_peer(desk, found).identity == peer.identity
    assert await desk.error(LOCAL, desk.scene.user(1)) == "access denied"


async def test_each_query_has_its_own_answer(desk: Desk) -> None:
    first, second, third = await desk.ask(CONFIG, LOCAL, PEERS)
    assert first.config_result is not None
    assert second.error is not None
    assert third.members is not None


@pytest.mark.parametrize("query", [CONFIG, PEERS, ENDORSERS])
async def test_only_writers_of_the_channel_may_ask(desk: Desk, query: Query) -> None:
    assert await desk.error(query, desk.scene.peer(0)) == "access denied"
    other = Query(
        channel="other",
        config_query=query.config_query,
        peer_query=query.peer_query,
        cc_query=query.cc_query,
    )
    assert await desk.error(other) == "access denied"
    [found] = await desk.ask(query, identity=desk.scene.user(1).creator)  # not who signed
    assert found.error is not None
    assert found.error.content == "access denied"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (Query(channel=CHANNEL), "unknown or missing request type"),
        (Query(channel=CHANNEL, local_peers=LocalPeerQuery()), "unknown or missing request type"),
        (
            Query(channel=CHANNEL, cc_query=ChaincodeQuery()),
            "chaincode query must have at least one chaincode interest",
        ),
        (
            Query(channel=CHANNEL, cc_query=ChaincodeQuery(interests=[ChaincodeInterest()])),
            "chaincode interest must contain at least one chaincode",
        ),
        (
            Query(channel=CHANNEL, cc_query=ChaincodeQuery(interests=[about("")])),
            "chaincode name in interest cannot be empty",
        ),
    ],
)
async def test_queries_that_make_no_sense(desk: Desk, query: Query, text: str) -> None:
    assert await desk.error(query) == text


async def test_a_query_without_a_channel_is_about_the_peer(desk: Desk) -> None:
    admin = desk.scene.admin(0)
    query = Query(config_query=ConfigQuery())
    assert await desk.error(query, admin) == "unknown or missing request type"


async def test_requests_that_make_no_sense(desk: Desk) -> None:
    for payload, text in (
        (b"\xff", "failed parsing request"),
        (b"", "access denied, no authentication info in request"),
        (
            encode(Request(authentication=AuthInfo())),
            "access denied, client identity wasn't supplied",
        ),
    ):
        with pytest.raises(CallRefused) as caught:
            await desk.discovery.discover(SignedRequest(payload=payload), CALLER)
        assert caught.value.code is Code.UNKNOWN
        assert caught.value.message.startswith(text)


async def test_requests_are_bound_to_the_connection(desk: Desk) -> None:
    caller = Caller("127.0.0.1:50000", b"certificate")
    [found] = await desk.ask(CONFIG, tls_hash=sha256(b"certificate").digest(), caller=caller)
    assert found.config_result is not None
    text = "client claimed TLS hash doesn't match computed TLS hash from gRPC stream"
    for claimed in (sha256(b"another").digest(), b""):  # who claims nothing could be anybody
        with pytest.raises(CallRefused) as caught:
            await desk.ask(CONFIG, tls_hash=claimed, caller=caller)
        assert (caught.value.code, caught.value.message) == (Code.UNKNOWN, text)


async def test_requests_have_a_limit_before_anybody_is_known(desk: Desk) -> None:
    stranger = SerializedIdentity(mspid="Nobody", id_bytes=b"x")
    answers = await desk.ask(*[CONFIG] * MAX_QUERIES, identity=encode(stranger))
    assert [each.error for each in answers] == [Error(content="access denied")] * MAX_QUERIES
    with pytest.raises(CallRefused) as caught:
        await desk.ask(*[CONFIG] * (MAX_QUERIES + 1), identity=encode(stranger))
    text = "more queries than max (101 vs. 100)"
    assert (caught.value.code, caught.value.message) == (Code.RESOURCE_EXHAUSTED, text)
