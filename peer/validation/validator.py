"""Give every transaction of a block its verdict, before conflicts are looked for.

Room:      peer.validation   (used by committer)
Loop:      Trio; other tasks get their turn about every two milliseconds
Lifetime:  one block
Fabric:    core/committer/txvalidator/{v20,v14}/validator.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice, starmap
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
from peer.validation.structure import EndorserTransaction, Signed, read_signed, read_transaction
from peer.validation.verdict import Invalid

log = logging.getLogger("peer.validation")

Code = ValidationCode

TOGETHER = 32
"""Transactions that go through each step together. It takes a CPU a fifth less than all steps of
one and then of the next: its caches hold the code of one step, and not that of all."""


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
        codes: list[ValidationCode] = []
        entries = starmap(_Entry, enumerate(envelopes_of(block)))
        while together := list(islice(entries, TOGETHER)):
            await work.judge(together)
            codes += (each.code for each in together)
        endorsements.settle(codes)
    finally:
        reader.done()
    if work.bundle is not None and len(codes) > 1:
        raise ConfigUpdateRefused("a configuration must be alone in its block")
    return Verdicts(codes, work.contents, work.bundle)


class _Entry:
    """A transaction on the way to its verdict; each step reads more of it, or judges it."""

    __slots__ = ("action", "code", "data", "index", "is_judged", "signed", "transaction", "tx_id")
    signed: Signed
    transaction: EndorserTransaction
    action: Action

    def __init__(self, index: int, data: bytes) -> None:
        self.index = index
        self.data = data
        self.tx_id = ""
        self.code = Code.VALID
        self.is_judged = False


class _BlockValidation:
    def __init__(self, channel: Channel, endorsements: EndorsementCheck) -> None:
        self.bundle: Bundle | None = None
        self.contents: dict[int, Contents] = {}
        self._channel = channel
        self._endorsements = endorsements
        self._tx_ids: set[str] = set()
        self._turn = Turn()

    async def judge(self, entries: Sequence[_Entry]) -> None:
        """Give the next transactions their codes."""
        steps = (
            self._judge_envelope,
            self._judge_transaction,
            self._judge_action,
            self._judge_endorsements,
        )
        for step in steps:
            for each in entries:
                if each.is_judged:
                    continue
                await self._turn.give_way()
                try:
                    step(each)
                except Invalid as exc:
                    self._refuse(each, exc)

    def _refuse(self, entry: _Entry, verdict: Invalid) -> None:
        entry.code, entry.is_judged = verdict.code, True
        with logs.bind(channel=self._channel.channel_id, tx=entry.tx_id):
            log.warning("the transaction is not valid: %s", verdict)

    def _judge_envelope(self, entry: _Entry) -> None:
        """Judge its headers, and whether it is by whom it claims to be."""
        channel = self._channel
        entry.signed = read_signed(entry.data, channel.bundle.msps, channel.channel_id)
        entry.tx_id = entry.signed.channel_header.tx_id

    def _judge_transaction(self, entry: _Entry) -> None:
        """Judge one by its type: what was endorsed goes on if its id is new to the channel, a
        configuration that is valid takes effect with the block."""
        match entry.signed.channel_header.type:
            case HeaderType.ENDORSER_TRANSACTION:
                entry.transaction = read_transaction(entry.signed)
                if self._channel.ledger.has_transaction(entry.tx_id):
                    raise Invalid(Code.DUPLICATE_TXID, "an earlier block has one of this id")
            case HeaderType.CONFIG:
                bundle = self._channel.bundle
                self.bundle = bundle.updated(configtx.validate(bundle, entry.signed.envelope))
                entry.is_judged = True
            case other:
                raise Invalid(Code.UNSUPPORTED_TX_PAYLOAD, f"a transaction of type {other}")

    def _judge_action(self, entry: _Entry) -> None:
        """Judge the form of what was endorsed."""
        entry.action = self._endorsements.read(entry.transaction)

    def _judge_endorsements(self, entry: _Entry) -> None:
        """Judge who endorsed it, and whether its id is new to the block."""
        self._endorsements.check(entry.index, entry.transaction, entry.action)
        # Only what has passed so far takes an id.
        if entry.tx_id in self._tx_ids and not self._endorsements.allows_same_ids:
            raise Invalid(Code.DUPLICATE_TXID, "an earlier transaction of the block has this id")
        self._tx_ids.add(entry.tx_id)
        self.contents[entry.index] = _contents(entry.transaction, entry.action)


def _contents(transaction: EndorserTransaction, action: Action) -> Contents:
    channel, data = transaction.signed.channel_header, transaction.signed.data
    header = TransactionHeader(channel.type, channel.tx_id, timestamp_of(channel), data)
    kind = TransactionKind(channel.type, f"{action.name}:{action.version}")
    return Contents(header, kind, action.sets, action.event)
