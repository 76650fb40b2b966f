"""Give every transaction of a block its verdict, before conflicts are looked for.

Room:      peer.validation   (used by committer)
Loop:      Trio; other tasks get their turn about every two milliseconds
Lifetime:  one block
Fabric:    core/committer/txvalidator/{v20,v14}/validator.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from fabric_protos.common import Block
from fabric_protos.stream import HeaderType
from peer import logs
from peer.channel import configtx
from peer.channel.bundle import Bundle
from peer.channel.channel import Channel
from peer.errors import ConfigUpdateRefused
from peer.ledger.api import TransactionKind, ValidationCode
from peer.ledger.blocks import envelopes_of
from peer.ledger.transactions import Contents, TransactionHeader, timestamp_of
from peer.ledger.turns import Turn
from peer.validation.endorsement import Action, EndorsementCheck
from peer.validation.legacy import LegacyEndorsementCheck
from peer.validation.structure import (
    EndorserTransaction,
    Signed,
    read_signed,
    read_transaction,
)
from peer.validation.verdict import Invalid

log = logging.getLogger("peer.validation")

Code = ValidationCode


class Verdicts(NamedTuple):
    """What a block's transactions are worth before conflicts between them are looked for.

    Attributes:
        codes: one for each transaction.
        contents: what was read of those that were endorsed, by index.
        bundle: the configuration that takes effect with the block; None where it brings none.
    """

    codes: list[ValidationCode]
    contents: Mapping[int, Contents]
    bundle: Bundle | None


async def validate(channel: Channel, block: Block) -> Verdicts:
    """Judge each transaction of a block that follows the channel's last one.

    Raises:
        ConfigUpdateRefused, ChannelConfigRefused: a configuration that the ordering service let
            pass does not follow from the present one, or is not alone in its block; the channel
            cannot go on.
        LedgerError: the state is damaged; likewise.

    Cancellation: nothing has happened.
    """
    reader = channel.ledger.new_query_executor()
    try:
        rules = EndorsementCheck if channel.has_new_lifecycle else LegacyEndorsementCheck
        endorsements = rules(channel.bundle, reader)
        work = _BlockValidation(channel, endorsements)
        codes, turn = [], Turn()
        for index, data in enumerate(envelopes_of(block)):
            await turn.give_way()
            codes.append(work.verdict(index, data))
        endorsements.settle(codes)
    finally:
        reader.done()
    if work.bundle is not None and len(codes) > 1:
        raise ConfigUpdateRefused("a configuration must be alone in its block")
    return Verdicts(codes, work.contents, work.bundle)


class _BlockValidation:
    def __init__(self, channel: Channel, endorsements: EndorsementCheck) -> None:
        self.bundle: Bundle | None = None
        self.contents: dict[int, Contents] = {}
        self._channel = channel
        self._endorsements = endorsements
        self._tx_ids: set[str] = set()

    def verdict(self, index: int, data: bytes) -> ValidationCode:
        """Return the verdict on the next transaction, the one with this index."""
        tx_id = ""
        try:
            signed = read_signed(data, self._channel.bundle.msps, self._channel.channel_id)
            tx_id = signed.channel_header.tx_id
            self._check(index, signed)
        except Invalid as exc:
            with logs.bind(channel=self._channel.channel_id, tx=tx_id):
                log.warning("the transaction is not valid: %s", exc)
            return exc.code
        return Code.VALID

    def _check(self, index: int, signed: Signed) -> None:
        match signed.channel_header.type:
            case HeaderType.ENDORSER_TRANSACTION:
                self._check_transaction(index, signed)
            case HeaderType.CONFIG:
                bundle = self._channel.bundle
                self.bundle = bundle.updated(configtx.validate(bundle, signed.envelope))
            case other:
                raise Invalid(Code.UNSUPPORTED_TX_PAYLOAD, f"a transaction of type {other}")

    def _check_transaction(self, index: int, signed: Signed) -> None:
        transaction = read_transaction(signed)
        if self._channel.ledger.has_transaction(transaction.tx_id):
            raise Invalid(Code.DUPLICATE_TXID, "an earlier block has one of this id")
        action = self._endorsements.check(index, transaction)
        # Only what has passed so far takes an id.
        if transaction.tx_id in self._tx_ids and not self._endorsements.allows_same_ids:
            raise Invalid(Code.DUPLICATE_TXID, "an earlier transaction of the block has this id")
        self._tx_ids.add(transaction.tx_id)
        self.contents[index] = _contents(transaction, action)


def _contents(transaction: EndorserTransaction, action: Action) -> Contents:
    channel, data = transaction.signed.channel_header, transaction.signed.data
    header = TransactionHeader(channel.type, channel.tx_id, timestamp_of(channel), data)
    kind = TransactionKind(channel.type, f"{action.name}:{action.version}")
    return Contents(header, kind, action.sets)
