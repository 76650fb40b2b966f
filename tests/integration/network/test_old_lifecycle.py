"""lscc from package to upgrade: signed proposals, ordered transactions, chaincode on real runtimes.

Two organisations share a channel without V2_0; both have to endorse what the chaincode writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    ChannelHeader,
    Envelope,
    Header,
    HeaderType,
    Payload,
    SignaturePolicyEnvelope,
)
from fabric_protos.protos import (
    ChaincodeData,
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeQueryResponse,
    ChaincodeSpec,
    ChaincodeSpecType,
    CollectionConfig,
    CollectionConfigPackage,
    CollectionPolicyConfig,
    SignedChaincodeDeploymentSpec,
    StaticCollectionConfig,
)
from fabric_protos.stream import ChaincodeInput as Input
from peer.client.calls import Client, Result
from peer.client.definitions import WantedDefinition, approve
from peer.client.deployments import WantedDeployment, instantiate, upgrade
from peer.endorser.proposal import prepare_args
from peer.errors import (
    ChaincodeFailed,
    DefinitionNotUsable,
    InvalidDefinition,
    PeerError,
    UnknownChaincode,
)
from peer.ledger.api import ValidationCode
from peer.ledger.blocks import envelopes_of
from peer.ledger.transactions import read_action, read_header, read_sets
from peer.msp.dsl import parse_policy
from tests.integration.network.conftest import Make
from tests.integration.network.scene import CHANNEL, Configure, Scene, open_scene
from tests.integration.peer.scene import processes, vanished

BOTH = parse_policy("AND('Org1MSP.member','Org2MSP.member')")
ENGINE_LIMIT_S = 300.0
pytestmark = [pytest.mark.golang, pytest.mark.node]
Code = ValidationCode


async def lscc(client: Client, *args: bytes | str, channel_id: str = CHANNEL) -> Result:
    return await client.evaluate(channel_id, "lscc", Input(args=prepare_args(args)))


async def install(scene: Scene, package: bytes, organisations: Sequence[int] = (0, 1)) -> None:
    """Install as the administrator of each organisation on its own peer."""
    for index in organisations:
        answer = await lscc(scene.client(index, 0, [index]), "install", package, channel_id="")
        assert (answer.status, answer.payload) == (200, b"OK"), answer.message


def deployment(name: str, version: str, *args: str) -> WantedDeployment:
    kind = ChaincodeSpecType.NODE if version == "2.0" else ChaincodeSpecType.GOLANG
    return WantedDeployment(
        name=name, version=version, type=kind, args=prepare_args(args), policy=BOTH
    )


async def written(scene: Scene) -> dict[str, list[str]]:
    """Return the public keys that the only transaction of the last block writes, by namespace."""
    ledger = scene.peers[1].ledger(CHANNEL)
    block = await ledger.block_by_number(ledger.height - 1)
    assert block is not None
    [envelope] = envelopes_of(block)
    action = read_action(read_header(envelope).data)
    assert action is not None
    return {
        each.name: [write.key for write in each.public.writes]
        for each in read_sets(action.results)
        if each.public.writes
    }


async def definition(scene: Scene, index: int, name: str) -> ChaincodeData:
    """Return what is deployed, as a client of an organisation is told."""
    answer = await lscc(scene.client(index, 1, [index]), "getccdata", CHANNEL, name)
    assert answer.status == 200, answer.message
    return decode(ChaincodeData, answer.payload)


async def listed(scene: Scene, index: int, function: str, channel_id: str) -> list[str]:
    """Return name and version of what is installed or instantiated."""
    answer = await lscc(scene.client(index, 0, [index]), function, channel_id=channel_id)
    found = decode(ChaincodeQueryResponse, answer.payload).chaincodes
    return [f"{each.name}:{each.version}" for each in found]


async def test_from_package_to_upgrade(
    runtime: Configure, deployments: Make, name: str, tmp_path: Path
) -> None:
    def opened() -> AbstractAsyncContextManager[Scene]:
        return open_scene(tmp_path, capability="V1_4_2", configure=runtime, limit_s=ENGINE_LIMIT_S)

    first, second = f"{name}:1.0", f"{name}:2.0"
    async with opened() as scene:
        await install(scene, deployments(name, "1.0"))
        with pytest.raises(UnknownChaincode):
            await scene.query(0, "get", "init", name=name)
        await instantiate(scene.client(0, 0), CHANNEL, deployment(name, "1.0", "init", "first"))
        assert await written(scene) == {name: ["init"], "lscc": [name]}
        for index in (0, 1):
            assert (await definition(scene, index, name)).version == "1.0"
            answer = await scene.query(index, "get", "init", name=name)
            assert answer.payload == b'["init","first"]'
        assert (await scene.invoke("put", "kept", "value", name=name)).committed
        alone = await scene.invoke("put", "kept", "lost", name=name, endorsers=[0])
        assert alone.validation_code is Code.ENDORSEMENT_POLICY_FAILURE

        await install(scene, deployments(name, "2.0"))
        before = [*map(len, scene.ran)]
        wanted = deployment(name, "2.0", "init", "second")
        await upgrade(scene.client(1, 0), CHANNEL, wanted)
        assert await written(scene) == {name: ["init"], "lscc": [name]}
        assert (await scene.invoke("put", "more", "by the second", name=name)).committed
        for index in (0, 1):
            values = [
                (await scene.query(index, "get", key, name=name)).payload
                for key in ("kept", "init", "more")
            ]
            assert values == [b"value", b'["init","second"]', b"by the second"]
            assert set(scene.ran[index][: before[index]]) == {first}
            assert set(scene.ran[index][before[index] :]) == {second}
            assert await listed(scene, index, "GetChaincodes", CHANNEL) == [second]
            assert await listed(scene, index, "GetInstalledChaincodes", "") == [first, second]
        await scene.check_agreement()

    async with opened() as scene:  # the same peers, started again
        assert (await scene.query(1, "get", "kept", name=name)).payload == b"value"
        assert (await scene.invoke("put", "more", "after the start", name=name)).committed
        assert {*scene.ran[0], *scene.ran[1]} == {second}
        with pytest.raises(InvalidDefinition, match="version already exists for chaincode"):
            await upgrade(scene.client(0, 0), CHANNEL, deployment(name, "2.0"))
        await scene.check_agreement()


async def test_the_former_version_ends_with_its_last_execution(
    deployments: Make, name: str, tmp_path: Path
) -> None:
    async with opened(tmp_path) as scene:
        for version in ("1.0", "3.0"):
            await install(scene, deployments(name, version))
        await instantiate(scene.client(0, 0), CHANNEL, deployment(name, "1.0", "init"))
        before = processes(f"{name}:1.0")
        assert len(before) == 2
        async with trio.open_nursery() as nursery:
            answers: list[Result] = []

            async def ask() -> None:
                answers.append(await scene.query(1, "sleep", "2000", name=name))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await upgrade(scene.client(0, 0), CHANNEL, deployment(name, "3.0", "init"))
        assert [answer.payload for answer in answers] == [b"2000"]
        assert scene.ran[1].count(f"{name}:1.0") == 2  # Init, and what was running
        await vanished(f"{name}:1.0")
        assert (await scene.query(1, "get", "init", name=name)).payload == b'["init"]'
        assert len(processes(f"{name}:3.0")) == 2


# What is refused, and leaves everything as it was


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Scene]:
    async with open_scene(directory, capability="V1_4_2") as scene:
        yield scene
        await scene.check_agreement()


async def test_an_init_that_fails(deployments: Make, name: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        await install(scene, deployments(name, "1.0"))
        heights = [peer.ledger(CHANNEL).height for peer in scene.peers]
        with pytest.raises(ChaincodeFailed, match="transaction returned with failure: no luck"):
            await instantiate(
                scene.client(0, 0), CHANNEL, deployment(name, "1.0", "fail", "no luck")
            )
        assert [peer.ledger(CHANNEL).height for peer in scene.peers] == heights
        assert await listed(scene, 0, "GetChaincodes", CHANNEL) == []
        await instantiate(scene.client(0, 0), CHANNEL, deployment(name, "1.0", "init"))
        assert await listed(scene, 1, "GetChaincodes", CHANNEL) == [f"{name}:1.0"]


async def test_a_package_that_one_peer_has_not(
    deployments: Make, name: str, tmp_path: Path
) -> None:
    async with opened(tmp_path) as scene:
        await install(scene, deployments(name, "1.0"), [0])
        wanted = deployment(name, "1.0", "init")
        with pytest.raises(InvalidDefinition, match=r"msg cannot get package for chaincode"):
            await instantiate(scene.client(0, 0), CHANNEL, wanted)
        await instantiate(scene.client(0, 0, [0]), CHANNEL, wanted)  # any peer may endorse that
        assert (await scene.query(0, "get", "init", name=name)).payload == b'["init"]'
        with pytest.raises(DefinitionNotUsable, match=r"^cannot get package for chaincode"):
            await scene.query(1, "get", "init", name=name)
        await install(scene, deployments(name, "1.0"), [1])
        assert (await scene.query(1, "get", "init", name=name)).payload == b'["init"]'


async def test_a_package_that_is_another_on_one_peer(
    deployments: Make, name: str, tmp_path: Path
) -> None:
    async with opened(tmp_path) as scene:
        other = decode(ChaincodeDeploymentSpec, deployments(name, "2.0"))
        assert other.chaincode_spec is not None
        assert other.chaincode_spec.chaincode_id is not None
        other.chaincode_spec.chaincode_id.version = "1.0"
        await install(scene, deployments(name, "1.0"), [0])
        await install(scene, encode(other), [1])
        wanted = deployment(name, "1.0", "init")
        with pytest.raises(InvalidDefinition, match=r"^ProposalResponsePayloads do not match"):
            await instantiate(scene.client(0, 0), CHANNEL, wanted)
        await instantiate(scene.client(0, 0, [0]), CHANNEL, wanted)
        with pytest.raises(DefinitionNotUsable, match="fingerprint mismatch: data mismatch"):
            await scene.query(1, "get", "init", name=name)


def signed_package(package: bytes, policy: SignaturePolicyEnvelope) -> bytes:
    """Return a package whose owners say who may instantiate it."""
    content = SignedChaincodeDeploymentSpec(
        chaincode_deployment_spec=package, instantiation_policy=encode(policy)
    )
    header = ChannelHeader(type=HeaderType.CHAINCODE_PACKAGE)
    payload = Payload(header=Header(channel_header=encode(header)), data=encode(content))
    return encode(Envelope(payload=encode(payload)))


async def test_who_may_not_instantiate(deployments: Make, name: str, tmp_path: Path) -> None:
    owned, wanted = f"{name}owned", deployment(name, "1.0", "init")
    async with opened(tmp_path) as scene:
        await install(scene, deployments(name, "1.0"))
        policy = parse_policy("OR('Org2MSP.admin')")
        await install(scene, signed_package(deployments(owned, "1.0"), policy))
        with pytest.raises(InvalidDefinition, match=r"^instantiation policy violation: "):
            await instantiate(scene.client(0, 1), CHANNEL, wanted)  # a user
        await instantiate(scene.client(0, 0), CHANNEL, wanted)
        wanted = deployment(owned, "1.0", "init")
        with pytest.raises(InvalidDefinition, match=r"^instantiation policy violation: "):
            await instantiate(scene.client(0, 0), CHANNEL, wanted)  # another organisation
        await instantiate(scene.client(1, 0), CHANNEL, wanted)
        # An upgrade is for those whom the former package names, whatever the new one says.
        await install(scene, deployments(owned, "2.0"))
        with pytest.raises(InvalidDefinition, match=r"^instantiation policy violation: "):
            await upgrade(scene.client(0, 0), CHANNEL, deployment(owned, "2.0", "init"))
        assert (await definition(scene, 0, owned)).version == "1.0"
        await upgrade(scene.client(1, 0), CHANNEL, deployment(owned, "2.0", "init"))
        assert (await definition(scene, 0, owned)).version == "2.0"


def collections(*names: str) -> CollectionConfigPackage:
    members = CollectionPolicyConfig(signature_policy=parse_policy("OR('Org1MSP.member')"))
    return CollectionConfigPackage(
        config=[
            CollectionConfig(
                static_collection_config=StaticCollectionConfig(
                    name=name, member_orgs_policy=members, maximum_peer_count=1
                )
            )
            for name in names
        ]
    )


async def test_collections_are_judged_by_the_committing_peers(
    deployments: Make, name: str, tmp_path: Path
) -> None:
    async with opened(tmp_path) as scene:
        for version in ("1.0", "2.0"):
            await install(scene, deployments(name, version))
        client, wanted = scene.client(0, 0), deployment(name, "1.0", "init")
        invalid = replace(wanted, collections=collections("not one"))
        with pytest.raises(InvalidDefinition, match=r"^deploy: ENDORSEMENT_POLICY_FAILURE$"):
            await instantiate(client, CHANNEL, invalid)
        assert await listed(scene, 0, "GetChaincodes", CHANNEL) == []
        await instantiate(client, CHANNEL, replace(wanted, collections=collections("a", "b")))
        fewer = replace(deployment(name, "2.0", "init"), collections=collections("a"))
        with pytest.raises(InvalidDefinition, match=r"^upgrade: ENDORSEMENT_POLICY_FAILURE$"):
            await upgrade(client, CHANNEL, fewer)
        await upgrade(client, CHANNEL, replace(fewer, collections=collections("a", "b", "c")))
        answer = await lscc(scene.client(1, 1, [1]), "GetCollectionsConfig", name)
        assert decode(CollectionConfigPackage, answer.payload) == collections("a", "b", "c")
        assert (await scene.invoke("private_put", "c", "key", "value", name=name)).committed
        assert (await scene.query(0, "private_get", "c", "key", name=name)).payload == b"value"


async def test_a_plugin_that_no_peer_has(deployments: Make, name: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        await install(scene, deployments(name, "1.0"))
        spec = ChaincodeSpec(
            type=ChaincodeSpecType.GOLANG,
            chaincode_id=ChaincodeId(name=name, version="1.0"),
            input=ChaincodeInput(args=[b"init"]),
        )
        deployed = encode(ChaincodeDeploymentSpec(chaincode_spec=spec))
        args = [b"deploy", CHANNEL.encode(), deployed, encode(BOTH), b"other", b""]
        await scene.client(0, 0).define(CHANNEL, "lscc", name, args)
        assert (await definition(scene, 1, name)).escc == "other"
        with pytest.raises(PeerError, match=r"^plugin with name other could not be used: "):
            await scene.invoke("put", "key", "value", name=name)


async def test_the_new_lifecycle_is_for_other_channels(
    packages: Make, name: str, tmp_path: Path
) -> None:
    async with opened(tmp_path) as scene:
        [ccid] = {
            (await peer.packages.install_package(packages(name, "1.0"))).ccid
            for peer in scene.peers
        }
        wanted = WantedDefinition(name=name, version="1.0", package_id=ccid)
        channel = scene.peers[0].joined.get(CHANNEL).channel
        with pytest.raises(InvalidDefinition, match=r"^cannot use new lifecycle for channel"):
            await approve(scene.client(0, 0, [0]), channel, wanted, 1)
