"""The services of a whole peer, as Google's client library finds them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope, Status
from fabric_protos.orderer import BroadcastResponse, SeekPosition
from fabric_protos.orderer import DeliverResponse as OrdererDeliverResponse
from fabric_protos.protos import DeliverResponse, ProposalResponse
from fabric_protos.stream import ChaincodeInput, SignedProposal
from peer import Peer, PeerConfig, open_peer
from peer.channel import network
from peer.channel.network import Member, Network
from peer.endorser.proposal import prepare_args, prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.errors import ConfigError
from peer.events.requests import NEWEST, OLDEST, at, seek_request
from peer.ledger.blocks import header_of
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity
from peer.msp.policies import SignedData
from peer.services import deliver
from peer.services.api import SMALL, Caller, Streaming
from peer.services.introspection import MOST
from tests.integration.server.conftest import GoogleClient, google_client, in_thread

ROOT = Path(__file__).parents[3]
CHANNEL = "mychannel"
COLLECTION = "assetPrivateDetails"
PROCESS_PROPOSAL = "/protos.Endorser/ProcessProposal"
DELIVER = "/protos.Deliver/"
ANY_PORT = {"peer.listenAddress": "127.0.0.1:0", "orderer.listenAddress": "127.0.0.1:0"}


class Scene:
    """A peer that listens, and a client of its network."""

    def __init__(self, peer: Peer, own: Network) -> None:
        organisation = own.organisations[0]
        self.peer = peer
        self.node: Member = organisation.nodes[0]
        self.user: Member = organisation.users[1]
        self.client: SigningIdentity = load_signing_identity(self.user.msp, organisation.msp_id)

    def proposal(self, name: str, *args: str, channel: str = CHANNEL, **transient: bytes) -> bytes:
        return self.signed(name, *args, channel=channel, **transient).encode()

    def signed(
        self, name: str, *args: str, channel: str = CHANNEL, **transient: bytes
    ) -> SignedProposal:
        payload = ChaincodeInput(args=prepare_args(args))
        return prepare_proposal(self.client, channel, name, payload, transient).signed

    def seek(self, start: SeekPosition, stop: SeekPosition, **more: Any) -> bytes:
        return seek_request(self.client, CHANNEL, start, stop, **more)

    def credentials(self, *, with_key: bool = False) -> grpc.ChannelCredentials:
        pair = (self.user.tls / "client.key", self.user.tls / "client.crt")
        key, certificate = (each.read_bytes() for each in pair) if with_key else (None, None)
        root = (self.node.tls / "ca.crt").read_bytes()
        return grpc.ssl_channel_credentials(root, key, certificate)


@asynccontextmanager
async def scene(home: Path, **settings: str) -> AsyncIterator[Scene]:
    overrides = {**ANY_PORT, "peer.fileSystemPath": str(home), **settings}
    async with open_peer(PeerConfig.load(env={}, overrides=overrides)) as peer:
        yield Scene(peer, network.load(home / "network"))


def kinds(answers: list[bytes]) -> list[DeliverResponse]:
    return [decode(DeliverResponse, each) for each in answers]


async def test_a_peer_that_is_not_told_to_listens_nowhere() -> None:
    async with open_peer() as peer:
        assert (peer.address, peer.orderer_address) == ("", "")


async def test_proposals(tmp_path: Path) -> None:
    async with scene(tmp_path) as on, google_client(on.peer.address) as client:
        answer = await client.unary(PROCESS_PROPOSAL, on.proposal("qscc", "GetChainInfo", CHANNEL))
        response = decode(ProposalResponse, answer)
        assert response.response is not None
        assert response.response.status == 200
        assert response.endorsement is not None
        answer = await client.unary(PROCESS_PROPOSAL, on.proposal("nobody", "x"))
        response = decode(ProposalResponse, answer)
        assert response.response is not None
        assert response.response.status == 500
        assert "chaincode nobody" in response.response.message
        assert not response.payload
        answer = await client.unary(PROCESS_PROPOSAL, on.proposal("qscc", "x", channel="other"))
        response = decode(ProposalResponse, answer)
        assert response.response is not None
        assert response.response.message == "channel 'other' not found"
        signed = on.signed("qscc", "GetChainInfo", CHANNEL)
        signed.signature = signed.signature[:-1] + b"\0"
        failure = await client.failure(PROCESS_PROPOSAL, signed.encode())
        assert failure.code is grpc.StatusCode.UNKNOWN
        assert failure.text.startswith("error validating proposal: access denied")
        failure = await client.failure(PROCESS_PROPOSAL, b"\xff")
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_transaction_from_proposal_to_block_event(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.peer.install(
            ROOT / "examples" / "asset_transfer", name="assets", collections=[COLLECTION]
        )
        async with (
            google_client(on.peer.address) as client,
            google_client(on.peer.orderer_address) as orderer,
        ):
            await _submit(on, client, orderer, "CreateAsset", "a1", "red", "5", "Ann", "10")
            await _submit(on, client, orderer, "PutPrivateDetails", "a1", details=b"secret")
            last = on.peer.ledger(CHANNEL).height - 1
            both = on.seek(at(last - 1), at(last))

            whole = kinds(await client.stream(DELIVER + "Deliver", both))
            numbers = [header_of(each.block).number for each in whole[:-1] if each.block]
            assert numbers == [last - 1, last]
            assert whole[-1].status == Status.SUCCESS

            filtered = kinds(await client.stream(DELIVER + "DeliverFiltered", both))
            blocks = [each.filtered_block for each in filtered[:-1]]
            assert [(each.channel_id, each.number) for each in blocks if each] == [
                (CHANNEL, last - 1),
                (CHANNEL, last),
            ]
            assert all(block and len(block.filtered_transactions) == 1 for block in blocks)

            private = kinds(await client.stream(DELIVER + "DeliverWithPrivateData", both))
            first, second = (each.block_and_private_data for each in private[:-1])
            assert first is not None
            assert second is not None
            assert first.private_data_map == {}
            (data,) = second.private_data_map.values()
            assert b"secret" in encode(data)

            theirs = await orderer.stream("/orderer.AtomicBroadcast/Deliver", both)
            ordered = [decode(OrdererDeliverResponse, each) for each in theirs]
            assert [header_of(each.block).number for each in ordered[:-1] if each.block] == numbers
            assert ordered[-1].status == Status.SUCCESS

            counted = partial(on.peer.metrics.value, service="orderer_AtomicBroadcast")
            assert counted("grpc_server_stream_requests_received", method="Broadcast") == 2
            assert counted("grpc_server_stream_messages_sent", method="Deliver") == 3
            assert on.peer.metrics.value("grpc_comm_conn_opened") == 2


async def _submit(
    on: Scene, client: GoogleClient, orderer: GoogleClient, *args: str, **transient: bytes
) -> None:
    """Endorse and order a transaction, and wait for its block."""
    signed = on.signed("assets", *args, **transient)
    answer = decode(ProposalResponse, await client.unary(PROCESS_PROPOSAL, signed.encode()))
    assert answer.response is not None
    assert answer.response.status == 200, answer.response.message
    height = on.peer.ledger(CHANNEL).height
    waiting = client.channel.stream_stream(DELIVER + "Deliver")(
        iter([on.seek(at(height), at(height))])
    )
    envelope = signed_transaction(signed, [answer], on.client)
    (said,) = await orderer.stream("/orderer.AtomicBroadcast/Broadcast", envelope)
    assert decode(BroadcastResponse, said).status == Status.SUCCESS
    block = decode(DeliverResponse, await in_thread(partial(next, waiting))).block
    assert block is not None
    assert header_of(block).number == height


async def test_private_data_are_for_members(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.peer.install(
            ROOT / "examples" / "asset_transfer", name="assets", collections=[COLLECTION]
        )
        await on.peer.invoke(CHANNEL, "assets", ["CreateAsset", "a1", "red", "5", "Ann", "10"])
        details = {"details": b"secret"}
        await on.peer.invoke(CHANNEL, "assets", ["PutPrivateDetails", "a1"], transient=details)
        last = on.peer.ledger(CHANNEL).height - 1
        asked: list[tuple[str, ...]] = []

        def is_nobody(channel: str, name: str, collection: str, requester: SignedData) -> bool:
            asked.append((channel, name, collection))
            assert requester.identity == on.client.creator
            return False

        async def requests() -> AsyncIterator[Envelope]:
            yield decode(Envelope, on.seek(at(last), at(last)))

        sent: list[DeliverResponse] = []

        async def send(response: DeliverResponse) -> None:
            sent.append(response)

        served = {each.path: each for each in deliver.methods(on.peer.joined.find, is_nobody)}
        method = served[DELIVER + "DeliverWithPrivateData"]
        assert isinstance(method, Streaming)
        await method.call(requests(), send, Caller("somebody:1"))
        block, status = sent
        assert block.block_and_private_data is not None
        assert block.block_and_private_data.private_data_map == {}
        assert status.status == Status.SUCCESS
        assert asked == [(CHANNEL, "assets", COLLECTION)]


async def test_a_filtered_block_is_made_once_for_all_who_listen(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        last = on.peer.ledger(CHANNEL).height - 1
        served = {
            each.path: each
            for each in deliver.methods(on.peer.joined.find, lambda *membership: False)
        }
        method = served[DELIVER + "DeliverFiltered"]
        assert isinstance(method, Streaming)

        async def requests() -> AsyncIterator[Envelope]:
            yield decode(Envelope, on.seek(OLDEST, at(last)))

        heard: list[list[object]] = []
        for _ in range(2):
            sent: list[object] = []

            async def send(response: object, sent: list[object] = sent) -> None:
                sent.append(response)

            await method.call(requests(), send, Caller("somebody:1"))
            heard.append(sent)
        one, other = heard
        assert len(one) == last + 2  # and the status
        assert all(a is b for a, b in zip(one[:-1], other[:-1], strict=True))
        numbers = [decode(DeliverResponse, method.encode(each)) for each in one[:-1]]
        blocks = [each.filtered_block for each in numbers]
        assert [block and block.number for block in blocks] == [*range(last + 1)]


async def test_several_requests_on_one_stream_and_how_a_refusal_ends_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as on, google_client(on.peer.address) as client:
        first = on.seek(OLDEST, OLDEST)
        answers = kinds(await client.stream(DELIVER + "Deliver", first, first))
        assert [each.status for each in answers] == [None, Status.SUCCESS, None, Status.SUCCESS]
        beyond = on.seek(at(1000), at(1001))
        answers = kinds(await client.stream(DELIVER + "DeliverFiltered", beyond, first))
        assert [each.status for each in answers] == [Status.NOT_FOUND]
        strange = on.seek(OLDEST, OLDEST, tls_hash=b"x")  # counts for mutual TLS only
        answers = kinds(await client.stream(DELIVER + "Deliver", strange))
        assert [each.status for each in answers] == [None, Status.SUCCESS]


async def test_what_the_orderer_refuses(tmp_path: Path) -> None:
    async with scene(tmp_path) as on, google_client(on.peer.orderer_address) as client:
        broadcast = "/orderer.AtomicBroadcast/Broadcast"
        said = await client.stream(broadcast, b"\xff", b"\xff")
        (response,) = [decode(BroadcastResponse, each) for each in said]
        assert response.status == Status.BAD_REQUEST
        other = seek_request(on.client, "other", NEWEST, NEWEST)
        (response,) = [decode(BroadcastResponse, e) for e in await client.stream(broadcast, other)]
        assert (response.status, response.info) == (Status.BAD_REQUEST, "channel does not exist")
        (answer,) = await client.stream("/orderer.AtomicBroadcast/Deliver", other)
        assert decode(OrdererDeliverResponse, answer).status == Status.NOT_FOUND
        failure = await client.failure(PROCESS_PROPOSAL, b"")
        assert failure.code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_networks_own_certificates_serve_tls(tmp_path: Path) -> None:
    async with scene(tmp_path, **{"peer.tls.enabled": "true"}) as on:
        for address in (on.peer.address, on.peer.orderer_address):
            root = on.credentials()
            if address == on.peer.orderer_address:
                own = network.load(tmp_path / "network").orderer.nodes[0]
                root = grpc.ssl_channel_credentials((own.tls / "ca.crt").read_bytes())
            async with google_client(address, root) as client:
                assert await client.unary("/grpc.health.v1.Health/Check") == b"\x08\x01"


async def test_requests_for_blocks_are_bound_to_the_clients_certificate(tmp_path: Path) -> None:
    settings = {"peer.tls.enabled": "true", "peer.tls.clientAuthRequired": "true"}
    async with (
        scene(tmp_path, **settings) as on,
        google_client(on.peer.address, on.credentials(with_key=True)) as client,
    ):
        pem = (on.user.tls / "client.crt").read_bytes()
        der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        bound = on.seek(OLDEST, OLDEST, tls_hash=hashlib.sha256(der).digest())
        answers = kinds(await client.stream(DELIVER + "Deliver", bound))
        assert [each.status for each in answers] == [None, Status.SUCCESS]
        unbound = on.seek(OLDEST, OLDEST)
        answers = kinds(await client.stream(DELIVER + "Deliver", unbound))
        assert [each.status for each in answers] == [Status.BAD_REQUEST]
        async with google_client(on.peer.address, on.credentials()) as stranger:
            failure = await stranger.failure(PROCESS_PROPOSAL, timeout=5)
            assert failure.code in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )


async def test_health(tmp_path: Path) -> None:
    async with scene(tmp_path) as on, google_client(on.peer.address) as client:
        stub = health_pb2_grpc.HealthStub(client.channel)
        serving = health_pb2.HealthCheckResponse.SERVING

        def check(service: str) -> Any:
            return stub.Check(health_pb2.HealthCheckRequest(service=service)).status

        for service in ("", "protos.Endorser", "protos.Deliver", "grpc.health.v1.Health"):
            assert await in_thread(partial(check, service)) == serving
        with pytest.raises(grpc.RpcError) as info:
            await in_thread(partial(check, "no.Such"))
        assert info.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
        for service, status in (("", serving), ("no.Such", 3)):
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
            assert (await in_thread(partial(next, watch))).status == status
            watch.cancel()


async def test_what_carries_nobodys_data_is_small(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as on,
        google_client(on.peer.address) as client,
        google_client(on.peer.orderer_address) as orderer,
    ):
        for name in (
            "/discovery.Discovery/Discover",
            "/gateway.Gateway/ChaincodeEvents",
            "/gateway.Gateway/CommitStatus",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            f"{DELIVER}DeliverFiltered",
        ):
            assert await _too_large(client, name), name
        assert await _too_large(orderer, "/orderer.AtomicBroadcast/Deliver")
        for name in ("Evaluate", "Endorse", "Submit"):
            assert not await _too_large(client, f"/gateway.Gateway/{name}"), name
        assert not await _too_large(client, PROCESS_PROPOSAL)


async def _too_large(client: GoogleClient, name: str) -> bool:
    failure = await client.failure(name, bytes(SMALL + 1))
    is_so = failure.text == f"grpc: received message larger than max ({SMALL + 1} vs. {SMALL})"
    assert is_so == (failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED), failure
    return is_so


async def test_who_only_watches_has_a_limit(tmp_path: Path) -> None:
    async with scene(tmp_path) as on, google_client(on.peer.address) as client:
        stub = health_pb2_grpc.HealthStub(client.channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(MOST)]
        for watch in watches:
            await in_thread(partial(next, watch))
        with pytest.raises(grpc.RpcError) as info:
            await in_thread(partial(next, stub.Watch(health_pb2.HealthCheckRequest())))
        assert info.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        for watch in watches:
            watch.cancel()


async def test_reflection(tmp_path: Path) -> None:
    async with scene(tmp_path) as on, google_client(on.peer.address) as client:
        database = await in_thread(lambda: ProtoReflectionDescriptorDatabase(client.channel))
        services = await in_thread(database.get_services)
        assert {"protos.Endorser", "protos.Deliver", "grpc.health.v1.Health"} <= set(services)
        pool = DescriptorPool(database)

        def describe() -> None:
            for name in services:
                service = pool.FindServiceByName(name)
                assert service.methods
            endorser = pool.FindServiceByName("protos.Endorser")
            (method,) = endorser.methods
            assert method.input_type.full_name == "protos.SignedProposal"
            assert pool.FindMessageTypeByName("protos.ChaincodeInterest").fields
            assert pool.FindFileByName("common/common.proto").message_types_by_name["Block"]
            for wrong in ("no.Such", "protos.Endorser.Nothing"):
                with pytest.raises(KeyError):
                    pool.FindMessageTypeByName(wrong)

        await in_thread(describe)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"peer.listenAddress": "192.0.2.1:1"}, r"peer\.listenAddress 192\.0\.2\.1:1: "),
        ({"orderer.listenAddress": "192.0.2.1:1"}, r"orderer\.listenAddress 192\.0\.2\.1:1: "),
        (
            {"peer.tls.enabled": "true", "peer.tls.cert.file": "/nowhere"},
            r"peer\.tls\.cert\.file: /nowhere: No such file",
        ),
        (
            {"peer.tls.enabled": "true", "peer.tls.key.file": __file__},
            r"peer\.tls\.cert\.file is not set",
        ),
        (
            {
                "peer.tls.enabled": "true",
                "peer.tls.clientAuthRequired": "true",
                "peer.tls.clientRootCAs.files": "/nowhere",
            },
            r"clientRootCAs\.files: /nowhere: No such file",
        ),
        (
            {
                "peer.tls.enabled": "true",
                "peer.tls.cert.file": __file__,
                "peer.tls.key.file": __file__,
            },
            r"peer\.tls: .* cannot be used",
        ),
    ],
)
async def test_settings_that_cannot_be_served(
    tmp_path: Path, settings: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        async with scene(tmp_path, **settings):
            pytest.fail("it opened")


async def test_an_orderer_to_serve_is_one_of_the_peers_own(tmp_path: Path) -> None:
    async with scene(tmp_path / "first"):
        pass
    own = network.load(tmp_path / "first" / "network").organisations[0]
    settings = {
        "peer.mspConfigPath": str(own.nodes[0].msp),
        "peer.localMspId": own.msp_id,
        "peer.fileSystemPath": str(tmp_path / "second"),
    }
    with pytest.raises(ConfigError, match="no ordering service to serve"):
        async with scene(tmp_path, **settings):
            pytest.fail("it opened")
    config = PeerConfig.load(env={}, overrides={**settings, "peer.listenAddress": "127.0.0.1:0"})
    async with open_peer(config) as peer:
        assert peer.address
        assert peer.orderer_address == ""
