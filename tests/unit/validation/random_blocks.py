"""Random blocks: what hypothesis decides of them, for the model and as signed transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple

from hypothesis import strategies as st

from fabric_protos.codec import encode
from fabric_protos.common import Envelope, HeaderType
from fabric_protos.kvrwset import (
    HashedRwSet,
    KvMetadataEntry,
    KvMetadataWrite,
    KvMetadataWriteHash,
    KvRead,
    KvReadHash,
    KvrwSet,
    KvWrite,
    KvWriteHash,
    QueryReads,
    RangeQueryInfo,
    Version,
)
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeEvent,
    ChaincodeId,
    Endorsement,
    Transaction,
)
from fabric_protos.rwset import (
    CollectionHashedReadWriteSet,
    CollectionPvtReadWriteSet,
    NsPvtReadWriteSet,
    NsReadWriteSet,
    TxPvtReadWriteSet,
    TxReadWriteSet,
)
from fabric_protos.stream import SerializedIdentity
from peer.endorser.endorsement import endorse
from peer.ledger.merkle import RangeReads
from peer.msp.dsl import parse_policy
from tests.unit.channel.networks import Scene
from tests.unit.validation import model
from tests.unit.validation.forging import (
    CHANNEL,
    GARBAGE,
    VERSION,
    Forged,
)
from tests.unit.validation.model import Access, Held, Key, Policy, Tx

ORGS = ("Org1MSP", "Org2MSP")
BOTH: Policy = (2, frozenset(ORGS))
EITHER: Policy = (1, frozenset(ORGS))
FIRST: Policy = (1, frozenset(ORGS[:1]))
SECOND: Policy = (1, frozenset(ORGS[1:]))


def text(policy: Policy) -> str:
    """Return a policy as it is written."""
    number, names = policy
    principals = ", ".join(f"'{name}.peer'" for name in sorted(names))
    return f"{'AND' if number > 1 else 'OR'}({principals})"


KEY_POLICIES = {encode(parse_policy(text(each))): each for each in (BOTH, EITHER, FIRST, SECOND)}

# What a transaction is going to be


class RangePlan(NamedTuple):
    """A query of which so many results are taken; the degree of its summary, 0 for none."""

    start: str
    end: str
    take: int
    degree: int
    is_forged: bool


@dataclass(frozen=True)
class AccessPlan:
    """What is done in one place; `zeros` are keys read as if they had version 0/0.

    A value comes with a delete mark or without.
    """

    reads: frozenset[str]
    zeros: frozenset[str]
    ranges: list[RangePlan]
    writes: dict[str, tuple[bytes, bool]]
    marks: dict[str, dict[str, bytes]]


Place = tuple[str, str]
"""A namespace, and a collection of it or nothing."""


@dataclass(frozen=True)
class Plan:
    """A transaction simulated `age` blocks before its own, under the id of one `again` before.

    Endorsements are by an organisation, each right or wrong in a way.
    """

    called: str
    accesses: dict[Place, AccessPlan]
    endorsements: list[tuple[int, str]]
    client: int
    age: int
    again: int
    flaws: frozenset[str]
    private: str


def mostly(usual: Any, unusual: st.SearchStrategy[Any], *, one_in: int) -> st.SearchStrategy[Any]:
    return st.integers(1, one_in).flatmap(
        lambda draw: unusual if draw == one_in else st.just(usual)
    )


KEYS = st.sampled_from(["a", "b"])
VALUES = st.sampled_from([(b"1", False), (b"2", False), (b"", True), (b"", False), (b"3", True)])
METADATA = st.sampled_from(
    [{}, {"n": b"m"}, {"VALIDATION_PARAMETER": b""}] * 2
    + [{"VALIDATION_PARAMETER": each} for each in KEY_POLICIES]
    + [{"A": b"", "VALIDATION_PARAMETER": each} for each in KEY_POLICIES][:1]
)
RANGES = st.builds(
    RangePlan,
    start=st.sampled_from(["", "a", "b"]),
    end=st.sampled_from(["", "b", "c", "m06", "m58"]),
    take=st.sampled_from([99, 99, 1, 2, 52]),
    degree=st.sampled_from([0, 50, 2, 3]),
    is_forged=mostly(False, st.just(True), one_in=12),
)
ACCESSES = st.builds(
    AccessPlan,
    reads=mostly(frozenset(), st.frozensets(KEYS, min_size=1, max_size=2), one_in=2),
    zeros=mostly(frozenset(), st.frozensets(KEYS, min_size=1, max_size=1), one_in=20),
    ranges=mostly([], st.lists(RANGES, min_size=1, max_size=2), one_in=2),
    writes=st.dictionaries(KEYS, VALUES, max_size=2),
    marks=mostly({}, st.dictionaries(KEYS, METADATA, min_size=1, max_size=2), one_in=3),
)
SIGNERS = st.tuples(
    st.integers(0, 1), st.sampled_from(["good", "good", "client", "corrupt", "of another"])
)
FLAWS = st.sampled_from([*model.STRUCTURE, *model.ACTION])


def plans(places: list[Place]) -> st.SearchStrategy[Plan]:
    """Return what makes transactions that meet in a few places."""
    return st.builds(
        Plan,
        called=mostly(places[0][0], st.sampled_from(["cc", "free", "old", "none"]), one_in=6),
        accesses=mostly(1, st.just(0), one_in=8).flatmap(
            lambda least: st.dictionaries(
                st.sampled_from(places), ACCESSES, min_size=least, max_size=len(places)
            )
        ),
        endorsements=mostly([(0, "good"), (1, "good")], st.lists(SIGNERS, max_size=4), one_in=4),
        client=st.integers(0, 1),
        age=st.sampled_from([0, 0, 0, 1, 2]),
        again=mostly(0, st.integers(1, 4), one_in=8),
        flaws=mostly(frozenset(), st.frozensets(FLAWS, min_size=1, max_size=2), one_in=5),
        private=st.sampled_from(["there", "there", "there", "missing", "wrong"]),
    )


def blocks(places: list[Place]) -> st.SearchStrategy[tuple[list[Plan], str]]:
    """Return what makes blocks, and tells what happens to the ledger after each."""
    return st.tuples(
        st.lists(plans(places), min_size=2, max_size=6),
        st.sampled_from(["", "", "", "reopen", "rebuild"]),
    )


def chains(*places: Place) -> st.SearchStrategy[list[tuple[list[Plan], str]]]:
    """Return what makes chains of such blocks; the chaincode of the first place is called most."""
    return st.lists(blocks(list(places)), min_size=2, max_size=8)


# What it becomes for the model


def accessed(place: Place, plan: AccessPlan, before: Mapping[Key, Held]) -> Access:
    """Simulate on a state."""
    access = Access(*place)
    for key in sorted(plan.reads | plan.zeros):
        held = before.get(access.at(key))
        access.reads[key] = (0, 0) if key in plan.zeros else held and held.version
    for start, end, take, _, is_forged in () if access.collection else plan.ranges:
        found = scan(before, access.namespace, start, end)
        is_cut = len(found) >= take
        found = found[:take]
        end = found[-1][0] if is_cut else end
        access.ranges.append(model.Range(start, end, is_cut, found[1:] if is_forged else found))
    access.writes = {key: b"" if gone else value for key, (value, gone) in plan.writes.items()}
    access.marks = dict(plan.marks)
    return access


def scan(
    state: Mapping[Key, Held], namespace: str, start: str, end: str
) -> list[tuple[str, model.Version]]:
    return sorted(
        (key.key, held.version)
        for key, held in state.items()
        if (key.namespace, key.collection) == (namespace, "")
        and start <= key.key
        and (not end or key.key < end)
    )


# What it becomes for the committer


def version(found: model.Version | None) -> Version | None:
    return None if found is None else Version(block_num=found[0], tx_num=found[1])


def reads(found: Sequence[tuple[str, model.Version | None]]) -> list[KvRead]:
    return [KvRead(key=key, version=version(each)) for key, each in found]


def entries(marks: model.Metadata) -> list[KvMetadataEntry]:
    return [KvMetadataEntry(name=name, value=value) for name, value in sorted(marks.items())]


def digest(data: str | bytes) -> bytes:
    return sha256(data.encode() if isinstance(data, str) else data).digest()


def range_info(query: model.Range, degree: int) -> RangeQueryInfo:
    info = RangeQueryInfo(
        start_key=query.start, end_key=query.end, itr_exhausted=not query.includes_end
    )
    recorded = RangeReads(degree or 999)
    for key, height in query.found:
        recorded.add(key.encode(), *height)
    match recorded.done():
        case QueryReads() as raw:
            info.raw_reads = raw
        case summary:
            info.reads_merkle_hashes = summary
    return info


def public_set(access: Access, plan: AccessPlan) -> bytes:
    return encode(
        KvrwSet(
            reads=reads(list(access.reads.items())),
            range_queries_info=[
                range_info(query, planned.degree)
                for query, planned in zip(access.ranges, plan.ranges, strict=True)
            ],
            writes=[
                KvWrite(key=key, value=value, is_delete=is_delete)
                for key, (value, is_delete) in plan.writes.items()
            ],
            metadata_writes=[
                KvMetadataWrite(key=key, entries=entries(marks))
                for key, marks in access.marks.items()
            ],
        )
    )


def collection_set(access: Access, private: bytes) -> CollectionHashedReadWriteSet:
    hashed = HashedRwSet(
        hashed_reads=[
            KvReadHash(key_hash=digest(key), version=version(read))
            for key, read in access.reads.items()
        ],
        hashed_writes=[
            KvWriteHash(
                key_hash=digest(key),
                is_delete=not value,
                value_hash=digest(value) if value else b"",
                is_purge=not value and key == "a",
            )
            for key, value in access.writes.items()
        ],
        metadata_writes=[
            KvMetadataWriteHash(key_hash=digest(key), entries=entries(marks))
            for key, marks in access.marks.items()
        ],
    )
    return CollectionHashedReadWriteSet(
        collection_name=access.collection,
        hashed_rwset=encode(hashed),
        pvt_rwset_hash=digest(private) if private else b"",
    )


def private_set(access: Access) -> bytes:
    return encode(
        KvrwSet(
            writes=[
                KvWrite(key=key, value=value, is_delete=not value)
                for key, value in access.writes.items()
            ],
            metadata_writes=[KvMetadataWrite(key=key) for key in access.marks],
        )
    )


def result_sets(tx: Tx, planned: Mapping[Place, AccessPlan]) -> tuple[TxReadWriteSet, bytes]:
    """Return the public sets of a transaction, and the private ones."""
    public, private = TxReadWriteSet(), TxPvtReadWriteSet()
    for name, group in groupby(tx.accesses, key=lambda access: access.namespace):
        sets = NsReadWriteSet(namespace=name)
        values = NsPvtReadWriteSet(namespace=name)
        for access in group:
            if not access.collection:
                sets.rwset = public_set(access, planned[name, ""])
                continue
            rwset = private_set(access)
            sets.collection_hashed_rwset.append(collection_set(access, rwset))
            if not tx.is_private_known:
                rwset = encode(KvrwSet(writes=[KvWrite(key="z", value=b"another")]))
            values.collection_pvt_rwset.append(
                CollectionPvtReadWriteSet(collection_name=access.collection, rwset=rwset)
            )
        public.ns_rwset.append(sets)
        private.ns_pvt_rwset.append(values)
    return public, encode(private)


class Forger:
    """Makes the envelopes of transactions, by a few identities."""

    def __init__(self, scene: Scene) -> None:
        self.clients = [scene.user(0), scene.user(1)]
        self.peers = [scene.peer(0), scene.peer(1)]

    def tx_id(self, client: int, serial: int) -> str:
        return sha256(nonce(serial) + self.clients[client].creator).hexdigest()

    def envelope(self, plan: Plan, client: int, serial: int, tx: Tx, sets: TxReadWriteSet) -> bytes:
        signer, flaws = self.clients[client], tx.flaws
        action = ChaincodeAction(
            results=GARBAGE if "results" in flaws else encode(doubled(sets, flaws)),
            chaincode_id=None
            if "nameless" in flaws
            else ChaincodeId(name=tx.called, version="" if "no version" in flaws else VERSION),
            events=encode(ChaincodeEvent(chaincode_id="another")) if "event" in flaws else b"",
        )
        forged = Forged(
            signer=signer,
            name="another" if "other name" in flaws else tx.called,
            action=GARBAGE if "action" in flaws else encode(action),
            nonce=nonce(serial),
            tx_id=tx.id,
            epoch=int("epoch" in flaws),
            channel_id="another" if "channel" in flaws else CHANNEL,
            type=HeaderType.CONFIG_UPDATE if "type" in flaws else HeaderType.ENDORSER_TRANSACTION,
        )
        if "nonce" in flaws:
            forged.nonce = b""
        if "creator" in flaws:
            forged.creator = SerializedIdentity(mspid="Org3MSP", id_bytes=b"nobody").encode()
        if "header" in flaws:
            forged.channel_header = GARBAGE
        if "extension" in flaws:
            forged.extension = GARBAGE
        if "proposal hash" in flaws:
            forged.proposal_hash = digest("another")
        forged.tail = [self.endorsement(forged.signed_part(), *each) for each in plan.endorsements]
        if "no action" in flaws:
            forged.data = encode(Transaction())
        elif "two actions" in flaws:
            forged.data = encode(Transaction(actions=[forged.transaction_action()] * 2))
        payload = GARBAGE if "payload" in flaws else forged.payload()
        signed = b"another" if "signature" in flaws else payload
        return encode(Envelope(payload=payload, signature=signer.sign(signed)))

    def endorsement(self, response: bytes, organisation: int, kind: str) -> Endorsement:
        signer = (self.clients if kind == "client" else self.peers)[organisation]
        made = endorse(b"another" if kind == "of another" else response, signer)
        if kind == "corrupt":
            made.signature = GARBAGE
        return made


def nonce(serial: int) -> bytes:
    return serial.to_bytes(24)


def doubled(sets: TxReadWriteSet, flaws: frozenset[str]) -> TxReadWriteSet:
    if "namespace twice" not in flaws:
        return sets
    return TxReadWriteSet(ns_rwset=[NsReadWriteSet(namespace="cc")] * 2)
