"""What ``ledger verify`` does: audit ledgers that lie somewhere.

Room:      peer.cli
Loop:      starts Trio
Fabric:    none; compare cmd/ledgerutil (release-2.5)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import click
import trio

from peer import logs
from peer.audit import audit_chain, final_state, find_chains
from peer.audit.report import BlockReport, ChainReport, Check, Count
from peer.cli import FAILED, USAGE
from peer.errors import LedgerStorageError
from peer.ledger.api import ValidationCode
from peer.ledger.blocks import version_bytes
from peer.ledger.offline import StateRow

COLUMNS = (
    ("link", Check.HEADER_LINK),
    ("data", Check.DATA_HASH),
    ("signed", Check.BLOCK_SIGNATURE),
    ("creators", Check.CREATOR_SIGNATURE),
    ("ids", Check.TRANSACTION_ID),
    ("proposals", Check.PROPOSAL_HASH),
    ("endorsed", Check.ENDORSEMENT),
)
ROW = "{:>8} {:>5}  {:5} {:5} {:7} {:9} {:9} {:9} {:9} {:20} {}"
HASH_DIGITS = 14


class Writer(Protocol):
    """Tells what an audit finds, as it goes on."""

    def block(self, summary: ChainReport, report: BlockReport) -> None: ...

    def state(self, channel_id: str, rows: Iterable[StateRow]) -> None: ...

    def summary(self, summary: ChainReport) -> None: ...


def verify(path: Path, *, replay: bool, as_json: bool) -> int:
    """Audit every chain at a path and return the exit code."""
    logs.configure("error", "text")
    writer: Writer = JsonWriter() if as_json else TableWriter()
    try:
        return max(_verify(chain, writer, replay=replay) for chain in find_chains(path))
    except LedgerStorageError as exc:
        click.echo(f"Error: {exc}", err=True)
        return USAGE


def _verify(chain: Path, writer: Writer, *, replay: bool) -> int:
    """Audit one chain and return the exit code."""
    with TemporaryDirectory(prefix="triopeer-audit-") as name:
        scratch = Path(name)
        audit = partial(audit_chain, chain, scratch, replay=replay, on_block=writer.block)
        report = trio.run(audit)
        if replay and report.repeated:
            writer.state(report.channel_id, final_state(scratch))
    writer.summary(report)
    return FAILED if report.difference_count else 0


class JsonWriter:
    """Writes one JSON object a line; docs/ledger.md describes them."""

    def block(self, summary: ChainReport, report: BlockReport) -> None:
        """Write a block."""
        made = {finding.check for finding in report.findings}
        self._write(
            "block",
            summary.channel_id,
            block=report.number,
            hash=report.header_hash.hex(),
            checks={check: report.count(check) for check in Check if check in made},
            commit_hash={
                "recorded": report.recorded_hash.hex(),
                "computed": report.computed_hash.hex(),
            },
            transactions=[
                {
                    "type": each.type,
                    "tx_id": each.tx_id,
                    "recorded": _name(each.recorded),
                    "computed": _name(each.computed),
                }
                for each in report.transactions
            ],
            differences=[each._asdict() for each in report.differences()],
        )

    def state(self, channel_id: str, rows: Iterable[StateRow]) -> None:
        """Write every key."""
        _write_state(channel_id, rows)

    def summary(self, summary: ChainReport) -> None:
        """Write what became of a chain."""
        self._write(
            "summary",
            summary.channel_id,
            path=str(summary.path),
            blocks=summary.blocks,
            transactions=summary.transactions,
            counts=summary.counts,
            unchecked=summary.unchecked,
            damage=summary.damage,
            differences=summary.difference_count,
            first=summary.first and summary.first._asdict(),
        )

    def _write(self, kind: str, channel_id: str, **fields: object) -> None:
        click.echo(json.dumps({"type": kind, "channel": channel_id, **fields}))


class TableWriter:
    """Writes a row for each block, what is wrong with it below it, and a summary."""

    def block(self, summary: ChainReport, report: BlockReport) -> None:
        """Write a row."""
        if summary.blocks == 1:
            click.echo(f"channel {summary.channel_id or '?'}: {summary.path}")
            titles = (title for title, _ in COLUMNS)
            click.echo(ROW.format("block", "txs", *titles, "commit hash", "verdicts"))
        cells = (_cell(report.count(check)) for _, check in COLUMNS)
        row = (report.number, len(report.transactions), *cells, _hash(report), _verdicts(report))
        click.echo(ROW.format(*row).rstrip())
        for difference in report.differences():
            click.secho(f"{'!':>8} {difference}", fg="red")

    def state(self, channel_id: str, rows: Iterable[StateRow]) -> None:
        """Write every key, each as a JSON object."""
        _write_state(channel_id, rows)

    def summary(self, summary: ChainReport) -> None:
        """Write counts and outcome."""
        counts = (f"{check} {summary.counts[check]}" for check in Check if check in summary.counts)
        click.echo(", ".join(counts))
        for note in summary.unchecked:
            click.echo(f"not checked: {note}")
        name = summary.channel_id or str(summary.path)
        amount = f"{name}: {summary.blocks} blocks, {summary.transactions} transactions"
        if summary.first is None:
            click.secho(f"{amount}, no difference", fg="green")
        else:
            differences = f"differences: {summary.difference_count}, the first"
            click.secho(f"{amount}, {differences}: {summary.first}", fg="red")


def _write_state(channel_id: str, rows: Iterable[StateRow]) -> None:
    for row in rows:
        fields = {
            "type": "state",
            "channel": channel_id,
            "namespace": row.namespace,
            "key": row.key.hex(),
            "value": (row.value or b"").hex(),
            "version": version_bytes(row.version).hex(),
            "metadata": row.metadata.hex(),
        }
        click.echo(json.dumps(fields))


def _cell(count: Count) -> str:
    return str(count) if count.passed == count.made else f"{count}!"


def _hash(report: BlockReport) -> str:
    digest = report.computed_hash.hex()[:HASH_DIGITS] or "-"
    return digest + {0: "", 1: " ok"}.get(report.count(Check.COMMIT_HASH).passed, "")


def _verdicts(report: BlockReport) -> str:
    """Return how often each verdict was given, here if anything was judged here."""
    names = Counter(
        _name(each.recorded if each.computed is None else each.computed) or "none"
        for each in report.transactions
    )
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in names.items())


def _name(code: ValidationCode | None) -> str | None:
    return None if code is None else code.name
