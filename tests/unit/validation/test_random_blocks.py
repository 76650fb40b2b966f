"""Random blocks of signed transactions through the whole committer, held against a model.

``PEER_TEST_CHAINS`` tells how many chains each test makes. A chain has up to eight blocks of up to
six transactions, and between two of them the ledger may be opened again, or made again.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, closing
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import HealthCheck, event, given, settings

from fabric_protos.codec import encode
from fabric_protos.kvrwset import KvMetadataWrite
from fabric_protos.protos import ApplicationPolicy, ChaincodeData, StaticCollectionConfig
from peer.ledger import open_ledger, rebuild_databases
from peer.ledger.api import CollectionPolicy, Ledger, ValidationCode
from peer.ledger.blocks import commit_hash_of, flags_of
from peer.ledger.home import DATABASE
from peer.ledger.rwset import RwSetBuilder
from peer.lifecycle.state import LSCC
from peer.msp.dsl import parse_policy
from peer.ordering.writer import BlockWriter
from tests.unit.channel.networks import Scene
from tests.unit.validation.forging import CHANNEL, World, definition, endorsed_by, writes
from tests.unit.validation.model import Chaincode, Channel, Held, Key, Tx
from tests.unit.validation.random_blocks import (
    BOTH,
    EITHER,
    FIRST,
    KEY_POLICIES,
    ORGS,
    SECOND,
    Forger,
    Place,
    Plan,
    accessed,
    chains,
    digest,
    entries,
    result_sets,
    text,
)

COUNT = int(os.environ.get("PEER_TEST_CHAINS", "18"))
CHAINCODES = {
    "cc": Chaincode(BOTH, {"brief": None, "own": FIRST}),
    "free": Chaincode(EITHER, {}),
    "old": Chaincode(SECOND, None),
}
LIFETIMES = {"brief": 1}
MANY = [f"m{number:02}" for number in range(60)]
"""Keys that are there from the beginning, enough for the summaries that peers make."""

Row = tuple[str, bytes, bytes, bytes, int, int]


def opened(directory: Path) -> AbstractAsyncContextManager[Ledger]:
    return open_ledger(
        directory,
        CHANNEL,
        policies=lambda _, collection: CollectionPolicy(LIFETIMES.get(collection, 0)),
    )


class Start:
    """A ledger that holds the chaincodes and the first keys, and what the model has of it."""

    def __init__(self, directory: Path, height: int, forger: Forger) -> None:
        self.directory = directory
        self.height = height
        self.state = {Key("free", "", key): Held(b"0", {}, (height - 1, 0)) for key in MANY}
        self.forger = forger


@pytest.fixture(scope="module")
def start(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Start:
    directory = tmp_path_factory.mktemp("start")

    async def prepare() -> int:
        async with opened(directory) as ledger:
            await ledger.commit(scene.network.genesis_block(), [ValidationCode.VALID])
            world = World(scene, ledger)
            for name, (policy, collections) in CHAINCODES.items():
                if collections is None:
                    signature = parse_policy(text(policy))
                    data = ChaincodeData(name=name, vscc="vscc", policy=signature)
                    await world.put(writes(name, encode(data), LSCC), name=LSCC)
                    continue
                configs = [StaticCollectionConfig(name=each) for each in collections]
                for config, own in zip(configs, collections.values(), strict=True):
                    if own is not None:
                        config.endorsement_policy = ApplicationPolicy(
                            signature_policy=parse_policy(text(own))
                        )
                defined = definition(endorsed_by(text(policy)), collections=configs)
                await world.define(name, defined)
            sets = RwSetBuilder()
            for key in MANY:
                sets.add_write("free", key, b"0")
            await world.put(sets)
            return ledger.height

    return Start(directory, trio.run(prepare), Forger(scene))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Most of the transactions are a reason to warn."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


class Chain:
    """A copy of the start, and the model beside it."""

    def __init__(self, scene: Scene, start: Start, directory: Path) -> None:
        self.scene = scene
        self.forger = start.forger
        self.directory = directory
        self.first = start.height
        self.model = Channel(CHAINCODES, KEY_POLICIES, LIFETIMES, start.height, dict(start.state))
        self.states = [self.model.state.copy()]
        self.codes: list[bytes] = []
        self.names: list[tuple[int, int]] = []
        shutil.copytree(start.directory, directory, dirs_exist_ok=True)

    async def run(self, chain: Sequence[tuple[Sequence[Plan], str]]) -> None:
        left = [*chain, ([], "reopen"), ([], "rebuild"), ([], "")]
        while left:
            async with opened(self.directory) as ledger:
                world = World(self.scene, ledger)
                last = await ledger.block_by_number(ledger.height - 1)
                assert last is not None
                world.writer = BlockWriter(self.scene.orderer, last)
                await self.compare_blocks(ledger)
                self.compare_state()
                after = ""
                while left and not after:
                    plans, after = left.pop(0)
                    if plans:
                        await self.commit(world, plans, commit_hash_of(last))
                        last = await ledger.block_by_number(ledger.height - 1)
                        assert last is not None
                        self.compare_state()
            if after == "rebuild":
                await rebuild_databases(self.directory, CHANNEL)
                self.model.rebuild()

    async def commit(self, world: World, plans: Sequence[Plan], previous: bytes) -> None:
        envelopes, private, block = [], {}, []
        for index, plan in enumerate(plans):
            client, serial = self.named(plan)
            tx = self.transaction(plan, client, serial, is_first=not index)
            sets, private[index] = result_sets(tx, plan.accesses)
            if plan.private == "missing":
                del private[index]
            envelopes.append(self.forger.envelope(plan, client, serial, tx, sets))
            block.append(tx)
        made = world.block(*envelopes)
        committed = await world.committer.commit_block(made, private)
        world.writer.written(made)
        codes = self.model.commit(block)
        assert list(committed.codes) == codes
        for code in codes:
            event(ValidationCode(code).name)
        assert commit_hash_of(committed.block) == commit_hash(codes, self.model.updates, previous)
        self.codes.append(bytes(codes))
        self.states.append(self.model.state.copy())

    def named(self, plan: Plan) -> tuple[int, int]:
        """Return client and serial number, which make the id of a transaction."""
        if plan.again and self.names:
            name = self.names[-min(plan.again, len(self.names))]
        else:
            name = plan.client, len(self.names)
        self.names.append(name)
        return name

    def transaction(self, plan: Plan, client: int, serial: int, *, is_first: bool) -> Tx:
        flaws = plan.flaws
        if is_first:  # it tells the channel of the block, without which the block is refused
            flaws -= {"payload", "header", "channel"}
        before = self.states[max(0, len(self.states) - 1 - plan.age)]
        claimed = self.forger.tx_id(client, serial + ("tx id" in flaws))
        accesses = [accessed(*each, before) for each in plan.accesses.items()]
        places = list(dict.fromkeys(each.namespace for each in accesses))
        return Tx(
            id="" if flaws & {"payload", "header"} else claimed,
            called=plan.called,
            endorsers=frozenset(ORGS[who] for who, kind in plan.endorsements if kind == "good"),
            accesses=sorted(
                accesses, key=lambda each: (places.index(each.namespace), each.collection != "")
            ),
            flaws=flaws,
            is_private_known=plan.private == "there",
        )

    async def compare_blocks(self, ledger: Ledger) -> None:
        for number, codes in enumerate(self.codes, self.first):
            block = await ledger.block_by_number(number)
            assert block is not None
            assert flags_of(block) == codes

    def compare_state(self) -> None:
        found, private = self.stored()
        expected = [public_row(key, held) for key, held in self.model.state.items()]
        assert found == sorted(expected)
        # A value is there for whoever reads it as long as its version is that of its hash.
        hashes = {(row[0], row[1]): row for row in found}
        readable = []
        for namespace, key, *rest in private:
            row = hashes[namespace.replace("$$p", "$$h"), digest(key)]
            if row[4:] == tuple(rest[2:]):
                readable.append((namespace, key, *rest))
        assert readable == sorted(
            private_row(key, held)
            for key, held in self.model.values.items()
            if held.version == self.model.state[key].version
        )

    def stored(self) -> tuple[list[Row], list[Row]]:
        """Return the chaincodes' state, and the private values, below every check."""
        query = "SELECT namespace, key, value, metadata, block, tx FROM state"
        with closing(sqlite3.connect(self.directory / CHANNEL / DATABASE)) as database:
            rows = sorted(database.execute(query))
        rows = [row for row in rows if row[0].partition("$$")[0] in (*CHAINCODES, "none")]
        is_private = ["$$p" in row[0] for row in rows]
        return (
            [row for row, hidden in zip(rows, is_private, strict=True) if not hidden],
            [row for row, hidden in zip(rows, is_private, strict=True) if hidden],
        )


def public_row(key: Key, held: Held) -> Row:
    metadata = encode(KvMetadataWrite(entries=entries(held.metadata))) if held.metadata else b""
    if not key.collection:
        return key.namespace, key.key.encode(), held.value, metadata, *held.version
    namespace = f"{key.namespace}$$h{key.collection}"
    return namespace, digest(key.key), digest(held.value), metadata, *held.version


def private_row(key: Key, held: Held) -> Row:
    return (
        f"{key.namespace}$$p{key.collection}",
        key.key.encode(),
        held.value,
        b"",
        *held.version,
    )


def commit_hash(codes: Sequence[int], updates: Mapping[Key, Held], previous: bytes) -> bytes:
    """Return what follows from verdicts and changes, encoded by hand."""

    def told(number: int, data: bytes) -> bytes:
        assert len(data) < 128
        return bytes([number << 3 | 2, len(data)]) + data if data else b""

    rows = [(public_row(key, held)[:2], key, held) for key, held in updates.items()]
    rows.sort(key=lambda row: (row[1].namespace, row[1].collection, row[0]))
    written = b""
    for namespace, of_namespace in groupby(rows, key=lambda row: row[1].namespace):
        first = namespace
        for collection, of_collection in groupby(of_namespace, key=lambda row: row[1].collection):
            told_collection = collection
            for (_, name), _, held in of_collection:
                value = digest(held.value) if collection and held.value else held.value
                height = b"".join(bytes([1, n]) if n else b"\0" for n in held.version)
                written += told(
                    1,
                    told(1, first.encode())
                    + told(2, told_collection.encode())
                    + told(3, name)
                    + (b"" if value else b"\x20\x01")
                    + told(5, value)
                    + told(6, height),
                )
                first = told_collection = ""
    return digest(bytes([len(codes), *codes]) + written + previous)


@pytest.mark.parametrize(
    "places",
    [
        [("free", "")],
        [("cc", ""), ("free", "")],
        [("cc", "brief")],
        [("cc", "own"), ("cc", "")],
        [("old", "any"), ("old", "")],
        [("cc", ""), ("cc", "brief"), ("cc", "gone"), ("none", "")],
    ],
    ids=["either", "both", "expiring", "own policy", "legacy", "undefined"],
)
def test_blocks_do_what_the_model_says(scene: Scene, start: Start, places: list[Place]) -> None:
    @settings(
        max_examples=COUNT,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(chains(*places))
    def check(chain: list[tuple[list[Plan], str]]) -> None:
        with TemporaryDirectory() as directory:
            trio.run(Chain(scene, start, Path(directory)).run, chain)

    check()
