"""Commands with peers and orderers that do what real ones do only when something is wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockHeader,
    ConfigGroup,
    ConfigUpdate,
    Envelope,
    Payload,
    Status,
)
from fabric_protos.orderer import BroadcastResponse
from fabric_protos.orderer import DeliverResponse as OrdererResponse
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeActionPayload,
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeInfo,
    ChaincodeQueryResponse,
    DeliverResponse,
    Endorsement,
    FilteredBlock,
    FilteredTransaction,
    ProposalResponse,
    ProposalResponsePayload,
    Response,
    Transaction,
    TxValidationCode,
)
from fabric_protos.stream import (
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    ChannelHeader,
    Header,
    Proposal,
    SignedProposal,
)
from peer.channel.network import NetworkDescription, create
from peer.client.collections import read_collections
from peer.errors import CallRefused, Code
from peer.msp.dsl import parse_policy
from peer.rpc.loop import open_loop
from peer.rpc.server import Server
from peer.services.api import Caller, Requests, Send, Streaming, Unary, decoder
from tests.integration.peer_thread import held

from .commands import Site, command, site
from .test_commands import update_file

CHANNEL = "mychannel"
CALL = ("-C", CHANNEL, "-n", "cc", "-c", '{"Args":["f","a"]}')
DEFINITION = ("-C", CHANNEL, "-n", "cc", "-v", "1", "--sequence", "1", "--waitForEvent=false")
APPROVE = ("lifecycle", "chaincode", "approveformyorg", *DEFINITION)


def proposal_parts(signed: SignedProposal) -> tuple[ChannelHeader, ChaincodeProposalPayload]:
    proposal = Proposal.decode(signed.proposal_bytes)
    header = Header.decode(proposal.header)
    payload = ChaincodeProposalPayload.decode(proposal.payload)
    return ChannelHeader.decode(header.channel_header), payload


@dataclass
class Node:
    """A peer and an orderer in one, which do as they are told.

    Attributes:
        response: what is endorsed; the digest of its payload stands for the result.
        refusal: instead of an endorsement.
        broadcast: the answer of the orderer.
        verdict: of the transaction that is proposed; None for silence.
        ends: status that ends a stream of blocks after the newest.
    """

    name: bytes
    response: Response = field(default_factory=lambda: Response(status=200, payload=b"done"))
    refusal: CallRefused | None = None
    broadcast: BroadcastResponse = field(
        default_factory=lambda: BroadcastResponse(status=Status.SUCCESS)
    )
    verdict: TxValidationCode | None = TxValidationCode.VALID
    ends: Status | None = None
    address: str = ""
    proposals: list[SignedProposal] = field(default_factory=list)
    envelopes: list[bytes] = field(default_factory=list)
    proposed: trio.Event = field(default_factory=trio.Event)

    def methods(self) -> list[Unary | Streaming]:
        def anything(data: bytes) -> bytes:
            return data

        return [
            Unary(
                path="/protos.Endorser/ProcessProposal",
                decode=SignedProposal.decode,
                call=self._endorse,
                encode=encode,
            ),
            Streaming(
                path="/protos.Deliver/DeliverFiltered",
                decode=decoder(Envelope),
                call=self._filtered,
                encode=encode,
            ),
            Streaming(
                path="/orderer.AtomicBroadcast/Broadcast",
                decode=anything,
                call=self._broadcast,
                encode=encode,
            ),
            Streaming(
                path="/orderer.AtomicBroadcast/Deliver",
                decode=decoder(Envelope),
                call=self._deliver,
                encode=encode,
            ),
        ]

    async def _endorse(self, signed: SignedProposal, _: Caller) -> ProposalResponse:
        self.proposals.append(signed)
        self.proposed.set()
        if self.refusal is not None:
            raise self.refusal
        if self.response.status >= 400:
            return ProposalResponse(response=self.response)
        action = encode(ChaincodeAction(response=self.response))
        digest = hashlib.sha256(signed.proposal_bytes).digest()
        return ProposalResponse(
            response=self.response,
            payload=encode(ProposalResponsePayload(proposal_hash=digest, extension=action)),
            endorsement=Endorsement(endorser=self.name, signature=b"signed"),
        )

    async def _filtered(self, requests: Requests, send: Send, _: Caller) -> None:
        async for _request in requests:
            proposed = self.proposed = trio.Event()  # nobody is asked to endorse before this
            await send(DeliverResponse(filtered_block=FilteredBlock(channel_id=CHANNEL)))
            if self.ends is not None:
                await send(DeliverResponse(status=self.ends))
                return
            if self.verdict is None:
                await trio.sleep_forever()
            await proposed.wait()
            header, _payload = proposal_parts(self.proposals[-1])
            found = FilteredTransaction(txid=header.tx_id, tx_validation_code=self.verdict)
            block = FilteredBlock(channel_id=CHANNEL, number=7, filtered_transactions=[found])
            await send(DeliverResponse(filtered_block=block))

    async def _broadcast(self, requests: Requests, send: Send, _: Caller) -> None:
        async for data in requests:
            self.envelopes.append(data)
            await send(self.broadcast)
            if self.broadcast.status != Status.SUCCESS:
                return

    async def _deliver(self, requests: Requests, send: Send, _: Caller) -> None:
        """There is nothing the first time, and then the first block."""
        async for _request in requests:
            if len(self.envelopes) < 2:
                self.envelopes.append(b"asked")
                await send(OrdererResponse(status=Status.NOT_FOUND))
                return
            await send(OrdererResponse(block=Block(header=BlockHeader(number=0))))
            await send(OrdererResponse(status=Status.SUCCESS))


@dataclass
class Scene:
    """Two nodes, and a member of an organisation."""

    nodes: list[Node]
    env: dict[str, str]

    @property
    def orderer(self) -> tuple[str, str]:
        return "-o", self.nodes[0].address

    def peers(self, count: int = 2) -> list[str]:
        return [flag for node in self.nodes[:count] for flag in ("--peerAddresses", node.address)]

    def invoke(self, *flags: str, peers: int = 2) -> tuple[int, str]:
        """Invoke on these peers; return the exit code and what is said, nothing being printed."""
        done = command(
            "chaincode", "invoke", *CALL, *self.orderer, *self.peers(peers), *flags, env=self.env
        )
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    def failure(self, *flags: str, peers: int = 2) -> str:
        """Return why an invoke fails."""
        code, said = self.invoke(*flags, peers=peers)
        assert code == 1, said
        return said.removesuffix("\n").rpartition("Error: ")[2]

    @property
    def ordered(self) -> list[bytes]:
        return [data for node in self.nodes for data in node.envelopes]


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = create(tmp_path_factory.mktemp("network") / "net", NetworkDescription())
    organisation = made.organisations[0]
    return {
        "CORE_PEER_LOCALMSPID": organisation.msp_id,
        "CORE_PEER_MSPCONFIGPATH": str(organisation.users[0].msp),
    }


@pytest.fixture
def scene(member: dict[str, str]) -> Iterator[Scene]:
    nodes = [Node(b"first"), Node(b"second")]

    @asynccontextmanager
    async def served() -> AsyncIterator[None]:
        async with open_loop(), AsyncExitStack() as stack:
            for node in nodes:
                server = Server(node.methods())
                node.address = await stack.enter_async_context(server.listen("127.0.0.1", 0))
            yield

    with held(served):
        yield Scene(nodes, {**member, "CORE_PEER_ADDRESS": nodes[0].address})


def test_two_peers_endorse_one_transaction(scene: Scene) -> None:
    secret = json.dumps({"key": base64.b64encode(b"secret").decode()})
    code, said = scene.invoke("--isInit", "--transient", secret, "--waitForEvent")
    assert code == 0, said
    for node in scene.nodes:
        assert f"committed with status (VALID) at {node.address}\n" in said
        [signed] = node.proposals
        header, payload = proposal_parts(signed)
        assert (header.type, header.channel_id) == (3, CHANNEL)
        assert payload.transient_map == {"key": b"secret"}
    assert 'Chaincode invoke successful. result: status:200 payload:"done"\n' in said
    [envelope] = scene.ordered
    assert b"secret" not in envelope
    transaction = decode(Transaction, decode(Payload, decode(Envelope, envelope).payload).data)
    action = decode(ChaincodeActionPayload, transaction.actions[0].payload).action
    assert action is not None
    assert [each.endorser for each in action.endorsements] == [b"first", b"second"]


def test_peers_that_do_not_agree(scene: Scene) -> None:
    scene.nodes[1].response = Response(status=200, payload=b"something else")
    told = scene.failure()
    assert told == "could not assemble transaction: ProposalResponsePayloads do not match"
    assert scene.ordered == []


def test_a_peer_that_refuses_and_one_that_fails(scene: Scene) -> None:
    scene.nodes[1].refusal = CallRefused(Code.UNKNOWN, "access denied: channel [mychannel]")
    assert scene.failure() == (
        "error endorsing invoke: rpc error: code = Unknown desc = access denied: channel "
        "[mychannel] - proposal response: <nil>"
    )
    scene.nodes[1].refusal = None
    scene.nodes[1].response = Response(status=500, message="no")
    second = "proposal response was not successful, error code 500, msg no"
    assert scene.failure() == f"could not assemble transaction: {second}"
    done = command(*APPROVE, *scene.orderer, *scene.peers(), env=scene.env)
    assert done.stderr == f"Error: failed to create signed transaction: {second}\n"
    scene.nodes[0].response = scene.nodes[1].response
    told = 'endorsement failure during invoke. response: status:500 message:"no"'
    assert scene.failure() == told
    done = command(*APPROVE, *scene.orderer, *scene.peers(), env=scene.env)
    assert done.stderr == "Error: proposal failed with status: 500 - no\n"
    assert scene.ordered == []


def test_an_orderer_that_refuses(scene: Scene) -> None:
    scene.nodes[0].broadcast = BroadcastResponse(status=Status.FORBIDDEN, info="not you")
    refusal = "got unexpected status: FORBIDDEN -- not you"
    done = command(*APPROVE, *scene.orderer, *scene.peers(1), env=scene.env)
    assert done.stderr == f"Error: failed to send transaction: {refusal}\n"
    told = f"error sending transaction for invoke: {refusal}"
    assert scene.failure(peers=1) == told
    assert scene.failure("--waitForEvent", peers=1) == told


def test_verdicts(scene: Scene) -> None:
    scene.nodes[1].verdict = TxValidationCode.MVCC_READ_CONFLICT
    code, said = scene.invoke("--waitForEvent")
    assert code == 1
    assert f"committed with status (VALID) at {scene.nodes[0].address}\n" in said
    assert f"committed with status (MVCC_READ_CONFLICT) at {scene.nodes[1].address}\n" in said
    assert said.endswith("Error: transaction invalidated with status (MVCC_READ_CONFLICT)\n")
    scene.nodes[1].verdict = None
    told = scene.failure("--waitForEvent", "--waitForEventTimeout", "50ms")
    assert told == "timed out waiting for txid on all peers"
    scene.nodes[1].ends = Status.FORBIDDEN
    told = scene.failure("--waitForEvent")
    assert told == "deliver completed with status (FORBIDDEN) before txid received"


def test_a_channel_is_made(scene: Scene, tmp_path: Path) -> None:
    update = ConfigUpdate(channel_id=CHANNEL, read_set=ConfigGroup(), write_set=ConfigGroup())
    file = update_file(update, tmp_path / "create.pb")
    flags = ("-c", CHANNEL, "-f", file, "-o", scene.nodes[0].address)
    done = command("channel", "create", *flags, env=scene.env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Received block: 0\n" in done.stderr
    assert decode(Block, (tmp_path / f"{CHANNEL}.block").read_bytes()).header is not None
    scene.nodes[0].envelopes.clear()
    done = command("channel", "create", *flags, "-t", "0s", env=scene.env, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "Error: timeout waiting for channel creation\n"


@pytest.mark.parametrize(
    ("verb", "function"), [("instantiate", b"deploy"), ("upgrade", b"upgrade")]
)
def test_deploying_as_before(scene: Scene, tmp_path: Path, verb: str, function: bytes) -> None:
    collections = tmp_path / "collections.json"
    policy = "OR('Org1MSP.member')"
    collections.write_text(json.dumps([{"name": "secret", "policy": policy}]))
    flags = (
        "-C", CHANNEL, "-n", "cc", "-v", "2", "-l", "node", "-c", '{"Args":["init","a"]}',
        "-P", policy, "-E", "escc", "-V", "vscc", "--collections-config", str(collections),
    )  # fmt: skip
    orderer = ("-o", scene.nodes[0].address)
    done = command("chaincode", verb, *flags, *orderer, env=scene.env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [signed] = scene.nodes[0].proposals
    header, payload = proposal_parts(signed)
    assert header.channel_id == CHANNEL
    spec = ChaincodeInvocationSpec.decode(payload.input).chaincode_spec
    assert spec is not None
    assert spec.chaincode_id is not None
    assert spec.input is not None
    assert spec.chaincode_id.name == "lscc"
    args = [bytes(each) for each in spec.input.args]
    assert args[:2] == [function, CHANNEL.encode()]
    deployment = decode(ChaincodeDeploymentSpec, args[2]).chaincode_spec
    assert deployment is not None
    assert deployment.chaincode_id == ChaincodeId(name="cc", version="2")
    assert deployment.input is not None
    assert deployment.input.args == [b"init", b"a"]
    assert args[3:6] == [encode(parse_policy(policy)), b"escc", b"vscc"]
    assert args[6] == encode(read_collections(collections.read_bytes()))
    assert len(scene.ordered) == 1
    scene.nodes[0].response = Response(status=500, message="no")
    done = command("chaincode", verb, *flags, *orderer, env=scene.env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: could not assemble transaction, err proposal response was not successful, "
        "error code 500, msg no\n"
    )


def test_several_peers_endorse_an_approval(scene: Scene) -> None:
    done = command(*APPROVE, *scene.orderer, *scene.peers(), env=scene.env)
    assert done.returncode == 0, done.stderr
    assert [len(node.proposals) for node in scene.nodes] == [1, 1]
    assert len(scene.ordered) == 1


def test_what_is_deployed_is_listed(scene: Scene) -> None:
    info = ChaincodeInfo(name="cc", version="1", path="p", escc="escc", vscc="vscc", id=b"\1\2")
    listed = encode(ChaincodeQueryResponse(chaincodes=[info]))
    scene.nodes[0].response = Response(status=200, payload=listed)
    done = command("chaincode", "list", "--instantiated", "-C", CHANNEL, env=scene.env)
    assert done.returncode == 0
    assert done.stdout == (
        f"Get instantiated chaincodes on channel {CHANNEL}:\n"
        "Name: cc, Version: 1, Path: p, Escc: escc, Vscc: vscc, Id: 0102\n"
    )


def profile(scene: Scene, path: Path, channel_id: str = CHANNEL) -> Path:
    names = {f"peer{number}": node for number, node in enumerate(scene.nodes)}
    document = {
        "channels": {channel_id: {"peers": {"peer0": {"endorsingPeer": False}, "peer1": {}}}},
        "peers": {name: {"url": f"grpc://{node.address}"} for name, node in names.items()},
    }
    path.write_text(json.dumps(document))
    return path


def test_a_connection_profile_names_the_peers(scene: Scene, tmp_path: Path) -> None:
    query = ("chaincode", "query", *CALL, "--connectionProfile")
    done = command(*query, profile(scene, tmp_path / "net.yaml"), env=scene.env)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert [len(node.proposals) for node in scene.nodes] == [0, 1]
    done = command(*query, profile(scene, tmp_path / "net.yaml", "other"), env=scene.env)
    assert done.returncode == 2
    assert f"no peers of channel {CHANNEL} in it" in done.stderr


# TLS


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A real peer that asks for certificates."""
    with site(tmp_path_factory.mktemp("peer"), tls=True, mutual=True) as opened:
        yield opened


def test_mutual_tls(secured: Site, tmp_path: Path) -> None:
    node = next(secured.network.glob("peerOrganizations/*/peers/*/tls"))
    orderer = next(secured.network.glob("ordererOrganizations/*/orderers/*/tls"))
    user = next(secured.network.glob("peerOrganizations/*/users/Admin@*/tls"))
    server_only = {
        "CORE_PEER_TLS_ENABLED": "true",
        "CORE_PEER_TLS_ROOTCERT_FILE": str(node / "ca.crt"),
    }
    env = {
        **server_only,
        "CORE_PEER_TLS_CLIENTCERT_FILE": str(user / "client.crt"),
        "CORE_PEER_TLS_CLIENTKEY_FILE": str(user / "client.key"),
    }
    assert secured.ok("channel", "list", env=env)[0].endswith(f"{CHANNEL}\n")
    assert secured.ok("node", "status", env=env)[0] == "status:STARTED\n"
    block = tmp_path / "a.block"
    fetch = ("channel", "fetch", "newest", block, "-c", CHANNEL)
    secured.ok(*fetch, env=env)  # bound to the certificate, or it would be refused
    flags = ("-o", secured.orderer, "--tls", "--cafile", orderer / "ca.crt")
    own = (
        "--clientauth",
        "--certfile",
        orderer / "server.crt",
        "--keyfile",
        orderer / "server.key",
    )
    secured.ok(*fetch, *flags, *own, env=env)
    assert "rpc error: code = Unavailable" in secured.refused(*fetch, *flags, env=env)
    assert secured("channel", "list", env=server_only).returncode == 1
    assert secured("channel", "list").returncode == 1
    two = ("--peerAddresses", secured.address, "--peerAddresses", secured.address)
    told = secured.refused(
        "chaincode", "invoke", *CALL, *two, "--tlsRootCertFiles", node / "ca.crt", env=env
    )
    assert told == (
        "error validating peer connection parameters: "
        "number of peer addresses (2) does not match the number of TLS root cert files (1)"
    )
    document = {
        "channels": {CHANNEL: {"peers": {"peer0": {}}}},
        "peers": {
            "peer0": {
                "url": f"grpcs://{secured.address}",
                "tlsCACerts": {"path": str(node / "ca.crt")},
            }
        },
    }
    names = tmp_path / "net.yaml"
    names.write_text(json.dumps(document))
    query = ("chaincode", "query", "-C", CHANNEL, "-n", "qscc", "--connectionProfile", names)
    chain_info = ("-c", json.dumps({"Args": ["GetChainInfo", CHANNEL]}), "-x")
    assert secured.ok(*query, *chain_info, env=env)[0]
    assert secured(*query, *chain_info, env=server_only).returncode == 1
    rootless = {"CORE_PEER_TLS_ENABLED": "true"}
    done = secured("channel", "list", env=rootless)
    assert done.returncode == 2
    assert "peer.tls.rootcert.file is not set" in done.stderr


def test_the_status_of_a_node_that_is_not_there() -> None:
    done = command("node", "status", env={"CORE_PEER_ADDRESS": "127.0.0.1:1"})
    assert (done.returncode, done.stdout) == (1, "status:UNKNOWN\n")
    assert done.stderr.startswith("Error: trying to get status from local peer: rpc error: ")
