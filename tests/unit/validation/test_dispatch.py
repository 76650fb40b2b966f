"""What was endorsed, and does it fit what was asked? Duplicates, too."""

from __future__ import annotations

import pytest

from fabric_protos.codec import encode
from fabric_protos.kvrwset import KvRead, KvWrite
from fabric_protos.protos import (
    ApplicationPolicy,
    ChaincodeAction,
    ChaincodeData,
    ChaincodeEvent,
    ChaincodeId,
)
from fabric_protos.rwset import (
    CollectionHashedReadWriteSet,
    NsReadWriteSet,
    TxReadWriteSet,
)
from fabric_protos.stream import ChaincodeHeaderExtension
from fabric_protos.stream import ChaincodeId as StreamChaincodeId
from peer.errors import LedgerError
from peer.ledger.api import ValidationCode as Code
from peer.ledger.rwset import RwSetBuilder
from peer.lifecycle.state import LIFECYCLE, LSCC
from peer.msp.dsl import parse_policy
from tests.unit.validation.forging import (
    CC,
    GARBAGE,
    VERSION,
    World,
    definition,
    definition_writes,
    endorsed_by,
    key_set,
    raw_sets,
    results_of,
    writes,
)

ONE = endorsed_by("OR('Org1MSP.peer')")


def called(name: str) -> bytes:
    return ChaincodeHeaderExtension(chaincode_id=StreamChaincodeId(name=name)).encode()


def action(name: str = CC, version: str = VERSION) -> bytes:
    return encode(ChaincodeAction(chaincode_id=ChaincodeId(name=name, version=version)))


@pytest.mark.parametrize(
    ("extension", "endorsed", "code"),
    [
        (GARBAGE, None, Code.BAD_HEADER_EXTENSION),
        (GARBAGE, GARBAGE, Code.BAD_HEADER_EXTENSION),
        (None, GARBAGE, Code.BAD_RESPONSE_PAYLOAD),
        (b"", GARBAGE, Code.BAD_RESPONSE_PAYLOAD),
        (b"", encode(ChaincodeAction(results=GARBAGE)), Code.BAD_RWSET),
        (b"", None, Code.INVALID_OTHER_REASON),
        (None, b"", Code.INVALID_OTHER_REASON),
        (called("other"), None, Code.INVALID_CHAINCODE),
        (called(""), None, Code.INVALID_CHAINCODE),
        (called(""), action(""), Code.INVALID_CHAINCODE),
        (None, action(""), Code.INVALID_CHAINCODE),
        (None, action("other"), Code.INVALID_CHAINCODE),
        (None, action(version=""), Code.INVALID_CHAINCODE),
        (None, action(version="another"), Code.VALID),
    ],
)
async def test_what_was_called_and_what_was_endorsed(
    world: World, extension: bytes | None, endorsed: bytes | None, code: Code
) -> None:
    transaction = world.forged(writes())
    transaction.extension = extension
    transaction.action = endorsed
    assert await world.judge(transaction.made(), world.made(writes())) == [code, Code.VALID]


def collection(content: bytes) -> bytes:
    hashed = CollectionHashedReadWriteSet(collection_name="c", hashed_rwset=content)
    namespace = NsReadWriteSet(namespace=CC, collection_hashed_rwset=[hashed])
    return encode(TxReadWriteSet(ns_rwset=[namespace]))


@pytest.mark.parametrize(
    "results",
    [GARBAGE, raw_sets((CC, GARBAGE)), collection(GARBAGE)],
    ids=["all", "a namespace", "a collection"],
)
async def test_read_write_sets_that_cannot_be_read(world: World, results: bytes) -> None:
    assert await world.judge(world.made(results)) == [Code.BAD_RWSET]


async def test_a_namespace_that_stands_there_twice(world: World) -> None:
    results = raw_sets((CC, key_set(KvWrite(key="a"))), (CC, key_set(KvWrite(key="b"))))
    assert await world.judge(world.made(results)) == [Code.ILLEGAL_WRITESET]


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (encode(ChaincodeEvent(chaincode_id=CC, event_name="e")), Code.VALID),
        (encode(ChaincodeEvent(chaincode_id="other")), Code.INVALID_OTHER_REASON),
        (encode(ChaincodeEvent(event_name="e")), Code.INVALID_OTHER_REASON),
        (GARBAGE, Code.INVALID_OTHER_REASON),
    ],
    ids=["its own", "of another chaincode", "of nobody", "garbage"],
)
async def test_events(world: World, event: bytes, code: Code) -> None:
    transaction = world.forged(writes())
    transaction.event = event
    assert await world.judge(transaction.made()) == [code]


# Which chaincodes there are


@pytest.mark.parametrize("name", ["undefined", "cscc", "qscc", "lscc", "escc"])
async def test_a_chaincode_that_is_not_defined(world: World, name: str) -> None:
    assert await world.judge(world.made(name=name)) == [Code.INVALID_CHAINCODE]
    assert await world.judge(world.made(writes(namespace=name))) == [Code.INVALID_CHAINCODE]


async def test_only_reads_of_an_undefined_namespace(world: World) -> None:
    sets = RwSetBuilder()
    sets.add_read("undefined", "k", None)
    assert await world.commit(world.made(sets)) == [Code.VALID]


@pytest.mark.parametrize(
    ("policy", "plugin", "code"),
    [
        (ONE, "vscc", Code.VALID),
        (ONE, "", Code.INVALID_CHAINCODE),
        (b"", "vscc", Code.INVALID_CHAINCODE),
        (GARBAGE, "vscc", Code.ENDORSEMENT_POLICY_FAILURE),
        (
            encode(ApplicationPolicy(channel_config_policy_reference="/Channel/Nowhere")),
            "vscc",
            Code.ENDORSEMENT_POLICY_FAILURE,
        ),
        (
            encode(
                ApplicationPolicy(
                    channel_config_policy_reference="/Channel/Application/Endorsement"
                )
            ),
            "vscc",
            Code.VALID,
        ),
    ],
    ids=["good", "no plugin", "no policy", "garbage", "nowhere", "channel's"],
)
async def test_definitions(bare: World, policy: bytes, plugin: str, code: Code) -> None:
    await bare.define(CC, definition(policy, plugin=plugin))
    assert await bare.judge(bare.made(writes())) == [code]


async def test_a_way_of_validating_that_this_peer_does_not_know_stops_the_channel(
    bare: World,
) -> None:
    """Whatever it said, peers that know the plugin might say otherwise."""
    await bare.define(CC, definition(ONE, plugin="mine"))
    with pytest.raises(LedgerError, match="plugin 'mine', which this peer does not have"):
        await bare.judge(bare.made(writes()))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (ChaincodeData(vscc="vscc", policy=parse_policy("OR('Org1MSP.peer')")), Code.VALID),
        (ChaincodeData(policy=parse_policy("OR('Org1MSP.peer')")), Code.INVALID_CHAINCODE),
        (ChaincodeData(vscc="vscc"), Code.INVALID_CHAINCODE),
        (
            ChaincodeData(vscc="vscc", policy=parse_policy("OR('Org2MSP.peer')")),
            Code.ENDORSEMENT_POLICY_FAILURE,
        ),
    ],
    ids=["good", "no plugin", "no policy", "another organisation's"],
)
async def test_legacy_definitions(bare: World, data: ChaincodeData, code: Code) -> None:
    data.name, data.version = CC, "whatever"
    await bare.put(writes(CC, encode(data), LSCC), name=LSCC)
    assert await bare.judge(bare.made(writes(), 0)) == [code]


@pytest.mark.parametrize("policy", [GARBAGE, b"\x08\x00"], ids=["garbage", "without rule"])
async def test_a_legacy_definition_with_a_policy_that_is_none(bare: World, policy: bytes) -> None:
    """Nobody checked it when it was written, so it must not stop anything."""
    data = encode(ChaincodeData(name=CC, vscc="vscc")) + b"\x2a" + bytes([len(policy)]) + policy
    await bare.put(writes(CC, data, LSCC), name=LSCC)
    assert await bare.judge(bare.made(writes())) == [Code.ENDORSEMENT_POLICY_FAILURE]


async def test_a_definition_goes_before_a_legacy_one(world: World) -> None:
    data = ChaincodeData(name=CC, vscc="vscc", policy=parse_policy("OR('Org1MSP.peer')"))
    await world.put(writes(CC, encode(data), LSCC), name=LSCC)
    assert await world.judge(world.made(writes(), 0)) == [Code.ENDORSEMENT_POLICY_FAILURE]


@pytest.mark.parametrize(
    ("key", "namespace"),
    [
        (f"namespaces/metadata/{CC}", LIFECYCLE),
        (f"namespaces/fields/{CC}/Sequence", LIFECYCLE),
        (f"namespaces/fields/{CC}/ValidationInfo", LIFECYCLE),
        ("legacy", LSCC),
    ],
)
async def test_a_damaged_definition_stops_the_channel(
    world: World, key: str, namespace: str
) -> None:
    await world.put(writes(key, GARBAGE, namespace), name=namespace)
    height = world.ledger.height
    with pytest.raises(LedgerError, match="cannot be read"):
        await world.commit(world.made(name="legacy" if namespace == LSCC else CC))
    assert world.ledger.height == height


# Duplicates


async def test_an_id_that_an_earlier_block_has(world: World) -> None:
    first = world.made(writes())
    assert await world.commit(first) == [Code.VALID]
    assert await world.commit(first) == [Code.DUPLICATE_TXID]


async def test_an_id_that_an_invalid_transaction_of_an_earlier_block_has(world: World) -> None:
    """Somebody can use up the id of his own transaction."""
    good = world.forged(writes())
    bad = world.forged(writes(), 0)
    bad.nonce = good.nonce
    assert await world.commit(bad.made()) == [Code.ENDORSEMENT_POLICY_FAILURE]
    assert await world.commit(good.made()) == [Code.DUPLICATE_TXID]
    assert world.state() is None


async def test_an_id_twice_in_a_block(world: World) -> None:
    first, second = world.forged(writes("a")), world.forged(writes("b"))
    second.nonce = first.nonce
    codes = await world.commit(first.made(), second.made(), world.made(writes("c")))
    assert codes == [Code.VALID, Code.DUPLICATE_TXID, Code.VALID]
    assert [world.state(key) for key in "abc"] == [b"v", None, b"v"]


async def test_after_an_invalid_transaction_its_id_is_free_in_the_block(world: World) -> None:
    bad, good = world.forged(writes(), 0), world.forged(writes())
    bad.nonce = good.nonce
    third = good.made()
    codes = await world.commit(bad.made(), good.made(), third)
    assert codes == [Code.ENDORSEMENT_POLICY_FAILURE, Code.VALID, Code.DUPLICATE_TXID]
    assert world.state() == b"v"


async def test_after_a_conflict_an_id_is_not_free(world: World) -> None:
    """Conflicts are found later than duplicates."""
    stale = RwSetBuilder()
    stale.add_read(CC, "k", None)
    first, second, third = (
        world.forged(writes()), world.forged(stale), world.forged(writes(value=b"late"))
    )  # fmt: skip
    third.nonce = second.nonce
    codes = await world.commit(first.made(), second.made(), third.made())
    assert codes == [Code.VALID, Code.MVCC_READ_CONFLICT, Code.DUPLICATE_TXID]
    assert world.state() == b"v"


# Through the committer: conflicts


async def test_a_read_that_no_longer_holds(world: World) -> None:
    simulator = world.ledger.new_tx_simulator("")
    simulator.get_state(CC, "k")
    simulator.set_state(CC, "k", b"late")
    stale = results_of(simulator)
    simulator.done()
    assert await world.commit(world.made(writes())) == [Code.VALID]
    assert await world.commit(world.made(stale)) == [Code.MVCC_READ_CONFLICT]
    assert world.state() == b"v"


async def test_a_range_that_would_read_otherwise(world: World) -> None:
    simulator = world.ledger.new_tx_simulator("")
    assert await simulator.get_state_range(CC, "a", "z").take(10) == []
    simulator.set_state(CC, "sum", b"0")
    stale = results_of(simulator)
    simulator.done()
    codes = await world.commit(world.made(writes()), world.made(stale))
    assert codes == [Code.VALID, Code.PHANTOM_READ_CONFLICT]
    assert world.state("sum") is None


async def test_a_missing_key_read_with_a_version(world: World) -> None:
    """Version 0/0 is a version, and a key that is not there has none."""
    sets = RwSetBuilder()
    sets.add_read(CC, "k", None)
    assert await world.commit(world.made(sets)) == [Code.VALID]
    forged = b"\x0a\x05\x0a\x01k\x12\x00"
    assert forged != key_set(reads=[KvRead(key="k")])
    codes = await world.commit(world.made(raw_sets((CC, forged))))
    assert codes == [Code.MVCC_READ_CONFLICT]


async def test_a_definition_that_changes_between_endorsement_and_commit(world: World) -> None:
    simulator = world.ledger.new_tx_simulator("")
    simulator.get_state(LIFECYCLE, f"namespaces/fields/{CC}/Sequence")
    simulator.set_state(CC, "k", b"late")
    stale = results_of(simulator)
    simulator.done()
    await world.define(CC, definition(ONE, sequence=2))
    assert await world.commit(world.made(stale)) == [Code.MVCC_READ_CONFLICT]
    assert world.state() is None


async def test_a_key_that_is_written_twice_is_not_written(world: World) -> None:
    results = raw_sets(
        (
            CC,
            key_set(
                KvWrite(key="k", value=b"1"), KvWrite(key="k", value=b"2"), KvWrite("o", value=b"3")
            ),
        )
    )
    assert await world.commit(world.made(results)) == [Code.VALID]
    assert (world.state(), world.state("o")) == (None, b"3")


@pytest.mark.parametrize(
    "write", [KvWrite(key="k", is_delete=True, value=b"left"), KvWrite(key="k", value=b"")]
)
async def test_a_delete_that_carries_a_value_and_an_empty_value(
    world: World, write: KvWrite
) -> None:
    assert await world.commit(world.made(writes())) == [Code.VALID]
    assert await world.commit(world.made(raw_sets((CC, key_set(write))))) == [Code.VALID]
    assert world.state() is None


async def test_a_definition_comes_into_force_with_the_next_block(bare: World) -> None:
    both = definition(endorsed_by("AND('Org1MSP.peer', 'Org2MSP.peer')"))
    defining = bare.made(definition_writes(CC, both), name=LIFECYCLE)
    assert await bare.commit(defining, bare.made(writes())) == [Code.VALID, Code.INVALID_CHAINCODE]
    assert await bare.commit(bare.made(writes())) == [Code.VALID]
