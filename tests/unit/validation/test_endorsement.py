"""Who has to endorse what is written: a chaincode, a key, a collection, an organisation."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import utils

from fabric_protos.codec import encode
from fabric_protos.kvrwset import KvWrite
from fabric_protos.protos import (
    ApplicationPolicy,
    ChaincodeData,
    Endorsement,
    StaticCollectionConfig,
)
from peer.channel.bundle import Bundle
from peer.endorser import endorsement
from peer.errors import LedgerError
from peer.ledger.api import ValidationCode as Code
from peer.ledger.rwset import RwSetBuilder
from peer.lifecycle.state import LIFECYCLE, LSCC, implicit_collection
from peer.msp.directory import load_signing_identity
from peer.msp.dsl import parse_policy
from peer.msp.identity import SigningIdentity
from peer.msp.signatures import ORDERS
from tests.unit.validation.forging import (
    CC,
    CHANNEL,
    GARBAGE,
    Forged,
    World,
    definition,
    definition_writes,
    endorsed_by,
    key_policy,
    key_set,
    raw_sets,
    writes,
)

ORG1, ORG2 = "OR('Org1MSP.peer')", "OR('Org2MSP.peer')"
BOTH = "AND('Org1MSP.peer', 'Org2MSP.peer')"
REFUSED = Code.ENDORSEMENT_POLICY_FAILURE


def metadata(key: str, policy: str, namespace: str = CC) -> RwSetBuilder:
    """Return the write of a key's policy."""
    sets = RwSetBuilder()
    sets.add_metadata_write(namespace, key, key_policy(policy))
    return sets


async def test_every_organisation_of_the_policy_must_have_endorsed(world: World) -> None:
    codes = await world.commit(
        world.made(writes("a"), 0), world.made(writes("b"), 1), world.made(writes("c"), 0, 1)
    )
    assert codes == [REFUSED, REFUSED, Code.VALID]
    assert [world.state(key) for key in "abc"] == [None, None, b"v"]


async def test_without_endorsements(world: World) -> None:
    transaction = world.forged(writes())
    transaction.endorsers = ()
    assert await world.judge(transaction.made()) == [REFUSED]


async def test_two_peers_of_one_organisation_are_not_two_organisations(world: World) -> None:
    organisation = world.scene.network.organisations[0]
    transaction = world.forged(writes())
    transaction.endorsers = [
        load_signing_identity(organisation.nodes[number].msp, organisation.msp_id)
        for number in (0, 1)
    ]
    assert await world.judge(transaction.made()) == [REFUSED]
    transaction.endorsers = [*transaction.endorsers, world.scene.peer(1)]
    assert await world.judge(transaction.made()) == [Code.VALID]


async def test_clients_endorse_nothing(world: World) -> None:
    transaction = world.forged(writes())
    transaction.endorsers = [world.scene.peer(0), world.scene.user(1)]
    assert await world.judge(transaction.made()) == [REFUSED]


async def test_one_endorsement_twice_counts_once(bare: World) -> None:
    await bare.define(CC, definition(endorsed_by("OutOf(2, 'Org1MSP.peer', 'Org1MSP.peer')")))
    assert await bare.judge(bare.made(writes(), 0, 0)) == [REFUSED]


def high_s(transaction: Forged, signer: SigningIdentity) -> Endorsement:
    made = endorsement.endorse(transaction.signed_part(), signer)
    r, s = utils.decode_dss_signature(made.signature)
    made.signature = utils.encode_dss_signature(r, ORDERS["secp256r1"] - s)
    return made


async def test_an_endorsement_with_high_s_does_not_count(world: World) -> None:
    transaction = world.forged(writes(), 0)
    transaction.tail = [high_s(transaction, world.scene.peer(1))]
    assert await world.judge(transaction.made()) == [REFUSED]


async def test_garbage_beside_enough_endorsements_does_not_matter(world: World) -> None:
    transaction = world.forged(writes())
    peer = world.scene.peer(1)
    transaction.tail = [
        Endorsement(),
        Endorsement(endorser=GARBAGE, signature=GARBAGE),
        Endorsement(endorser=peer.creator, signature=GARBAGE),
        endorsement.endorse(b"something else", peer),
        endorsement.endorse(transaction.signed_part(), SigningIdentity.self_signed("Mine")),
    ]
    assert await world.judge(transaction.made()) == [Code.VALID]


async def test_an_endorsement_of_another_result_does_not_count(world: World) -> None:
    transaction = world.forged(writes(), 0)
    other = world.forged(writes(value=b"other"), 0)
    other.nonce = transaction.nonce
    transaction.tail = [endorsement.endorse(other.signed_part(), world.scene.peer(1))]
    assert await world.judge(transaction.made()) == [REFUSED]


@pytest.mark.parametrize("reads", [False, True])
async def test_a_transaction_that_writes_nothing_needs_the_chaincodes_policy(
    world: World, reads: bool
) -> None:
    sets = RwSetBuilder()
    if reads:
        sets.add_read(CC, "k", None)
    results = sets.results().public
    assert await world.judge(world.made(results, 0), world.made(results)) == [REFUSED, Code.VALID]


async def test_every_namespace_that_is_written_counts(world: World) -> None:
    await world.define("mine", definition(endorsed_by(ORG1)))
    sets = writes(namespace="mine")
    codes = await world.judge(world.made(sets, 0, name="mine"), world.made(sets, 0))
    assert codes == [Code.VALID, REFUSED]
    sets.add_write(CC, "k", b"v")
    codes = await world.judge(world.made(sets, 0, name="mine"), world.made(sets, name="mine"))
    assert codes == [REFUSED, Code.VALID]
    read = writes(namespace="mine")
    read.add_read(CC, "k", None)
    assert await world.judge(world.made(read, 0, name="mine")) == [Code.VALID]


async def test_the_first_namespace_that_fails_in_their_order_decides(world: World) -> None:
    sets = writes(namespace="zz")
    assert await world.judge(world.made(sets, 0)) == [REFUSED]
    sets = writes(namespace="aa")
    assert await world.judge(world.made(sets, 0)) == [Code.INVALID_CHAINCODE]


# Policies of keys


async def test_a_key_with_a_policy_is_judged_by_that_alone(world: World) -> None:
    await world.put(writes())
    await world.put(metadata("k", ORG1))
    codes = await world.judge(
        world.made(writes(), 0), world.made(writes(), 1), world.made(writes("other"), 0)
    )
    assert codes == [Code.VALID, REFUSED, REFUSED]
    both = writes()
    both.add_write(CC, "other", b"v")
    assert await world.judge(world.made(both, 0), world.made(both, 0, 1)) == [REFUSED, Code.VALID]


async def test_the_policy_of_a_key_can_be_stricter_than_the_chaincodes(bare: World) -> None:
    await bare.define(CC, definition(endorsed_by(ORG1)))
    await bare.put(writes())
    await bare.put(metadata("k", BOTH))
    assert await bare.judge(bare.made(writes(), 0), bare.made(writes())) == [REFUSED, Code.VALID]
    assert await bare.judge(bare.made(metadata("k", ORG1), 0)) == [REFUSED]


async def test_a_policy_on_a_missing_key_and_on_a_deleted_one_are_none(world: World) -> None:
    assert await world.commit(world.made(metadata("k", ORG1))) == [Code.VALID]
    assert await world.judge(world.made(writes(), 0)) == [REFUSED]
    await world.put(writes())
    await world.put(metadata("k", ORG1))
    assert await world.commit(world.made(writes(value=b""), 0)) == [Code.VALID]
    assert await world.judge(world.made(writes(), 0)) == [REFUSED]


async def test_writes_after_a_change_of_policy_in_a_block_are_refused(world: World) -> None:
    await world.put(writes())
    codes = await world.commit(
        world.made(metadata("k", ORG1)),
        world.made(writes(value=b"by the old"), 0, 1),
        world.made(writes(value=b"by the new"), 0),
        world.made(metadata("k", ORG2)),
        world.made(writes("other")),
    )
    assert codes == [Code.VALID, REFUSED, REFUSED, REFUSED, Code.VALID]
    assert world.state() == b"v"
    assert await world.commit(world.made(writes(value=b"by the new"), 0)) == [Code.VALID]
    assert world.state() == b"by the new"


async def test_a_change_of_policy_that_is_refused_changes_nothing(world: World) -> None:
    await world.put(writes())
    codes = await world.commit(world.made(metadata("k", ORG1), 0), world.made(writes(value=b"n")))
    assert codes == [REFUSED, Code.VALID]
    assert world.state() == b"n"


async def test_a_change_of_policy_counts_even_if_its_transaction_conflicts(world: World) -> None:
    await world.put(writes())
    stale = metadata("k", ORG1)
    stale.add_read(CC, "k", None)
    codes = await world.commit(world.made(stale), world.made(writes(value=b"late")))
    assert codes == [Code.MVCC_READ_CONFLICT, REFUSED]
    assert world.state() == b"v"


async def test_a_policy_that_cannot_be_read_stops_the_channel(world: World) -> None:
    await world.put(writes())
    sets = RwSetBuilder()
    sets.add_metadata_write(CC, "k", {"VALIDATION_PARAMETER": GARBAGE})
    await world.put(sets)
    with pytest.raises(LedgerError, match="the policy of a key cannot be read"):
        await world.judge(world.made(writes()))


@pytest.mark.parametrize("entries", [{"OTHER": GARBAGE}, {"VALIDATION_PARAMETER": b""}])
async def test_other_metadata_of_a_key_and_an_empty_policy_are_none(
    world: World, entries: dict[str, bytes]
) -> None:
    await world.put(writes())
    sets = RwSetBuilder()
    sets.add_metadata_write(CC, "k", entries)
    await world.put(sets)
    assert await world.judge(world.made(writes(), 0), world.made(writes())) == [REFUSED, Code.VALID]


# Collections


def own(name: str, policy: str | None) -> StaticCollectionConfig:
    """Return a collection, with an endorsement policy of its own or without."""
    signature = None if policy is None else parse_policy(policy)
    endorsing = None if signature is None else ApplicationPolicy(signature_policy=signature)
    return StaticCollectionConfig(name=name, endorsement_policy=endorsing)


def private(collection: str, key: str = "k", namespace: str = CC) -> RwSetBuilder:
    """Return the write of a private key."""
    sets = RwSetBuilder()
    sets.add_private_write(namespace, collection, key, b"secret")
    return sets


@pytest.fixture
async def collected(bare: World) -> World:
    """A channel with a chaincode of both organisations and collections of one."""
    await bare.define(
        CC,
        definition(
            endorsed_by(BOTH),
            collections=[
                own("own", ORG1),
                own("plain", None),
                StaticCollectionConfig(
                    name="nowhere",
                    endorsement_policy=ApplicationPolicy(
                        channel_config_policy_reference="/Channel/Nowhere"
                    ),
                ),
            ],
        ),
    )
    return bare


async def test_a_collection_with_a_policy_is_judged_by_that_alone(collected: World) -> None:
    codes = await collected.judge(
        collected.made(private("own"), 0),
        collected.made(private("own"), 1),
        collected.made(private("plain"), 0),
        collected.made(private("plain"), 0, 1),
        collected.made(private("nowhere"), 0, 1),
        collected.made(private("unknown"), 0, 1),
    )
    assert codes == [Code.VALID, REFUSED, REFUSED, Code.VALID, REFUSED, REFUSED]


async def test_a_collection_and_public_keys_need_both_policies(collected: World) -> None:
    sets = private("own")
    sets.add_write(CC, "k", b"v")
    codes = await collected.judge(collected.made(sets, 0), collected.made(sets, 0, 1))
    assert codes == [REFUSED, Code.VALID]


async def test_a_read_of_a_collection_needs_the_chaincodes_policy(collected: World) -> None:
    sets = RwSetBuilder()
    sets.add_private_read(CC, "own", "k", None)
    codes = await collected.judge(collected.made(sets, 0), collected.made(sets, 0, 1))
    assert codes == [REFUSED, Code.VALID]


async def test_an_organisations_own_collection_needs_that_organisation(collected: World) -> None:
    of_org1 = private(implicit_collection("Org1MSP"))
    of_nobody = private(implicit_collection("Org3MSP"))
    codes = await collected.judge(
        collected.made(of_org1, 0), collected.made(of_org1, 1), collected.made(of_nobody)
    )
    assert codes == [Code.VALID, REFUSED, REFUSED]


async def test_an_organisation_without_endorsement_policy_takes_any_member(
    collected: World,
) -> None:
    config = collected.scene.config()
    assert config.channel_group is not None
    del config.channel_group.groups["Application"].groups["Org1"].policies["Endorsement"]
    collected.channel.bundle = Bundle(CHANNEL, config)
    transaction = collected.forged(private(implicit_collection("Org1MSP")))
    transaction.endorsers = [collected.scene.user(0)]
    assert await collected.judge(transaction.made()) == [Code.VALID]
    transaction.endorsers = [collected.scene.user(1)]
    assert await collected.judge(transaction.made()) == [REFUSED]


async def test_collections_of_a_legacy_definition_have_the_chaincodes_policy(bare: World) -> None:
    data = ChaincodeData(name=CC, vscc="vscc", policy=parse_policy(ORG2))
    await bare.put(writes(CC, encode(data), LSCC), name=LSCC)
    for collection in ("unknown", implicit_collection("Org1MSP")):
        sets = private(collection)
        assert await bare.judge(bare.made(sets, 0), bare.made(sets, 1)) == [REFUSED, Code.VALID]


async def test_private_keys_have_policies_too(collected: World) -> None:
    await collected.put(private("own"))
    sets = RwSetBuilder()
    sets.add_private_metadata_write(CC, "own", "k", key_policy(ORG2))
    changing = collected.made(sets, 0)
    late = collected.made(private("own"), 1)
    assert await collected.commit(changing, late, collected.made(private("own", "other"), 0)) == [
        Code.VALID,
        REFUSED,
        Code.VALID,
    ]
    codes = await collected.judge(
        collected.made(private("own"), 0), collected.made(private("own"), 1)
    )
    assert codes == [REFUSED, Code.VALID]


async def test_a_key_that_is_written_twice_is_judged_all_the_same(world: World) -> None:
    results = raw_sets((CC, key_set(KvWrite(key="k", value=b"1"), KvWrite(key="k"))))
    assert await world.judge(world.made(results, 0)) == [REFUSED]


# Definitions


async def test_most_organisations_decide_on_definitions(bare: World) -> None:
    sets = definition_writes(CC, definition(endorsed_by(ORG1)))
    codes = await bare.judge(
        bare.made(sets, 0, name=LIFECYCLE), bare.made(sets, 0, 1, name=LIFECYCLE)
    )
    assert codes == [REFUSED, Code.VALID]


async def test_without_a_policy_on_definitions_most_members_decide(bare: World) -> None:
    config = bare.scene.config()
    assert config.channel_group is not None
    del config.channel_group.groups["Application"].policies["LifecycleEndorsement"]
    bare.channel.bundle = Bundle(CHANNEL, config)
    sets = definition_writes(CC, definition(endorsed_by(ORG1)))
    transaction = bare.forged(sets, name=LIFECYCLE)
    transaction.endorsers = [bare.scene.user(0), bare.scene.admin(1)]
    assert await bare.judge(transaction.made()) == [Code.VALID]
    transaction.endorsers = transaction.endorsers[:1]
    assert await bare.judge(transaction.made()) == [REFUSED]


async def test_an_approval_needs_its_organisation(bare: World) -> None:
    """It writes to nothing but the organisation's own collection."""
    sets = private(implicit_collection("Org2MSP"), "approval", LIFECYCLE)
    codes = await bare.judge(bare.made(sets, 0, name=LIFECYCLE), bare.made(sets, 1, name=LIFECYCLE))
    assert codes == [REFUSED, Code.VALID]
    unknown = private("unknown", "approval", LIFECYCLE)
    assert await bare.judge(bare.made(unknown, 0, 1, name=LIFECYCLE)) == [REFUSED]
