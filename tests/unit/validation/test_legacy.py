"""Channels without V2_0: chaincodes that lscc defines, by the rules of each capability."""

from __future__ import annotations

import pytest

from fabric_protos.codec import encode
from fabric_protos.common import Capabilities, Capability
from fabric_protos.protos import ChaincodeAction, ChaincodeData, ChaincodeEvent, ChaincodeId
from fabric_protos.stream import ChaincodeHeaderExtension
from fabric_protos.stream import ChaincodeId as StreamChaincodeId
from peer.channel.bundle import Bundle
from peer.errors import LedgerError
from peer.ledger.api import ValidationCode as Code
from peer.ledger.rwset import RwSetBuilder
from peer.lifecycle.state import LIFECYCLE, LSCC
from peer.msp.dsl import parse_policy
from tests.unit.validation.forging import (
    CC,
    CHANNEL,
    VERSION,
    World,
    key_policy,
    key_set,
    raw_sets,
    writes,
)

BOTH = "AND('Org1MSP.peer', 'Org2MSP.peer')"
ORG1 = "OR('Org1MSP.peer')"
REFUSED = Code.ENDORSEMENT_POLICY_FAILURE


def require(world: World, *names: str) -> None:
    """Let the application section require these capabilities, and no others."""
    config = world.scene.config()
    assert config.channel_group is not None
    application = config.channel_group.groups["Application"]
    required = Capabilities(capabilities={name: Capability() for name in names})
    application.values["Capabilities"].value = encode(required)
    world.channel.bundle = Bundle(CHANNEL, config)


async def deploy(world: World, name: str, policy: str, version: str = VERSION) -> None:
    data = ChaincodeData(name=name, version=version, vscc="vscc", policy=parse_policy(policy))
    await world.put(writes(name, encode(data), LSCC), name=LSCC)


@pytest.fixture
async def deployed(legacy: World) -> World:
    """A channel with a chaincode that a peer of each organisation has to endorse."""
    await deploy(legacy, CC, BOTH)
    return legacy


async def test_a_chaincode_is_judged_by_its_policy(deployed: World) -> None:
    codes = await deployed.commit(deployed.made(writes("a"), 0), deployed.made(writes("b"), 0, 1))
    assert codes == [REFUSED, Code.VALID]
    assert [deployed.state(key) for key in "ab"] == [None, b"v"]


# Other codes than with V2_0


async def test_a_chaincode_that_is_not_defined(deployed: World) -> None:
    codes = await deployed.judge(
        deployed.made(writes(namespace="other"), name="other"),
        deployed.made(writes(namespace="other")),
        deployed.made(writes(namespace=LIFECYCLE), name=LIFECYCLE),
    )
    assert codes == [Code.INVALID_OTHER_REASON] * 3


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (ChaincodeData(version=VERSION, vscc="vscc"), Code.INVALID_OTHER_REASON),
        (ChaincodeData(version=VERSION, policy=parse_policy(ORG1)), Code.INVALID_OTHER_REASON),
        (
            ChaincodeData(version="2", vscc="vscc", policy=parse_policy(ORG1)),
            Code.EXPIRED_CHAINCODE,
        ),
    ],
    ids=["no policy", "no plugin", "another version"],
)
async def test_definitions(legacy: World, data: ChaincodeData, code: Code) -> None:
    await legacy.put(writes(CC, encode(data), LSCC), name=LSCC)
    assert await legacy.judge(legacy.made(writes())) == [code]


async def test_the_version_counts_for_the_chaincode_that_was_called_only(deployed: World) -> None:
    await deploy(deployed, "other", BOTH, version="7")
    assert await deployed.judge(deployed.made(writes(namespace="other"))) == [Code.VALID]


async def test_a_plugin_that_this_peer_does_not_have_stops_the_channel(legacy: World) -> None:
    data = ChaincodeData(name=CC, version=VERSION, vscc="mine", policy=parse_policy(ORG1))
    await legacy.put(writes(CC, encode(data), LSCC), name=LSCC)
    with pytest.raises(LedgerError, match="plugin 'mine'"):
        await legacy.judge(legacy.made(writes()))


@pytest.mark.parametrize(
    ("name", "version"), [("other", VERSION), ("", VERSION), (CC, "")], ids=["name", "none", "v"]
)
async def test_what_was_called_and_what_was_endorsed(
    deployed: World, name: str, version: str
) -> None:
    transaction = deployed.forged(writes())
    chaincode = StreamChaincodeId(name=CC if version else name)
    transaction.extension = ChaincodeHeaderExtension(chaincode_id=chaincode).encode()
    transaction.action = encode(
        ChaincodeAction(chaincode_id=ChaincodeId(name=name, version=version))
    )
    assert await deployed.judge(transaction.made()) == [Code.INVALID_OTHER_REASON]


async def test_a_namespace_that_stands_there_twice(deployed: World) -> None:
    results = raw_sets((CC, key_set()), (CC, key_set()))
    assert await deployed.judge(deployed.made(results)) == [Code.ILLEGAL_WRITESET]


# System chaincodes


@pytest.mark.parametrize("namespace", ["lscc", "cscc", "escc", "vscc"])
async def test_system_namespaces_that_no_chaincode_may_write_to(
    deployed: World, namespace: str
) -> None:
    codes = await deployed.judge(deployed.made(writes(namespace=namespace)))
    assert codes == [Code.ILLEGAL_WRITESET]


async def test_any_member_decides_on_what_a_chaincode_writes_to_qscc(deployed: World) -> None:
    """Chaincodes could call it until v2.0, so Fabric does not close its namespace."""
    sets = writes(namespace="qscc")
    assert await deployed.judge(deployed.made(sets), deployed.made(sets, 0)) == [
        Code.VALID,
        REFUSED,
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("escc", Code.ILLEGAL_WRITESET),
        ("vscc", Code.ILLEGAL_WRITESET),
        ("cscc", Code.VALID),
        ("qscc", Code.VALID),
        ("lscc", REFUSED),
    ],
)
async def test_calls_of_system_chaincodes(deployed: World, name: str, code: Code) -> None:
    """Any member can endorse them; those of lscc must deploy something besides."""
    assert await deployed.judge(deployed.made(name=name)) == [code]
    transaction = deployed.forged(name=name)
    transaction.endorsers = [deployed.scene.user(1)]
    assert await deployed.judge(transaction.made()) == [code]
    transaction.endorsers = []
    refused = code if code is Code.ILLEGAL_WRITESET else REFUSED
    assert await deployed.judge(transaction.made()) == [refused]


# What depends on capabilities


@pytest.mark.parametrize(
    ("capabilities", "code"), [([], Code.VALID), (["V1_1"], Code.DUPLICATE_TXID)]
)
async def test_ids_in_a_block_are_looked_at_from_v1_1_on(
    deployed: World, capabilities: list[str], code: Code
) -> None:
    require(deployed, *capabilities)
    first, second = deployed.forged(writes("a")), deployed.forged(writes("b"))
    second.nonce = first.nonce
    assert await deployed.commit(first.made(), second.made()) == [Code.VALID, code]
    assert await deployed.commit(first.made()) == [Code.DUPLICATE_TXID]


@pytest.mark.parametrize(
    ("capabilities", "code"), [(["V1_1"], Code.VALID), (["V1_2"], Code.INVALID_OTHER_REASON)]
)
async def test_events_are_looked_at_from_v1_2_on(
    deployed: World, capabilities: list[str], code: Code
) -> None:
    require(deployed, *capabilities)
    transaction = deployed.forged(writes())
    transaction.event = encode(ChaincodeEvent(chaincode_id="other"))
    assert await deployed.judge(transaction.made()) == [code]


@pytest.mark.parametrize(
    ("capabilities", "codes"),
    [
        (["V1_1"], [Code.VALID, Code.VALID, Code.VALID]),
        (["V1_2"], [REFUSED, REFUSED, Code.INVALID_OTHER_REASON]),
    ],
)
async def test_who_writes_nothing_is_judged_from_v1_2_on(
    deployed: World, capabilities: list[str], codes: list[Code]
) -> None:
    """Before, only chaincodes that were written to had to agree."""
    require(deployed, *capabilities)
    await deploy(deployed, "mine", ORG1)
    found = await deployed.judge(
        deployed.made(b"", 0),
        deployed.made(writes(namespace="mine"), 0),
        deployed.made(name="undefined"),
    )
    assert found == codes


@pytest.mark.parametrize(
    ("capabilities", "code"),
    [
        (["V1_1"], Code.VALID),
        (["V1_1", "V1_1_PVTDATA_EXPERIMENTAL"], REFUSED),
        (["V1_2"], REFUSED),
    ],
)
async def test_private_writes_are_looked_at_where_there_are_collections(
    deployed: World, capabilities: list[str], code: Code
) -> None:
    require(deployed, *capabilities)
    sets = RwSetBuilder()
    sets.add_private_write(CC, "any", "k", b"v")
    assert await deployed.judge(deployed.made(sets, 0)) == [code]


@pytest.mark.parametrize(
    ("capabilities", "codes"),
    [(["V1_2"], [REFUSED, Code.VALID]), (["V1_3"], [Code.VALID, REFUSED])],
)
async def test_policies_of_keys_count_from_v1_3_on(
    deployed: World, capabilities: list[str], codes: list[Code]
) -> None:
    await deployed.put(writes())
    sets = RwSetBuilder()
    sets.add_metadata_write(CC, "k", key_policy(ORG1))
    await deployed.put(sets)
    require(deployed, *capabilities)
    by_org2 = deployed.forged(writes(), 1)
    assert (await deployed.judge(deployed.made(writes(), 0)))[0] == codes[0]
    assert await deployed.judge(by_org2.made()) == [REFUSED]
    changing = deployed.made(sets, 0, 1)
    assert (await deployed.judge(changing, deployed.made(writes(), 0, 1)))[1] == codes[1]


@pytest.mark.parametrize("is_private", [False, True])
@pytest.mark.parametrize(
    ("capabilities", "code"),
    [(["V1_1", "V1_1_PVTDATA_EXPERIMENTAL"], Code.VALID), (["V1_3"], REFUSED)],
)
async def test_changes_of_policies_are_writes_from_v1_3_on(
    deployed: World, capabilities: list[str], code: Code, is_private: bool
) -> None:
    require(deployed, *capabilities)
    await deploy(deployed, "mine", ORG1)
    sets = RwSetBuilder()
    if is_private:
        sets.add_private_metadata_write(CC, "any", "k", key_policy(ORG1))
    else:
        sets.add_metadata_write(CC, "k", key_policy(ORG1))
    assert await deployed.judge(deployed.made(sets, 0, name="mine")) == [code]


async def test_the_chaincode_that_was_called_is_judged_first(deployed: World) -> None:
    """Then the others, in the order in which they stand there."""
    await deploy(deployed, "expired", ORG1, version="7")
    sets = writes(namespace="absent")
    sets.add_write("expired", "k", b"v")
    codes = await deployed.judge(deployed.made(sets, 0, name="expired"))
    assert codes == [Code.EXPIRED_CHAINCODE]
    sets = writes(namespace="aa")
    assert await deployed.judge(deployed.made(sets, 0)) == [REFUSED]
    assert await deployed.judge(deployed.made(sets)) == [Code.INVALID_OTHER_REASON]
