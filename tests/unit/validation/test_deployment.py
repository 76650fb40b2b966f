"""Transactions that deploy and upgrade chaincodes through lscc."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from fabric_protos.codec import encode
from fabric_protos.kvrwset import KvWrite
from fabric_protos.protos import (
    ChaincodeData,
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeSpec,
    ChaincodeSpecType,
    CollectionConfig,
    CollectionConfigPackage,
    CollectionPolicyConfig,
    StaticCollectionConfig,
)
from fabric_protos.stream import (
    ChaincodeInput,
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
)
from fabric_protos.stream import ChaincodeSpec as StreamChaincodeSpec
from peer.ledger.api import ValidationCode as Code
from peer.lifecycle.state import LSCC
from peer.msp.dsl import parse_policy
from peer.msp.identity import SigningIdentity
from tests.unit.validation.forging import (
    CC,
    GARBAGE,
    Forged,
    World,
    key_set,
    raw_sets,
    writes,
)
from tests.unit.validation.test_legacy import require

ADMINS = "OR('Org1MSP.admin', 'Org2MSP.admin')"
PEERS = "OR('Org1MSP.peer', 'Org2MSP.peer')"
COLLECTIONS = f"{CC}~collection"


def spec(name: str = CC, version: str = "1", kind: int = 1) -> bytes:
    return encode(
        ChaincodeDeploymentSpec(
            chaincode_spec=ChaincodeSpec(
                type=ChaincodeSpecType(kind), chaincode_id=ChaincodeId(name=name, version=version)
            )
        )
    )


def data(
    name: str = CC, version: str = "1", *, policy: str = PEERS, may_deploy: str | None = ADMINS
) -> bytes:
    instantiation = None if may_deploy is None else parse_policy(may_deploy)
    return encode(
        ChaincodeData(
            name=name,
            version=version,
            vscc="vscc",
            policy=parse_policy(policy),
            instantiation_policy=instantiation,
        )
    )


def collection(name: str = "c", **changes: object) -> StaticCollectionConfig:
    made = StaticCollectionConfig(
        name=name,
        member_orgs_policy=CollectionPolicyConfig(signature_policy=parse_policy(PEERS)),
        maximum_peer_count=1,
    )
    for attribute, value in changes.items():
        setattr(made, attribute, value)
    return made


def package(*collections: StaticCollectionConfig) -> bytes:
    return encode(
        CollectionConfigPackage(
            config=[CollectionConfig(static_collection_config=each) for each in collections]
        )
    )


@dataclass(kw_only=True)
class Deployment:
    """A transaction of lscc; everything fits unless it is changed.

    Attributes:
        written: what it writes to lscc.
        others: sets of other namespaces.
        more: arguments after the deployment.
    """

    function: bytes = b"deploy"
    deployed: bytes = field(default_factory=spec)
    written: list[KvWrite] = field(default_factory=lambda: [KvWrite(key=CC, value=data())])
    others: list[tuple[str, bytes]] = field(default_factory=list)
    more: Sequence[bytes] = ()
    args: list[bytes] | None = None
    input: bytes | None = None
    by: SigningIdentity | None = None

    def made(self, world: World) -> bytes:
        args = self.args
        if args is None:
            args = [self.function, b"mychannel", self.deployed, *self.more]
        called = ChaincodeInvocationSpec(
            chaincode_spec=StreamChaincodeSpec(input=ChaincodeInput(args=args))
        ).encode()
        asked = called if self.input is None else self.input
        sets = [(LSCC, key_set(*self.written)), *self.others]
        return Forged(
            signer=self.by or world.scene.admin(0),
            endorsers=[world.scene.peer(0)],
            results=raw_sets(*sorted(sets)),
            name=LSCC,
            version="syscc",
            proposal=ChaincodeProposalPayload(input=asked).encode(),
        ).made()


def upgrade(version: str = "2", **changes: object) -> Deployment:
    made = Deployment(
        function=b"upgrade",
        deployed=spec(version=version),
        written=[KvWrite(key=CC, value=data(version=version))],
    )
    for attribute, value in changes.items():
        setattr(made, attribute, value)
    return made


def with_collections(content: bytes, made: Deployment | None = None) -> Deployment:
    made = made or Deployment()
    made.more = [b"", b"", b"", content]
    made.written.append(KvWrite(key=COLLECTIONS, value=content))
    return made


async def verdict(world: World, deployment: Deployment) -> Code:
    [code] = await world.judge(deployment.made(world))
    return code


@pytest.fixture
async def deployed(legacy: World) -> World:
    """A channel on which the chaincode is deployed."""
    assert await legacy.commit(Deployment().made(legacy)) == [Code.VALID]
    return legacy


async def test_from_a_deployment_to_a_call(legacy: World) -> None:
    own = Deployment(others=[(CC, key_set(KvWrite(key="set by init", value=b"1")))])
    call = legacy.forged(writes(), 1)
    call.version = "1"
    codes = await legacy.commit(own.made(legacy), call.made())
    assert codes == [Code.VALID, Code.INVALID_OTHER_REASON]
    assert legacy.state("set by init") == b"1"
    call = legacy.forged(writes(), 1)
    call.version = "1"
    assert await legacy.commit(call.made()) == [Code.VALID]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input": GARBAGE}, "the invocation cannot be read"),
        ({"input": b""}, "only deploy and upgrade"),
        (
            {"input": ChaincodeInvocationSpec(chaincode_spec=StreamChaincodeSpec()).encode()},
            "only deploy and upgrade",
        ),
        ({"args": []}, "only deploy and upgrade"),
        ({"args": [b"deploy", b"mychannel"]}, "2 arguments"),
        ({"function": b"install"}, "only deploy and upgrade"),
        ({"function": b"getid"}, "only deploy and upgrade"),
        ({"more": [b""] * 5}, "8 arguments"),
        ({"deployed": GARBAGE}, "the deployment cannot be read"),
        ({"deployed": b""}, "the deployment names no chaincode"),
        ({"deployed": spec(kind=0)}, "a chaincode of type 0"),
        ({"deployed": spec(kind=9)}, "a chaincode of type 9"),
        (
            {"deployed": spec("_cc"), "written": [KvWrite(key="_cc", value=data("_cc"))]},
            "'_cc' is no name",
        ),
        (
            {"deployed": spec("qscc"), "written": [KvWrite(key="qscc", value=data("qscc"))]},
            "'qscc' is no name",
        ),
        (
            {"deployed": spec(version=""), "written": [KvWrite(key=CC, value=data(version=""))]},
            "'' is no version",
        ),
        (
            {"deployed": spec(version="$"), "written": [KvWrite(key=CC, value=data(version="$"))]},
            "'$' is no version",
        ),
        ({"written": []}, "not what is written to lscc first"),
        ({"written": [KvWrite(key="other", value=data())]}, "not what is written to lscc first"),
        ({"written": [KvWrite(key=CC, value=GARBAGE)]}, "the definition cannot be read"),
        ({"written": [KvWrite(key=CC, value=data("other"))]}, "other:1 is written"),
        ({"written": [KvWrite(key=CC, value=data(version="2"))]}, "cc:2 is written"),
        (
            {"written": [KvWrite(key=CC, value=data()), KvWrite(key="x", value=b"y")]},
            "other keys than the collections'",
        ),
        ({"others": [("other", key_set(KvWrite(key="k", value=b"v")))]}, "it writes to other"),
        (
            {"written": [KvWrite(key=CC, value=data(may_deploy=None))]},
            "has no instantiation policy",
        ),
        (
            {"written": [KvWrite(key=CC, value=data(may_deploy="OR('Org2MSP.admin')"))]},
            "the instantiation policy is not satisfied",
        ),
    ],
)
async def test_what_is_no_deployment(
    legacy: World, changes: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = Deployment()
    for attribute, value in changes.items():
        setattr(deployment, attribute, value)
    assert await verdict(legacy, deployment) is Code.ENDORSEMENT_POLICY_FAILURE
    assert reason in caplog.text
    assert await verdict(legacy, Deployment()) is Code.VALID


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
async def test_languages(legacy: World, kind: int) -> None:
    assert await verdict(legacy, Deployment(deployed=spec(kind=kind))) is Code.VALID


async def test_reads_of_other_chaincodes_are_no_harm(legacy: World) -> None:
    assert await verdict(legacy, Deployment(others=[("other", key_set())])) is Code.VALID


async def test_an_instantiation_policy_that_cannot_be_read(legacy: World) -> None:
    content = data(may_deploy=None) + b"\x42\x01\xff"
    written = [KvWrite(key=CC, value=content)]
    assert await verdict(legacy, Deployment(written=written)) is Code.ENDORSEMENT_POLICY_FAILURE


async def test_who_may_deploy(legacy: World) -> None:
    for by, code in (
        (legacy.scene.user(0), Code.ENDORSEMENT_POLICY_FAILURE),
        (legacy.scene.admin(1), Code.VALID),
    ):
        assert await verdict(legacy, Deployment(by=by)) is code


async def test_a_policy_that_nobody_can_read_comes_into_force_all_the_same(legacy: World) -> None:
    """It hurts only the chaincode whose owner wrote it."""
    content = encode(
        ChaincodeData(name=CC, version="1", vscc="vscc", instantiation_policy=parse_policy(ADMINS))
    )
    written = [KvWrite(key=CC, value=content + b"\x2a\x01\xff")]
    assert await legacy.commit(Deployment(written=written).made(legacy)) == [Code.VALID]
    call = legacy.forged(writes())
    call.version = "1"
    assert await legacy.judge(call.made()) == [Code.ENDORSEMENT_POLICY_FAILURE]


async def test_a_chaincode_is_deployed_once(deployed: World) -> None:
    assert await verdict(deployed, Deployment()) is Code.ENDORSEMENT_POLICY_FAILURE


# Upgrades


async def test_an_upgrade(deployed: World) -> None:
    assert await deployed.commit(upgrade().made(deployed)) == [Code.VALID]
    call = deployed.forged(writes())
    call.version = "1"
    assert await deployed.judge(call.made()) == [Code.EXPIRED_CHAINCODE]
    call = deployed.forged(writes())
    call.version = "2"
    assert await deployed.judge(call.made()) == [Code.VALID]


async def test_what_is_no_upgrade(legacy: World) -> None:
    assert await verdict(legacy, upgrade()) is Code.ENDORSEMENT_POLICY_FAILURE
    await legacy.commit(Deployment().made(legacy))
    assert await verdict(legacy, upgrade("1")) is Code.ENDORSEMENT_POLICY_FAILURE


@pytest.mark.parametrize(
    ("former", "new", "capability", "code"),
    [
        ("OR('Org2MSP.admin')", ADMINS, "V1_4_2", Code.ENDORSEMENT_POLICY_FAILURE),
        (None, ADMINS, "V1_4_2", Code.ENDORSEMENT_POLICY_FAILURE),
        (ADMINS, "OR('Org2MSP.admin')", "V1_1", Code.ENDORSEMENT_POLICY_FAILURE),
        (ADMINS, None, "V1_1", Code.ENDORSEMENT_POLICY_FAILURE),
        (ADMINS, "OR('Org2MSP.admin')", "", Code.VALID),
        (ADMINS, ADMINS, "", Code.VALID),
    ],
)
async def test_who_may_upgrade(
    legacy: World, former: str | None, new: str | None, capability: str, code: Code
) -> None:
    """Who the former definition says, and from V1_1 on who the new one says, too."""
    await legacy.put(writes(CC, data(may_deploy=former), LSCC), name=LSCC)
    require(legacy, *filter(None, [capability]))
    written = [KvWrite(key=CC, value=data(version="2", may_deploy=new))]
    assert await verdict(legacy, upgrade(written=written)) is code


async def test_who_calls_a_chaincode_in_the_block_that_upgrades_it(deployed: World) -> None:
    def call(key: str, *peers: int) -> bytes:
        made = deployed.forged(writes(key), *peers)
        made.version = "1"
        return made.made()

    other = Deployment(deployed=spec("other"), written=[KvWrite(key="other", value=data("other"))])
    refused = deployed.forged(writes())
    refused.version = "1"
    refused.endorsers = ()
    codes = await deployed.commit(
        call("before"),
        upgrade("2").made(deployed),
        call("after"),
        upgrade("3").made(deployed),
        other.made(deployed),
        refused.made(),
    )
    assert codes == [
        Code.CHAINCODE_VERSION_CONFLICT,
        Code.CHAINCODE_VERSION_CONFLICT,
        Code.CHAINCODE_VERSION_CONFLICT,
        Code.VALID,
        Code.VALID,
        Code.ENDORSEMENT_POLICY_FAILURE,
    ]
    assert (deployed.state("before"), deployed.state("after")) == (None, None)
    call_again = deployed.forged(writes())
    call_again.version = "3"
    assert await deployed.commit(call_again.made()) == [Code.VALID]


# Collections


async def test_a_deployment_with_collections(legacy: World) -> None:
    content = package(collection(), collection("d"))
    assert await legacy.commit(with_collections(content).made(legacy)) == [Code.VALID]
    assert legacy.state(COLLECTIONS, LSCC) == content


Change = Callable[[Deployment], None]


def not_asked_for(deployment: Deployment) -> None:
    deployment.more = ()


def not_written(deployment: Deployment) -> None:
    del deployment.written[1]


def others_written(deployment: Deployment) -> None:
    deployment.written[1] = KvWrite(key=COLLECTIONS, value=package(collection("other")))


def under_another_key(deployment: Deployment) -> None:
    deployment.written[1] = KvWrite(key="other", value=package(collection()))


def more_written(deployment: Deployment) -> None:
    deployment.written.append(KvWrite(key="more", value=b"v"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (not_asked_for, "not those that were asked for"),
        (not_written, "not those that were asked for"),
        (others_written, "not those that were asked for"),
        (under_another_key, "other keys than the collections'"),
        (more_written, "other keys than the collections'"),
    ],
)
async def test_collections_that_are_not_those_asked_for(
    legacy: World, change: Change, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = with_collections(package(collection()))
    change(deployment)
    assert await verdict(legacy, deployment) is Code.ENDORSEMENT_POLICY_FAILURE
    assert reason in caplog.text


ALL_OF = parse_policy("AND('Org1MSP.peer', 'Org2MSP.peer')")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (GARBAGE, "the collections cannot be read"),
        (encode(CollectionConfigPackage(config=[CollectionConfig()])), "unknown collection"),
        (package(collection("")), "it has no name"),
        (package(collection("not/a name")), "it has no name"),
        (package(collection(), collection()), "or that of another"),
        (package(collection(required_peer_count=2)), "the numbers of peers do not fit"),
        (package(collection(required_peer_count=-1)), "the numbers of peers do not fit"),
        (package(collection(member_orgs_policy=None)), "member policy is not set"),
        (
            package(collection(member_orgs_policy=CollectionPolicyConfig())),
            "member org policy is empty",
        ),
        (
            package(collection(member_orgs_policy=CollectionPolicyConfig(signature_policy=ALL_OF))),
            "not an OR concatenation",
        ),
    ],
)
async def test_collections_that_are_none(
    legacy: World, content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = with_collections(content)
    assert await verdict(legacy, deployment) is Code.ENDORSEMENT_POLICY_FAILURE
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("capabilities", "content", "code"),
    [
        (["V1_1"], package(collection()), Code.ENDORSEMENT_POLICY_FAILURE),
        (["V1_1", "V1_1_PVTDATA_EXPERIMENTAL"], package(collection()), Code.VALID),
        (["V1_1", "V1_1_PVTDATA_EXPERIMENTAL"], package(collection("")), Code.VALID),
        (
            ["V1_1", "V1_1_PVTDATA_EXPERIMENTAL"],
            GARBAGE,
            Code.ENDORSEMENT_POLICY_FAILURE,
        ),
    ],
)
async def test_collections_before_v1_2(
    legacy: World, capabilities: list[str], content: bytes, code: Code
) -> None:
    require(legacy, *capabilities)
    assert await verdict(legacy, with_collections(content)) is code


async def test_a_second_key_where_there_are_no_collections(legacy: World) -> None:
    require(legacy, "V1_1")
    deployment = with_collections(package(collection()))
    deployment.more = ()
    assert await verdict(legacy, deployment) is Code.ENDORSEMENT_POLICY_FAILURE
    assert await verdict(legacy, Deployment(more=[b"", b"", b""])) is Code.VALID


async def test_collections_without_their_chaincode(legacy: World) -> None:
    await legacy.put(writes(COLLECTIONS, package(collection()), LSCC), name=LSCC)
    assert await verdict(legacy, Deployment()) is Code.ENDORSEMENT_POLICY_FAILURE


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (package(collection(block_to_live=3)), Code.VALID),
        (package(collection(block_to_live=3), collection("d")), Code.VALID),
        (package(collection("d")), Code.ENDORSEMENT_POLICY_FAILURE),
        (package(collection(block_to_live=4)), Code.ENDORSEMENT_POLICY_FAILURE),
    ],
    ids=["same", "more", "missing", "other life"],
)
async def test_an_upgrade_keeps_the_collections(legacy: World, content: bytes, code: Code) -> None:
    former = with_collections(package(collection(block_to_live=3)))
    assert await legacy.commit(former.made(legacy)) == [Code.VALID]
    assert await verdict(legacy, with_collections(content, upgrade())) is code


async def test_an_upgrade_may_leave_collections_alone(legacy: World) -> None:
    former = with_collections(package(collection()))
    assert await legacy.commit(former.made(legacy)) == [Code.VALID]
    assert await verdict(legacy, upgrade()) is Code.VALID
    # Naming none is something else than not naming any.
    empty = upgrade(more=[b"", b"", b"", b""])
    assert await verdict(legacy, empty) is Code.ENDORSEMENT_POLICY_FAILURE


async def test_an_upgrade_changes_no_collections_before_v1_2(deployed: World) -> None:
    require(deployed, "V1_1", "V1_1_PVTDATA_EXPERIMENTAL")
    deployment = with_collections(package(collection()), upgrade())
    assert await verdict(deployed, deployment) is Code.ENDORSEMENT_POLICY_FAILURE
    assert await verdict(deployed, upgrade()) is Code.VALID
