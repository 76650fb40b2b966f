"""What blocks do to a channel, in plain Python: random blocks are held against it.

It knows no message, hash, signature or database, only what was done and what follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Version = tuple[int, int]
Metadata = Mapping[str, bytes]
Policy = tuple[int, frozenset[str]]
"""How many of these must have endorsed."""

VALID, DUPLICATE, UNENDORSED, STALE, PHANTOM, UNDEFINED = 0, 9, 10, 11, 12, 25
STRUCTURE = {
    "payload": 2, "header": 3, "epoch": 3, "nonce": 3, "creator": 4, "signature": 4, "channel": 4,
    "type": 7, "tx id": 8, "no action": 5, "two actions": 5, "proposal hash": 5,
}  # fmt: skip
"""What may be wrong with a transaction and its code, in the order of the checks."""
ACTION = {
    "extension": 19, "action": 21, "results": 22, "nameless": 255, "other name": 25,
    "no version": 25, "event": 255, "namespace twice": 23,
}  # fmt: skip
"""The same, once the ledger is known to hold no transaction of the id."""


class Key(NamedTuple):
    namespace: str
    collection: str  # empty: public
    key: str


class Held(NamedTuple):
    value: bytes
    metadata: Metadata
    version: Version


class Range(NamedTuple):
    start: str
    end: str  # empty: no end
    includes_end: bool
    found: Sequence[tuple[str, Version]]


@dataclass
class Access:
    """What a transaction does to public keys of a namespace, or to those of one collection."""

    namespace: str
    collection: str = ""
    reads: dict[str, Version | None] = field(default_factory=dict)
    ranges: list[Range] = field(default_factory=list)
    writes: dict[str, bytes] = field(default_factory=dict)  # empty: deleted
    marks: dict[str, Metadata] = field(default_factory=dict)

    def at(self, key: str) -> Key:
        return Key(self.namespace, self.collection, key)


@dataclass
class Tx:
    """A transaction; of a namespace, the public part comes first."""

    id: str  # none if it cannot be read
    called: str
    endorsers: frozenset[str]
    accesses: list[Access]
    flaws: frozenset[str] = frozenset()
    is_private_known: bool = True


class Chaincode(NamedTuple):
    policy: Policy
    collections: Mapping[str, Policy | None] | None  # None: any, without a policy of their own


@dataclass
class Channel:
    chaincodes: Mapping[str, Chaincode]
    policies: Mapping[bytes, Policy]  # what the bytes of a key's policy mean
    lifetimes: Mapping[str, int]  # of collections; others are kept
    height: int
    state: dict[Key, Held]
    values: dict[Key, Held] = field(default_factory=dict)  # private ones; state has their hashes
    origins: dict[Key, int] = field(default_factory=dict)  # the blocks that brought them
    ids: set[str] = field(default_factory=set)
    updates: dict[Key, Held] = field(default_factory=dict)  # by the last block; no value: deleted

    def commit(self, block: Sequence[Tx]) -> list[int]:
        marked: set[Key] = set()
        codes: list[int] = []
        self.updates = {}
        for tx in block:  # all of them on the state before the block
            code = self._checked(tx, marked)
            earlier = {other.id for other, its in zip(block, codes, strict=False) if its == VALID}
            codes.append(DUPLICATE if code == VALID and tx.id in earlier else code)
        for index, tx in enumerate(block):
            codes[index] = codes[index] or self._conflict(tx)
            if codes[index] == VALID:
                self._apply(tx, (self.height, index))
        for key, held in list(self.state.items()):
            lifetime = self.lifetimes.get(key.collection)
            expires = lifetime and held.version[0] + lifetime + 1 == self.height
            if expires and key not in self.updates:
                del self.state[key]
                self.values.pop(key, None)
        self.ids.update(tx.id for tx in block)
        self.height += 1
        return codes

    def _checked(self, tx: Tx, marked: set[Key]) -> int:
        found = [code for flaw, code in STRUCTURE.items() if flaw in tx.flaws]
        found += [DUPLICATE] * (tx.id in self.ids)
        found += [code for flaw, code in ACTION.items() if flaw in tx.flaws]
        if found:
            return found[0]
        written = {each.namespace for each in tx.accesses if each.writes or each.marks}
        for name in sorted(written | {tx.called}):
            accesses = [each for each in tx.accesses if each.namespace == name]
            if name not in self.chaincodes:
                return UNDEFINED
            if not all(self._endorsed(self.chaincodes[name], accesses, tx.endorsers, marked)):
                return UNENDORSED
            marked.update(each.at(key) for each in accesses for key in each.marks)
        return VALID

    def _endorsed(
        self, chaincode: Chaincode, accesses: Sequence[Access], by: frozenset[str], marked: set[Key]
    ) -> Iterator[bool]:
        keys = [each.at(key) for each in accesses for key in {**each.writes, **each.marks}]
        for key in keys:
            yield key not in marked
            policy: Policy | None = chaincode.policy
            if key.collection and chaincode.collections is not None:
                yield key.collection in chaincode.collections
                policy = chaincode.collections.get(key.collection) or policy
            if key in self.state:
                parameter = self.state[key].metadata.get("VALIDATION_PARAMETER", b"")
                policy = self.policies.get(parameter, policy)
            yield satisfies(by, policy)
        yield bool(keys) or satisfies(by, chaincode.policy)

    def _conflict(self, tx: Tx) -> int:
        for each in tx.accesses:
            for key, version in each.reads.items():
                held = self.state.get(each.at(key))
                if each.at(key) in self.updates or version != (held and held.version):
                    return STALE
            for query in each.ranges:
                if list(query.found) != self.scan(each.namespace, *query[:3]):
                    return PHANTOM
        return VALID

    def scan(
        self, namespace: str, start: str, end: str, includes_end: bool
    ) -> list[tuple[str, Version]]:
        return [
            (key.key, held.version)
            for key, held in sorted(self.state.items())
            if key[:2] == (namespace, "") and start <= key.key
            and (not end or key.key < end or (includes_end and key.key == end))
        ]  # fmt: skip

    def _apply(self, tx: Tx, version: Version) -> None:
        for each in tx.accesses:
            for key in {**each.writes, **each.marks}:
                at = each.at(key)
                held = self.state.pop(at, Held(b"", {}, version))
                value = each.writes.get(key, held.value)
                new = Held(value, each.marks.get(key, held.metadata) if value else {}, version)
                if value:
                    self.state[at] = new
                if value or key in each.writes:
                    self.updates[at] = new
                if not value or (tx.is_private_known and key in each.writes):
                    self.values.pop(at, None)
                if value and at.collection and tx.is_private_known:
                    private = self.values.get(at)
                    if key in each.writes or (private and private.value == value):
                        self.values[at] = Held(value, {}, version)
                    if key in each.writes:
                        self.origins[at] = self.height

    def rebuild(self) -> None:
        """Forget private values that live on by a mark alone: what brought them has expired."""
        for key, block in self.origins.items():
            lifetime = self.lifetimes.get(key.collection)
            if lifetime and block + lifetime + 1 < self.height:
                self.values.pop(key, None)


def satisfies(endorsers: frozenset[str], policy: Policy) -> bool:
    count, names = policy
    return len(endorsers & names) >= count
