"""Read what the ledger needs from the transactions of a block.

Room:      peer.ledger   (imports fabric_protos; used by validation, commit and kvledger)
Loop:      none
Lifetime:  one block
Fabric:    protoutil/{txutils,commonutils}.go, core/ledger/kvledger/txmgmt/rwsetutil (release-2.5)

A block may hold anything: what cannot be read is one transaction's problem, never the block's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from fabric_protos.codec import DecodeError, decode
from fabric_protos.common import Envelope, Payload
from fabric_protos.kvrwset import HashedRwSet, KvrwSet
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeActionPayload,
    ProposalResponsePayload,
    Transaction,
)
from fabric_protos.rwset import TxPvtReadWriteSet, TxReadWriteSet
from fabric_protos.stream import ChannelHeader, SignatureHeader
from peer.ledger.api import Timestamp, TransactionKind

log = logging.getLogger(__name__)

UNREADABLE = -1
"""The type of what is no transaction."""

PrivateSets = dict[tuple[str, str], bytes]
"""Marshalled private write sets by namespace and collection."""


class TransactionHeader(NamedTuple):
    """Who a transaction is.

    Attributes:
        type: of ``HeaderType``, or `UNREADABLE`.
        tx_id: as the ledger knows it; computed where the header is silent, as that of a
            configuration is, and empty where it cannot be.
        timestamp: the client's clock.
        data: what the envelope carries, by type.
    """

    type: int
    tx_id: str
    timestamp: Timestamp
    data: bytes


NO_HEADER = TransactionHeader(UNREADABLE, "", Timestamp(0), b"")


@dataclass(slots=True)
class CollectionSet:
    """What a transaction read and wrote in one collection.

    Attributes:
        private_hash: hash of the marshalled private write set, empty where nothing was written.
        private: the values behind the hashes, None where this peer has not got them.
    """

    name: str
    hashed: HashedRwSet
    private_hash: bytes
    private: KvrwSet | None = None


class NamespaceSet(NamedTuple):
    """What a transaction read and wrote in one namespace."""

    name: str
    public: KvrwSet
    collections: list[CollectionSet]


class Contents(NamedTuple):
    """What the ledger takes of a transaction.

    Attributes:
        sets: everything it read and wrote.
        event: what its chaincode tells, marshalled, where whoever read it has looked.
    """

    header: TransactionHeader
    kind: TransactionKind
    sets: list[NamespaceSet]
    event: bytes = b""


def timestamp_of(header: ChannelHeader) -> Timestamp:
    """Return the client's clock; zero where it gave none."""
    clock = header.timestamp
    return Timestamp(0) if clock is None else Timestamp(clock.seconds, clock.nanos)


def read_header(envelope: bytes) -> TransactionHeader:
    """Return who a transaction is; `NO_HEADER` when it cannot be read."""
    try:
        payload = decode(Payload, decode(Envelope, envelope).payload)
        if payload.header is None:
            return NO_HEADER
        header = ChannelHeader.decode(payload.header.channel_header)
        tx_id = header.tx_id
        if not tx_id:
            signer = SignatureHeader.decode(payload.header.signature_header)
            tx_id = sha256(signer.nonce + signer.creator).hexdigest()
    except DecodeError:
        return NO_HEADER
    return TransactionHeader(header.type, tx_id, timestamp_of(header), payload.data)


def read_action(data: bytes) -> ChaincodeAction | None:
    """Return what an endorser transaction did, results included; None if it has no action.

    Only the first action counts.
    """
    try:
        actions = decode(Transaction, data).actions
        action = decode(ChaincodeActionPayload, actions[0].payload).action if actions else None
        if action is None:
            return None
        response = decode(ProposalResponsePayload, action.proposal_response_payload)
        return decode(ChaincodeAction, response.extension)
    except DecodeError:
        return None


def read_sets(results: bytes) -> list[NamespaceSet]:
    """Return everything a transaction read and wrote, without private values.

    Raises:
        DecodeError: a part is no read-write set.
    """
    return [
        NamespaceSet(
            namespace.namespace,
            decode(KvrwSet, namespace.rwset),
            [
                CollectionSet(
                    collection.collection_name,
                    decode(HashedRwSet, collection.hashed_rwset),
                    collection.pvt_rwset_hash,
                )
                for collection in namespace.collection_hashed_rwset
            ],
        )
        for namespace in decode(TxReadWriteSet, results).ns_rwset
    ]


def written_collections(
    namespaces: list[NamespaceSet],
) -> Iterator[tuple[tuple[str, str], CollectionSet]]:
    """Yield namespace and collection of each private write set there must be, with its hashes."""
    for namespace in namespaces:
        for collection in namespace.collections:
            if collection.private_hash:
                yield (namespace.name, collection.name), collection


def read_private(tx_id: str, private: bytes) -> PrivateSets:
    """Return the parts of a ``TxPvtReadWriteSet``; none, with a warning, when it is unreadable."""
    try:
        return {
            (namespace.namespace, collection.collection_name): collection.rwset
            for namespace in decode(TxPvtReadWriteSet, private).ns_pvt_rwset
            for collection in namespace.collection_pvt_rwset
        }
    except DecodeError as exc:
        log.warning("transaction %s: unreadable private data is ignored: %s", tx_id, exc)
        return {}


def take_private(tx_id: str, namespaces: list[NamespaceSet], held: PrivateSets) -> PrivateSets:
    """Give the collections the private values that fit their hashes; return those taken.

    Values that do not fit, or cannot be read, count as missing: nobody's verdict may depend on
    what only some peers have.
    """
    taken: PrivateSets = {}
    for key, collection in written_collections(namespaces):
        rwset = held.get(key)
        if rwset is None or collection.private is not None:
            continue
        if sha256(rwset).digest() != collection.private_hash:
            reason = "does not fit its hash"
        else:
            try:
                collection.private = decode(KvrwSet, rwset)
                taken[key] = rwset
                continue
            except DecodeError as exc:
                reason = f"cannot be read: {exc}"
        log.warning("transaction %s: private data of %s/%s %s; ignored", tx_id, *key, reason)
    return taken
