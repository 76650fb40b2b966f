"""Check that those who had to have endorsed a transaction's writes.

Room:      peer.validation   (used by validator)
Loop:      none; verifies a signature for each endorsement, about 0.1 ms
Lifetime:  one block
Fabric:    core/committer/txvalidator/v20/plugindispatcher/dispatcher.go,
           core/handlers/validation/builtin/v20, .../statebased (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

from fabric_protos.codec import decode
from fabric_protos.errors import DecodeError
from fabric_protos.protos import ChaincodeAction
from fabric_protos.stream import ChaincodeEvent, ChaincodeHeaderExtension
from peer.channel.bundle import Bundle
from peer.errors import PolicyNotSatisfied
from peer.ledger.api import QueryExecutor, ValidationCode
from peer.ledger.transactions import NamespaceSet, read_sets
from peer.msp.policies import Policy, SignedData
from peer.validation.definitions import Definitions, EndorsementRules, key_policy
from peer.validation.structure import EndorserTransaction
from peer.validation.verdict import Invalid

Code = ValidationCode

VALIDATION_PARAMETER = "VALIDATION_PARAMETER"


class Key(NamedTuple):
    """A key that a transaction writes; `collection` is empty, or `key` is the hash of one there."""

    namespace: str
    collection: str
    key: str | bytes


class Action(NamedTuple):
    """What was endorsed: which chaincode did what, and its marshalled event."""

    name: str
    version: str
    sets: list[NamespaceSet]
    event: bytes


def read_action(
    transaction: EndorserTransaction,
    *,
    mismatch: Code = Code.INVALID_CHAINCODE,
    checks_event: bool = True,
) -> Action:
    """Read what was endorsed.

    Args:
        mismatch: the code where another chaincode was called than endorsed.
        checks_event: an event must be one of the chaincode.

    Raises:
        Invalid: it cannot be read, or does not fit the header.
    """
    try:
        header = transaction.signed.channel_header
        called = ChaincodeHeaderExtension.decode(header.extension).chaincode_id
    except DecodeError as exc:
        raise Invalid(Code.BAD_HEADER_EXTENSION, str(exc)) from exc
    try:
        action = decode(ChaincodeAction, transaction.extension)
    except DecodeError as exc:
        raise Invalid(Code.BAD_RESPONSE_PAYLOAD, str(exc)) from exc
    try:
        sets = read_sets(action.results)
    except DecodeError as exc:
        raise Invalid(Code.BAD_RWSET, str(exc)) from exc
    if called is None or action.chaincode_id is None:
        raise Invalid(Code.INVALID_OTHER_REASON, "the chaincode's id is missing")
    name, version = action.chaincode_id.name, action.chaincode_id.version
    if not name or called.name != name:
        raise Invalid(mismatch, f"{called.name!r} was called, {name!r} endorsed")
    if not version:
        raise Invalid(mismatch, f"{name}: the version is empty")
    if checks_event:
        _check_event(action.events, name)
    names = [each.name for each in sets]
    if len(set(names)) != len(names):
        raise Invalid(Code.ILLEGAL_WRITESET, "a namespace stands there twice")
    return Action(name=name, version=version, sets=sets, event=action.events)


def _check_event(event: bytes, name: str) -> None:
    if not event:
        return
    try:
        chaincode_id = ChaincodeEvent.decode(event).chaincode_id
    except DecodeError as exc:
        raise Invalid(Code.INVALID_OTHER_REASON, f"its event cannot be read: {exc}") from exc
    if chaincode_id != name:
        raise Invalid(Code.INVALID_OTHER_REASON, f"an event of {chaincode_id!r}, not of {name!r}")


class EndorsementCheck:
    """Checks the endorsements of one block's transactions, in their order.

    A transaction that changes the policy of a key decides on later ones of the block, so the
    order matters.

    Attributes:
        allows_same_ids: several transactions of a block may have one id.
    """

    allows_same_ids = False

    def __init__(self, bundle: Bundle, reader: QueryExecutor) -> None:
        self._bundle = bundle
        self._reader = reader
        self._definitions = Definitions(bundle, reader)
        self._changed: set[Key] = set()

    def read(self, transaction: EndorserTransaction) -> Action:
        """Read what was endorsed, see `read_action`; depends on no other transaction."""
        return read_action(transaction)

    def check(self, index: int, transaction: EndorserTransaction, action: Action) -> None:
        """Check a transaction, which has this index in its block and did this.

        Raises:
            Invalid: what it did is not endorsed as it had to be.
            LedgerError: the state is damaged, or asks for what this peer does not have; the
                channel cannot go on.
        """
        written = {each.name: each for each in action.sets if writes(each)}
        signatures = endorsements_of(transaction)
        for name in sorted(written.keys() | {action.name}):
            rules = self._definitions.rules(name)
            self._check_namespace(rules, written.get(name), Evaluation(signatures))
            self._take(written.get(name))

    def settle(self, codes: list[Code]) -> None:
        """Change the verdicts on transactions that others of the block make invalid."""

    def _take(self, written: NamespaceSet | None) -> None:
        """Remember whose policies a transaction changes in a namespace where it is endorsed."""
        if written is not None:
            self._changed.update(_metadata_keys(written))

    def _check_namespace(
        self, rules: EndorsementRules, written: NamespaceSet | None, evaluation: Evaluation
    ) -> None:
        for key in () if written is None else self._keys(written):
            if key in self._changed:
                raise Invalid(
                    Code.ENDORSEMENT_POLICY_FAILURE,
                    f"an earlier transaction of the block changes the policy of {key}",
                )
            if parameter := self._metadata(key).get(VALIDATION_PARAMETER):
                evaluation.require(key_policy(self._bundle, parameter))
            elif key.collection:
                evaluation.require(self._definitions.collection_policy(rules, key.collection))
            else:
                evaluation.require(rules.policy)
        if not evaluation.satisfied:
            evaluation.require(rules.policy)

    def _keys(self, written: NamespaceSet) -> Iterator[Key]:
        """Yield the keys written; where none can have a policy of its own, one stands for all."""
        for collection, keys in _written_keys(written):
            has_own = self._changed or self._reader.has_metadata(written.name, collection)
            yield from keys if has_own else islice(keys, 1)

    def _metadata(self, key: Key) -> Mapping[str, bytes]:
        if isinstance(key.key, str):
            return self._reader.get_state_metadata(key.namespace, key.key)
        return self._reader.get_private_data_metadata_by_hash(
            key.namespace, key.collection, key.key
        )


class Evaluation:
    """The policies that one set of signatures had to satisfy so far, each asked once."""

    def __init__(self, signatures: list[SignedData]) -> None:
        self._signatures = signatures
        self.satisfied: set[Policy] = set()

    def require(self, policy: Policy) -> None:
        if policy in self.satisfied:
            return
        try:
            policy.evaluate(self._signatures)
        except PolicyNotSatisfied as exc:
            raise Invalid(Code.ENDORSEMENT_POLICY_FAILURE, str(exc)) from exc
        self.satisfied.add(policy)


def endorsements_of(transaction: EndorserTransaction) -> list[SignedData]:
    """Return the endorsements with what each of them covers."""
    return [
        SignedData(transaction.response_payload + each.endorser, each.endorser, each.signature)
        for each in transaction.endorsements
    ]


def writes(namespace: NamespaceSet) -> bool:
    """Tell whether a transaction writes to a namespace or one of its collections."""
    public = namespace.public
    return bool(public.writes or public.metadata_writes) or any(
        each.hashed.hashed_writes or each.hashed.metadata_writes for each in namespace.collections
    )


def _written_keys(namespace: NamespaceSet) -> Iterator[tuple[str, Iterator[Key]]]:
    """Yield the keys written by collection, in the order in which a Fabric peer looks at them."""
    name, public = namespace.name, namespace.public
    keys = chain(
        (write.key for write in public.writes),
        (write.key for write in public.metadata_writes),
    )
    yield "", map(partial(Key, name, ""), keys)
    for collection in namespace.collections:
        hashed = collection.hashed
        hashes = chain(
            (write.key_hash for write in hashed.hashed_writes),
            (write.key_hash for write in hashed.metadata_writes),
        )
        yield collection.name, map(partial(Key, name, collection.name), hashes)


def _metadata_keys(namespace: NamespaceSet) -> Iterator[Key]:
    name = namespace.name
    yield from (Key(name, "", write.key) for write in namespace.public.metadata_writes)
    for each in namespace.collections:
        yield from (Key(name, each.name, write.key_hash) for write in each.hashed.metadata_writes)
