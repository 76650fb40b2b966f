"""Audit one chain, block after block.

Room:      peer.audit   (imports peer.channel, peer.ledger; used by cli)
Loop:      Trio; reading, hashing and verifying in worker threads
Lifetime:  the audit of one chain; holds one block at a time
Fabric:    none

All that is asked of a chain is its block files. What signatures must satisfy is in the
configuration that the chain itself carries; what a commit hash covers comes of committing the
blocks again in a scratch ledger. So block 0 is taken at its word, and everything after it follows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from fabric_protos.common import Block, BlockData
from fabric_protos.errors import DecodeError
from fabric_protos.stream import HeaderType
from peer.audit.report import (
    BlockReport,
    ChainReport,
    Check,
    Finding,
    TransactionReport,
)
from peer.audit.scratch import Outcome, Scratch, open_scratch
from peer.audit.transactions import Opened, creator_problem, examine, open_envelope
from peer.channel import configtx
from peer.channel.bundle import Bundle
from peer.channel.configblock import bundle_of, channel_id_of
from peer.channel.verification import verify_signatures
from peer.errors import BlockRefused, LedgerCorrupt, LedgerStorageError, PeerError
from peer.ledger.api import ValidationCode
from peer.ledger.blockfile import BEGINNING, FILE_NAME, BlockFiles, Record
from peer.ledger.blocks import (
    commit_hash_of,
    data_hash,
    envelopes_of,
    flags_of,
    header_hash,
    header_of,
)
from peer.ledger.commit import Tip

UNREFUSED = (
    None,
    ValidationCode.VALID,
    ValidationCode.MVCC_READ_CONFLICT,
    ValidationCode.PHANTOM_READ_CONFLICT,
)
"""Verdicts that say nothing against a transaction itself."""


def find_chains(path: Path) -> list[Path]:
    """Return the chains at a path: it, where it is a block file, or directories that hold some.

    Raises:
        LedgerStorageError: it cannot be read, or there is no block file.
    """
    if path.is_file():
        return [path]
    found = []

    def refuse(exc: OSError) -> None:
        raise LedgerStorageError(str(exc.filename or path), exc.strerror or str(exc)) from exc

    for directory, _, names in os.walk(path, onerror=refuse):
        if any(map(FILE_NAME.fullmatch, names)):
            found.append(Path(directory))
    if not found:
        raise LedgerStorageError(str(path), "there is no block file")
    return sorted(found)


async def audit_chain(
    path: Path,
    scratch: Path,
    *,
    replay: bool = False,
    on_block: Callable[[ChainReport, BlockReport], None] = lambda summary, report: None,
) -> ChainReport:
    """Check everything in a chain that can be checked with nothing else at hand.

    Args:
        path: a block file, or the directory of several; only read.
        scratch: an empty directory, in which a ledger is made. It grows as large as the chain.
        replay: judge the transactions again, instead of taking the recorded verdicts.
        on_block: hears of each block once it has been checked, with the summary up to it.

    Raises:
        LedgerStorageError: the files cannot be read, or the scratch ledger cannot be written.

    Cancellation: between two steps; only the scratch directory has been written to.
    """
    files, summary = BlockFiles(path), ChainReport(path=path)
    end = BEGINNING
    try:
        async with AsyncExitStack() as stack:
            audit: _Audit | None = None
            records = files.scan()
            while (record := await trio.to_thread.run_sync(_next, records)) is not None:
                audit = audit or await _begin(record.block, summary, scratch, replay, stack)
                report = await audit.take(record.block)
                summary.add(report)
                on_block(summary, report)
                end = record.end
    except _Damaged as exc:
        summary.add_damage(exc.reason)
        return summary
    if torn := await trio.to_thread.run_sync(files.torn_bytes, end):
        place = f"byte {end.offset} of file {end.file}"
        summary.add_damage(f"{path}: from {place} on, {torn} bytes are no whole block")
    return summary


class _Damaged(Exception):
    """The block files are damaged elsewhere than at their end."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def _next(records: Iterator[Record]) -> Record | None:
    try:
        return next(records, None)
    except LedgerCorrupt as exc:
        raise _Damaged(f"{exc.path}: {exc.reason}") from exc


async def _begin(
    block: Block, summary: ChainReport, scratch: Path, replay: bool, stack: AsyncExitStack
) -> _Audit:
    """Make ready for a chain, by its first block."""
    try:
        summary.channel_id = channel_id_of(block)
    except PeerError as exc:
        summary.unchecked.append(f"the first block does not tell its channel: {exc}")
    audit = _Audit(summary, replay)
    number = header_of(block).number
    if number:
        summary.unchecked.append(
            f"the first block is {number}: nothing is known of what is before it, so no commit "
            "hash is computed, and no signature verified before the next configuration"
        )
    elif summary.channel_id:
        opening = open_scratch(scratch, summary.channel_id)
        audit.scratch = await stack.enter_async_context(opening)
    return audit


class _Audit:
    """What is known of a chain after some of its blocks.

    Attributes:
        scratch: where blocks are committed again; None once one could not be.
    """

    def __init__(self, summary: ChainReport, replay: bool) -> None:
        self.scratch: Scratch | None = None
        self._summary = summary
        self._replay = replay
        self._tip: Tip | None = None
        self._bundle: Bundle | None = None
        self._stopped = ""

    async def take(self, block: Block) -> BlockReport:
        """Check the next block."""
        header = header_of(block)
        report = BlockReport(number=header.number, header_hash=header_hash(header))
        await trio.to_thread.run_sync(self._check_block, report, block)
        verdicts = self._verdicts(report, block)
        outcome, stopped = await self._commit(block, verdicts)
        computed = outcome.codes if outcome and self._replay else None
        await trio.to_thread.run_sync(self._check_transactions, report, block, verdicts, computed)
        self._compare(report, block, outcome, stopped)
        self._tip = Tip(header.number, report.header_hash, header.previous_hash, b"")
        return report

    def _check_block(self, report: BlockReport, block: Block) -> None:
        """Check a block's header, and who signed it."""
        header, tip, found = header_of(block), self._tip, report.findings
        if tip is not None or not header.number:
            found.append(Finding(Check.HEADER_LINK, _link_problem(block, tip)))
        digest = data_hash(block.data or BlockData())
        problem = "" if digest == header.data_hash else _differs(header.data_hash, digest)
        found.append(Finding(Check.DATA_HASH, problem))
        if self._bundle is not None:
            try:
                verify_signatures(self._bundle, block)
                problem = ""
            except BlockRefused as exc:
                problem = exc.reason
            found.append(Finding(Check.BLOCK_SIGNATURE, problem))

    def _verdicts(self, report: BlockReport, block: Block) -> list[ValidationCode] | None:
        """Return the recorded verdicts, None where there are none or they are damaged."""
        flags, count = flags_of(block), len(envelopes_of(block))
        if len(flags) == count:
            try:
                return [ValidationCode(flag) for flag in flags]
            except ValueError as exc:
                problem = str(exc)
        else:
            problem = f"{len(flags)} are recorded for {count} transactions"
        if flags:
            report.findings.append(Finding(Check.VALIDATION_CODE, problem))
        return None

    async def _commit(
        self, block: Block, verdicts: Sequence[ValidationCode] | None
    ) -> tuple[Outcome | None, str]:
        """Commit a block again; return what came of it, or why nothing did."""
        if self.scratch is None:
            return None, ""
        number = header_of(block).number
        try:
            if self._replay:
                return await self.scratch.replay(block), ""
            if verdicts is not None:
                return await self.scratch.repeat(block, verdicts), ""
            problem = ""
            if not flags_of(block):
                self._summary.unchecked.append(
                    f"from block {number} on, no verdicts are recorded, as with an ordering "
                    "service: there is no commit hash to compute; a replay gives verdicts"
                )
        except LedgerStorageError:
            raise
        except PeerError as exc:
            problem = str(exc)
        self.scratch = None
        self._stopped = f"block {number} was not committed again"
        return None, problem

    def _check_transactions(
        self,
        report: BlockReport,
        block: Block,
        recorded: Sequence[ValidationCode] | None,
        computed: Sequence[ValidationCode] | None,
    ) -> None:
        """Check what a block holds, and follow a configuration in it."""
        for index, data in enumerate(envelopes_of(block)):
            kind, tx_id, findings = self._examine(block, data)
            told = TransactionReport(
                type=kind,
                tx_id=tx_id,
                recorded=recorded[index] if recorded else None,
                computed=computed[index] if computed else None,
            )
            report.transactions.append(told)
            if (told.computed if told.recorded is None else told.recorded) in UNREFUSED:
                report.findings += (each._replace(transaction=index) for each in findings)

    def _examine(self, block: Block, data: bytes) -> tuple[str, str, Iterator[Finding]]:
        """Return a transaction's type and id, and what makes the checks it is due."""
        try:
            opened = open_envelope(data)
        except DecodeError as exc:
            problem = f"the transaction cannot be read: {exc}"
            return "", "", iter([Finding(Check.TRANSACTION_ID, problem)])
        header = opened.channel_header
        findings: Iterator[Finding] = iter(())
        if header.type == HeaderType.ENDORSER_TRANSACTION:
            findings = examine(opened, self._bundle)
        elif header.type == HeaderType.CONFIG and len(envelopes_of(block)) == 1:
            findings = self._configure(block, opened)
        return opened.type, header.tx_id, findings

    def _configure(self, block: Block, opened: Opened) -> Iterator[Finding]:
        """Check a configuration, and let it hold from the next block on."""
        try:
            if self._bundle is None:
                self._bundle = bundle_of(self._summary.channel_id, block)
                problem = ""
            else:
                problem = creator_problem(opened, self._bundle)
                config = configtx.validate(self._bundle, opened.envelope)
                self._bundle = self._bundle.updated(config)
        except PeerError as exc:
            problem = str(exc)
        yield Finding(Check.CONFIGURATION, problem)

    def _compare(
        self, report: BlockReport, block: Block, outcome: Outcome | None, stopped: str
    ) -> None:
        """Compare what came of a block here with what it records."""
        found = report.findings
        check = Check.VALIDATION_CODE if self._replay else Check.READ_SET
        if stopped:
            found.append(Finding(check, stopped))
        if outcome is not None:
            self._summary.repeated += 1
            report.computed_hash = outcome.commit_hash
            found += _code_findings(check, report, outcome.codes)
        try:
            report.recorded_hash = commit_hash_of(block)
        except DecodeError as exc:
            found.append(Finding(Check.COMMIT_HASH, f"it cannot be read: {exc}"))
            return
        if report.recorded_hash and outcome is not None:
            same = report.recorded_hash == report.computed_hash
            problem = "" if same else _differs(report.recorded_hash, report.computed_hash)
            found.append(Finding(Check.COMMIT_HASH, problem))
        elif report.recorded_hash and self._stopped:
            found.append(Finding(Check.COMMIT_HASH, f"not computed: {self._stopped}"))


def _link_problem(block: Block, tip: Tip | None) -> str:
    header = header_of(block)
    if tip is None:
        return "block 0 refers to one before" if header.previous_hash else ""
    if header.number != tip.number + 1:
        return f"it comes after block {tip.number}"
    return "" if header.previous_hash == tip.hash else _differs(header.previous_hash, tip.hash)


def _code_findings(
    check: Check, report: BlockReport, computed: Sequence[ValidationCode]
) -> Iterator[Finding]:
    for index, (told, code) in enumerate(zip(report.transactions, computed, strict=True)):
        if told.recorded is None:
            continue
        if check is Check.READ_SET and (
            told.recorded is not ValidationCode.VALID
            or told.type != HeaderType.ENDORSER_TRANSACTION.name
        ):
            continue
        same = told.recorded is code
        problem = "" if same else f"recorded is {told.recorded.name}, computed {code.name}"
        yield Finding(check, problem, index)


def _differs(recorded: bytes, computed: bytes) -> str:
    return f"recorded is {recorded.hex() or 'none'}, computed {computed.hex() or 'none'}"
