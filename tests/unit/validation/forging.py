"""Transactions, right or wrong in one way each, and a channel that judges them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from fabric_protos.codec import encode
from fabric_protos.common import Block, Envelope, Header, HeaderType, Payload
from fabric_protos.kvrwset import KvRead, KvrwSet, KvWrite
from fabric_protos.lifecycle import ChaincodeEndorsementInfo, ChaincodeValidationInfo
from fabric_protos.protos import (
    ApplicationPolicy,
    ChaincodeAction,
    ChaincodeActionPayload,
    ChaincodeEndorsedAction,
    ChaincodeId,
    CollectionConfig,
    CollectionConfigPackage,
    Endorsement,
    ProposalResponsePayload,
    StaticCollectionConfig,
    TransactionAction,
)
from fabric_protos.protos import Transaction as TransactionMessage
from fabric_protos.rwset import NsReadWriteSet, TxReadWriteSet
from fabric_protos.stream import (
    ChaincodeHeaderExtension,
    ChaincodeProposalPayload,
    ChannelHeader,
    SignatureHeader,
)
from fabric_protos.stream import ChaincodeId as StreamChaincodeId
from peer.channel.channel import Channel
from peer.endorser import endorsement
from peer.ledger.api import CommittedBlock, Ledger, TxSimulator, ValidationCode
from peer.ledger.rwset import RwSetBuilder
from peer.lifecycle.state import LIFECYCLE, CommittedDefinition
from peer.msp.dsl import parse_policy
from peer.msp.identity import SigningIdentity
from peer.ordering.writer import BlockWriter
from peer.validation.committer import Committer
from peer.validation.validator import validate
from tests.unit.channel.networks import Scene

GARBAGE = b"\xff\xff\xff"
"""No message of any type."""
CHANNEL = "mychannel"
CC = "cc"
VERSION = "1.0"
PROPOSAL = ChaincodeProposalPayload(input=b"what was asked").encode()


def endorsed_by(text: str) -> bytes:
    """Return the endorsement policy of a definition, from the text of a signature policy."""
    return encode(ApplicationPolicy(signature_policy=parse_policy(text)))


def key_policy(text: str) -> dict[str, bytes]:
    """Return the metadata that gives a key a policy of its own."""
    return {"VALIDATION_PARAMETER": encode(parse_policy(text))}


def writes(key: str = "k", value: bytes = b"v", namespace: str = CC) -> RwSetBuilder:
    """Return the read-write set of one write."""
    sets = RwSetBuilder()
    sets.add_write(namespace, key, value)
    return sets


def results_of(sets: RwSetBuilder | TxSimulator | bytes) -> bytes:
    """Return public read-write sets as they are endorsed."""
    match sets:
        case bytes():
            return sets
        case RwSetBuilder():
            return sets.results().public
        case simulator:
            return simulator.get_tx_simulation_results().public


def raw_sets(*namespaces: tuple[str, bytes]) -> bytes:
    """Return read-write sets that a builder would not make."""
    sets = [NsReadWriteSet(namespace=name, rwset=rwset) for name, rwset in namespaces]
    return encode(TxReadWriteSet(ns_rwset=sets))


def key_set(*keys: KvWrite, reads: Sequence[KvRead] = ()) -> bytes:
    """Return a namespace's set as forged."""
    return encode(KvrwSet(reads=list(reads), writes=list(keys)))


@dataclass(kw_only=True)
class Forged:
    """An endorser transaction; what is not given is as it must be for the rest of it.

    Attributes:
        channel_header, signature_header, extension, data, action_header, action_payload,
            response_payload, action: the marshalled messages of each level.
        proposal: the marshalled payload of the proposal.
        tail: endorsements that come after those of the endorsers.
    """

    signer: SigningIdentity
    endorsers: Sequence[SigningIdentity] = ()
    results: RwSetBuilder | TxSimulator | bytes = b""
    name: str = CC
    version: str = VERSION
    event: bytes = b""
    proposal: bytes = PROPOSAL
    channel_id: str = CHANNEL
    type: int = HeaderType.ENDORSER_TRANSACTION
    epoch: int = 0
    nonce: bytes = field(default_factory=lambda: os.urandom(24))
    creator: bytes | None = None
    tx_id: str | None = None
    header: Header | None = None
    channel_header: bytes | None = None
    signature_header: bytes | None = None
    extension: bytes | None = None
    data: bytes | None = None
    action_header: bytes | None = None
    action_payload: bytes | None = None
    response_payload: bytes | None = None
    proposal_hash: bytes | None = None
    action: bytes | None = None
    tail: Iterable[Endorsement] = ()

    def made(self) -> bytes:
        """Return the marshalled envelope."""
        payload = self.payload()
        return encode(Envelope(payload=payload, signature=self.signer.sign(payload)))

    def payload(self) -> bytes:
        header = self.header
        if header is None:
            header = Header(
                channel_header=self._channel_header(), signature_header=self._signature_header()
            )
        return encode(Payload(header=header, data=self._data()))

    def transaction_action(self) -> TransactionAction:
        header = self.action_header
        return TransactionAction(
            header=self._signature_header() if header is None else header,
            payload=self._action_payload(),
        )

    def _channel_header(self) -> bytes:
        if self.channel_header is not None:
            return self.channel_header
        extension = self.extension
        if extension is None:
            called = StreamChaincodeId(name=self.name)
            extension = ChaincodeHeaderExtension(chaincode_id=called).encode()
        creator = self.signer.creator if self.creator is None else self.creator
        tx_id = self.tx_id
        return ChannelHeader(
            type=self.type,
            channel_id=self.channel_id,
            epoch=self.epoch,
            tx_id=sha256(self.nonce + creator).hexdigest() if tx_id is None else tx_id,
            extension=extension,
        ).encode()

    def _signature_header(self) -> bytes:
        if self.signature_header is not None:
            return self.signature_header
        creator = self.signer.creator if self.creator is None else self.creator
        return SignatureHeader(creator=creator, nonce=self.nonce).encode()

    def _data(self) -> bytes:
        if self.data is not None:
            return self.data
        return encode(TransactionMessage(actions=[self.transaction_action()]))

    def _action_payload(self) -> bytes:
        if self.action_payload is not None:
            return self.action_payload
        response = self.signed_part()
        endorsements = [endorsement.endorse(response, each) for each in self.endorsers]
        action = ChaincodeEndorsedAction(
            proposal_response_payload=response, endorsements=[*endorsements, *self.tail]
        )
        return encode(
            ChaincodeActionPayload(chaincode_proposal_payload=self.proposal, action=action)
        )

    def signed_part(self) -> bytes:
        if self.response_payload is not None:
            return self.response_payload
        proposal_hash = self.proposal_hash
        if proposal_hash is None:
            headers = self._channel_header() + (
                self._signature_header() if self.action_header is None else self.action_header
            )
            proposal_hash = sha256(headers + self.proposal).digest()
        action = self.action
        if action is None:
            action = encode(
                ChaincodeAction(
                    results=results_of(self.results),
                    events=self.event,
                    chaincode_id=ChaincodeId(name=self.name, version=self.version),
                )
            )
        return encode(ProposalResponsePayload(proposal_hash=proposal_hash, extension=action))


def definition(
    policy: bytes,
    *,
    collections: Sequence[StaticCollectionConfig] = (),
    plugin: str = "vscc",
    sequence: int = 1,
) -> CommittedDefinition:
    """Return a chaincode definition as `_lifecycle` keeps them."""
    return CommittedDefinition(
        sequence=sequence,
        endorsement=ChaincodeEndorsementInfo(version=VERSION, endorsement_plugin="escc"),
        validation=ChaincodeValidationInfo(validation_plugin=plugin, validation_parameter=policy),
        collections=CollectionConfigPackage(
            config=[CollectionConfig(static_collection_config=each) for each in collections]
        ),
    )


class World:
    """A channel of two organisations with an empty state, and its orderer.

    Attributes:
        heard: what the committer's listener heard.
    """

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        self.scene = scene
        self.ledger = ledger
        self.heard: list[CommittedBlock] = []
        self.channel = Channel(ledger, scene.bundle)
        self.committer = Committer(self.channel, self.heard.append)
        self.writer = BlockWriter(scene.orderer, scene.network.genesis_block())

    def forged(
        self, results: RwSetBuilder | TxSimulator | bytes = b"", *peers: int, name: str = CC
    ) -> Forged:
        """Return a transaction of a client of Org1, endorsed by these organisations, or by both."""
        endorsers = [self.scene.peer(index) for index in peers or (0, 1)]
        return Forged(signer=self.scene.user(0), endorsers=endorsers, results=results, name=name)

    def made(
        self, results: RwSetBuilder | TxSimulator | bytes = b"", *peers: int, name: str = CC
    ) -> bytes:
        """Return the same, marshalled."""
        return self.forged(results, *peers, name=name).made()

    def block(self, *envelopes: bytes, is_config: bool = False) -> Block:
        """Return the next block, signed by the orderer."""
        return self.writer.next_block(list(envelopes), is_config=is_config)

    async def judge(self, *envelopes: bytes) -> list[ValidationCode]:
        """Return the verdicts on a block of these that is not committed."""
        return (await validate(self.channel, self.block(*envelopes))).codes

    async def commit(self, *envelopes: bytes) -> list[ValidationCode]:
        """Take the next block of these into the channel, as if from an ordering service."""
        block = self.block(*envelopes)
        codes = (await self.committer.commit_block(block)).codes
        self.writer.written(block)
        return list(codes)

    async def put(self, sets: RwSetBuilder, *, name: str = CC) -> None:
        """Commit writes that nobody has to endorse."""
        block = self.block(self.made(sets, name=name))
        committed = await self.ledger.commit(block, [ValidationCode.VALID])
        assert committed.codes == [ValidationCode.VALID]
        self.writer.written(block)

    async def define(self, name: str, defined: CommittedDefinition) -> None:
        """Put a definition into the state."""
        await self.put(definition_writes(name, defined), name=LIFECYCLE)

    def state(self, key: str = "k", namespace: str = CC) -> bytes | None:
        """Return a committed value."""
        reader = self.ledger.new_query_executor()
        try:
            return reader.get_state(namespace, key)
        finally:
            reader.done()


def definition_writes(name: str, defined: CommittedDefinition) -> RwSetBuilder:
    """Return the writes that put a definition into the state."""
    structure = defined.structure(name)
    sets = RwSetBuilder()
    sets.add_write(LIFECYCLE, f"namespaces/metadata/{name}", structure.metadata())
    for each, value in structure.fields.items():
        sets.add_write(LIFECYCLE, f"namespaces/fields/{name}/{each}", encode(value))
    return sets
