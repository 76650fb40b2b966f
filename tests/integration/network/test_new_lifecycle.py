"""_lifecycle from package to upgrade: signed proposals, ordered transactions, real runtimes.

Two organisations agree on each definition; both have to endorse what the chaincode writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import betterproto2
import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.lifecycle import (
    ApproveChaincodeDefinitionForMyOrgArgs,
    ChaincodeSource,
    ChaincodeSourceLocal,
    CheckCommitReadinessArgs,
    CheckCommitReadinessResult,
    CommitChaincodeDefinitionArgs,
    InstallChaincodeArgs,
    InstallChaincodeResult,
    QueryApprovedChaincodeDefinitionArgs,
    QueryApprovedChaincodeDefinitionResult,
    QueryChaincodeDefinitionArgs,
    QueryChaincodeDefinitionResult,
    QueryChaincodeDefinitionsArgs,
    QueryChaincodeDefinitionsResult,
    QueryInstalledChaincodesArgs,
    QueryInstalledChaincodesResult,
)
from fabric_protos.stream import ChaincodeInput
from peer.client.definitions import WantedDefinition, approve, commit
from peer.errors import DefinitionNotUsable, InvalidDefinition, InvalidInvocation, UnknownChaincode
from peer.ledger.api import ValidationCode as Code
from tests.integration.network.conftest import Make
from tests.integration.network.scene import CHANNEL, Configure, Scene, open_scene

ENGINE_LIMIT_S = 300.0
pytestmark = [pytest.mark.golang, pytest.mark.node]

M = TypeVar("M", bound=betterproto2.Message)


async def ask(
    scene: Scene,
    index: int,
    arguments: betterproto2.Message,
    result: type[M],
    channel: str = CHANNEL,
) -> M:
    """Call _lifecycle as an organisation's administrator on its own peer; nothing is committed."""
    function = type(arguments).__name__.removesuffix("Args")
    client = scene.client(index, 0, [index])
    payload = ChaincodeInput(args=[function.encode(), encode(arguments)])
    answer = await client.evaluate(channel, "_lifecycle", payload)
    assert answer.status == 200, answer.message
    return decode(result, answer.payload)


async def install(scene: Scene, package: bytes) -> str:
    """Install on both peers and return the package's id."""
    arguments = InstallChaincodeArgs(chaincode_install_package=package)
    [ccid] = {
        (await ask(scene, index, arguments, InstallChaincodeResult, "")).package_id
        for index in (0, 1)
    }
    return ccid


async def approve_for(scene: Scene, index: int, wanted: WantedDefinition, sequence: int) -> None:
    channel = scene.peers[index].joined.get(CHANNEL).channel
    await approve(scene.client(index, 0, [index]), channel, wanted, sequence)
    await scene.level()


async def commit_for_all(
    scene: Scene, wanted: WantedDefinition, sequence: int, endorsers: list[int] | None = None
) -> None:
    channel = scene.peers[0].joined.get(CHANNEL).channel
    await commit(scene.client(0, 0, endorsers), channel, wanted, sequence)
    await scene.level()


async def readiness(scene: Scene, wanted: WantedDefinition, sequence: int) -> dict[str, bool]:
    arguments = CheckCommitReadinessArgs(
        sequence=sequence,
        name=wanted.name,
        version=wanted.version,
        endorsement_plugin="escc",
        validation_plugin="vscc",
        validation_parameter=wanted.policy,
        collections=wanted.collections,
        init_required=wanted.init_required,
    )
    return (await ask(scene, 1, arguments, CheckCommitReadinessResult)).approvals


async def definition(scene: Scene, index: int, name: str) -> QueryChaincodeDefinitionResult:
    arguments = QueryChaincodeDefinitionArgs(name=name)
    return await ask(scene, index, arguments, QueryChaincodeDefinitionResult)


async def test_from_package_to_upgrade(
    runtime: Configure, packages: Make, name: str, tmp_path: Path
) -> None:
    def opened() -> AbstractAsyncContextManager[Scene]:
        return open_scene(tmp_path, configure=runtime, limit_s=ENGINE_LIMIT_S)

    async with opened() as scene:
        first = await install(scene, packages(name, "1.0"))
        wanted = WantedDefinition(name=name, version="1.0", package_id=first, init_required=True)
        await approve_for(scene, 0, wanted, 1)
        assert await readiness(scene, wanted, 1) == {"Org1MSP": True, "Org2MSP": False}
        with pytest.raises(InvalidDefinition, match=r"not agreed to by this org \(Org2MSP\)$"):
            await commit_for_all(scene, wanted, 1)
        with pytest.raises(InvalidDefinition, match=r"ENDORSEMENT_POLICY_FAILURE$"):
            await commit_for_all(scene, wanted, 1, [0])  # not the majority
        await approve_for(scene, 1, wanted, 1)
        assert await readiness(scene, wanted, 1) == {"Org1MSP": True, "Org2MSP": True}
        with pytest.raises(UnknownChaincode):
            await scene.query(0, "get", "init", name=name)
        await commit_for_all(scene, wanted, 1)

        with pytest.raises(InvalidInvocation, match="must call as init first"):
            await scene.invoke("put", "kept", "value", name=name)
        assert (await scene.invoke("init", "first", name=name, is_init=True)).committed
        with pytest.raises(InvalidInvocation, match="already initialized but called as init"):
            await scene.invoke("init", "again", name=name, is_init=True)
        assert (await scene.invoke("put", "kept", "value", name=name)).committed
        alone = await scene.invoke("put", "kept", "lost", name=name, endorsers=[0])
        assert alone.validation_code is Code.ENDORSEMENT_POLICY_FAILURE

        second = await install(scene, packages(name, "2.0"))
        before = [*map(len, scene.ran)]
        newer = replace(wanted, version="2.0", package_id=second)
        for index in (0, 1):
            await approve_for(scene, index, newer, 2)
        assert (await scene.query(0, "get", "kept", name=name)).payload == b"value"  # by the first
        await commit_for_all(scene, newer, 2)
        assert scene.ran[0][before[0] :] == [first]
        del scene.ran[0][before[0] :]
        with pytest.raises(InvalidInvocation, match="has not been initialized for this version"):
            await scene.query(1, "get", "kept", name=name)
        assert (await scene.invoke("init", "second", name=name, is_init=True)).committed
        assert (await scene.invoke("put", "more", "by the second", name=name)).committed
        for index in (0, 1):
            values = [
                (await scene.query(index, "get", key, name=name)).payload
                for key in ("kept", "init", "more")
            ]
            assert values == [b"value", b'["init","second"]', b"by the second"]
            assert set(scene.ran[index][: before[index]]) == {first}
            assert set(scene.ran[index][before[index] :]) == {second}
            await check_queries(scene, index, name, first, second)
        await scene.check_agreement()

    async with opened() as scene:  # the same peers, started again
        assert (await scene.query(1, "get", "kept", name=name)).payload == b"value"
        assert (await scene.invoke("put", "more", "after the start", name=name)).committed
        assert {*scene.ran[0], *scene.ran[1]} == {second}
        await scene.check_agreement()


async def check_queries(scene: Scene, index: int, name: str, first: str, second: str) -> None:
    """Ask one peer for everything that is known after the upgrade."""
    found = await definition(scene, index, name)
    assert (found.sequence, found.version, found.init_required) == (2, "2.0", True)
    assert found.approvals == {"Org1MSP": True, "Org2MSP": True}
    everything = await ask(
        scene, index, QueryChaincodeDefinitionsArgs(), QueryChaincodeDefinitionsResult
    )
    assert [(each.name, each.sequence) for each in everything.chaincode_definitions] == [(name, 2)]
    for sequence, ccid in ((1, first), (2, second)):
        arguments = QueryApprovedChaincodeDefinitionArgs(name=name, sequence=sequence)
        approved = await ask(scene, index, arguments, QueryApprovedChaincodeDefinitionResult)
        assert approved.source is not None
        assert approved.source.local_package is not None
        assert approved.source.local_package.package_id == ccid
    installed = await ask(
        scene, index, QueryInstalledChaincodesArgs(), QueryInstalledChaincodesResult, ""
    )
    used = {
        each.package_id: [
            (channel, chaincode.name, chaincode.version)
            for channel, references in each.references.items()
            for chaincode in references.chaincodes
        ]
        for each in installed.installed_chaincodes
    }
    assert used == {first: [], second: [(CHANNEL, name, "2.0")]}


# What is refused, and leaves everything as it was


@asynccontextmanager
async def defined(
    directory: Path, packages: Make, name: str
) -> AsyncIterator[tuple[Scene, WantedDefinition]]:
    """Open both peers with a chaincode that both organisations agreed on."""
    async with open_scene(directory) as scene:
        ccid = await install(scene, packages(name, "1.0"))
        wanted = WantedDefinition(name=name, version="1.0", package_id=ccid)
        for index in (0, 1):
            await approve_for(scene, index, wanted, 1)
        await commit_for_all(scene, wanted, 1)
        yield scene, wanted
        assert (await definition(scene, 0, name)).sequence == 1
        await scene.check_agreement()


async def test_sequences_and_parameters_that_do_not_fit(
    packages: Make, name: str, tmp_path: Path
) -> None:
    async with defined(tmp_path, packages, name) as (scene, wanted):
        with pytest.raises(InvalidDefinition, match=r"requested sequence 3 is larger than the"):
            await approve_for(scene, 0, replace(wanted, version="2.0"), 3)
        with pytest.raises(InvalidDefinition, match=r"requested sequence is 0, but first"):
            await approve_for(scene, 0, replace(wanted, name="other"), 0)
        with pytest.raises(InvalidDefinition, match=r"redefine the current committed sequence"):
            await approve_for(scene, 0, replace(wanted, version="2.0"), 1)
        with pytest.raises(InvalidDefinition, match=r"is 1, but new definition must be sequence 2"):
            await commit_for_all(scene, wanted, 1)
        newer = replace(wanted, version="2.0")
        await approve_for(scene, 0, newer, 2)
        with pytest.raises(InvalidDefinition, match=r"uncommitted sequence \(2\).* unchanged"):
            await approve_for(scene, 0, newer, 2)


async def test_an_organisation_without_the_package(
    packages: Make, name: str, tmp_path: Path
) -> None:
    """It has agreed and runs nothing: it is asked in vain, until it chooses a package it has."""
    async with defined(tmp_path, packages, name) as (scene, wanted):
        await approve_for(scene, 1, replace(wanted, package_id=f"label:{'0' * 64}"), 1)
        assert (await scene.query(0, "get", "key", name=name)).status == 200
        with pytest.raises(DefinitionNotUsable, match=r"but chaincode is not installed$"):
            await scene.query(1, "get", "key", name=name)
        await approve_for(scene, 1, wanted, 1)
        assert (await scene.query(1, "get", "key", name=name)).status == 200


async def test_a_plugin_that_no_peer_has(packages: Make, name: str, tmp_path: Path) -> None:
    async with defined(tmp_path, packages, name) as (scene, wanted):
        other = f"{name}x"
        arguments = ApproveChaincodeDefinitionForMyOrgArgs(
            sequence=1,
            name=other,
            version="1.0",
            endorsement_plugin="other",
            validation_plugin="vscc",
            validation_parameter=wanted.policy,
            source=ChaincodeSource(
                local_package=ChaincodeSourceLocal(package_id=wanted.package_id)
            ),
        )
        for index in (0, 1):
            args = [b"ApproveChaincodeDefinitionForMyOrg", encode(arguments)]
            await scene.client(index, 0, [index]).define(CHANNEL, "_lifecycle", other, args)
        await scene.level()
        commitment = CommitChaincodeDefinitionArgs(
            sequence=1,
            name=other,
            version="1.0",
            endorsement_plugin="other",
            validation_plugin="vscc",
            validation_parameter=wanted.policy,
        )
        args = [b"CommitChaincodeDefinition", encode(commitment)]
        await scene.client(0, 0).define(CHANNEL, "_lifecycle", other, args)
        await scene.level()
        with pytest.raises(DefinitionNotUsable, match=r"^plugin with name other could not be used"):
            await scene.query(0, "get", "key", name=other)
