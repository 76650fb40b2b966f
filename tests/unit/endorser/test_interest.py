"""What gateways and clients are told of who else has to endorse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fabric_protos.protos import ChaincodeCall
from peer.endorser.interest import interest_of
from peer.errors import LedgerError
from peer.ledger.api import SimulationResults, TxSimulator
from peer.ledger.rwset import RwSetBuilder
from peer.lifecycle.state import LIFECYCLE
from peer.msp.dsl import parse_policy
from tests.unit.validation.forging import CC, World, key_policy

ORG1, ORG2 = "OR('Org1MSP.peer')", "OR('Org2MSP.peer')"
SECRETS, MORE = "_implicit_org_Org1MSP", "_implicit_org_Org2MSP"

Simulation = Callable[[TxSimulator], object]


@pytest.fixture
async def ledger(bare: World) -> World:
    """The keys `mine` and, in a collection, `ours` have policies of their own."""
    sets = RwSetBuilder()
    sets.add_write(CC, "mine", b"1")
    sets.add_metadata_write(CC, "mine", key_policy(ORG1))
    sets.add_private_write(CC, SECRETS, "ours", b"1")
    sets.add_private_metadata_write(CC, SECRETS, "ours", key_policy(ORG2))
    await bare.put(sets)
    return bare


def called(ledger: World, *steps: Simulation) -> list[ChaincodeCall]:
    """Return the calls that a simulation of these steps leads to."""
    simulator = ledger.ledger.new_tx_simulator("tx")
    simulator.get_state(LIFECYCLE, "read by the peer itself")
    for step in steps:
        step(simulator)
    found = interest_of(simulator.get_tx_simulation_results(), {LIFECYCLE}.__contains__)
    return found.chaincodes if found is not None else []


def put(key: str, namespace: str = CC) -> Simulation:
    return lambda simulator: simulator.set_state(namespace, key, b"2")


def put_private(key: str, collection: str = SECRETS) -> Simulation:
    return lambda simulator: simulator.set_private_data(CC, collection, key, b"2")


async def test_nothing_but_system_chaincodes(ledger: World) -> None:
    assert called(ledger) == []
    assert interest_of(SimulationResults(public=b""), lambda name: False) is None


async def test_what_is_read_or_written_plainly(ledger: World) -> None:
    plain = ChaincodeCall(name=CC)
    assert called(ledger, lambda simulator: simulator.get_state(CC, "k")) == [plain]
    assert called(ledger, put("k")) == [plain]
    assert called(ledger, put("k"), put("k", "other")) == [plain, ChaincodeCall(name="other")]


async def test_keys_with_policies_of_their_own(ledger: World) -> None:
    policy = parse_policy(ORG1)
    alone = ChaincodeCall(name=CC, key_policies=[policy], disregard_namespace_policy=True)
    assert called(ledger, put("mine")) == [alone]
    both = ChaincodeCall(name=CC, key_policies=[policy])
    assert called(ledger, put("mine"), put("k")) == [both]
    many = [put(f"k{number}") for number in range(250)]
    for place in (0, 125, 250):
        assert called(ledger, *many[:place], put("mine"), *many[place:]) == [both]
    # Who may change the policy is who may change the value.
    assert called(
        ledger, lambda simulator: simulator.set_state_metadata(CC, "mine", key_policy(ORG2))
    ) == [alone]


async def test_collections(ledger: World) -> None:
    written = ChaincodeCall(name=CC, collection_names=[SECRETS], no_private_reads=True)
    assert called(ledger, put_private("k")) == [written]
    assert called(ledger, put_private("k"), put("k")) == [ChaincodeCall(name=CC), written]
    own = ChaincodeCall(name=CC, key_policies=[parse_policy(ORG2)], disregard_namespace_policy=True)
    assert called(ledger, put_private("ours")) == [own]
    assert called(ledger, put_private("ours"), put_private("k", MORE)) == [
        own,
        ChaincodeCall(name=CC, collection_names=[MORE], no_private_reads=True),
    ]


@pytest.mark.parametrize(
    ("read", "counts"),
    [
        (lambda simulator: simulator.get_private_data(CC, MORE, "k"), True),
        (lambda simulator: simulator.get_private_data_multiple(CC, MORE, ["k"]), True),
        (lambda simulator: simulator.get_private_data_range(CC, MORE, "", ""), True),
        (lambda simulator: simulator.get_private_data_hash(CC, MORE, "k"), False),
    ],
)
async def test_reading_values_takes_members_of_the_collection(
    ledger: World, read: Simulation, counts: bool
) -> None:
    expected = ChaincodeCall(name=CC, collection_names=[MORE])
    touch = called(ledger, lambda simulator: simulator.get_state(CC, "k"), read)
    assert touch == [ChaincodeCall(name=CC), *([expected] if counts else [])]


async def test_a_policy_that_cannot_be_read(ledger: World) -> None:
    sets = RwSetBuilder()
    sets.add_write(CC, "bad", b"1")
    sets.add_metadata_write(CC, "bad", {"VALIDATION_PARAMETER": b"\xff"})
    await ledger.put(sets)
    with pytest.raises(LedgerError, match="policy of a key"):
        called(ledger, put("bad"))
