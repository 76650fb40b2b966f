"""What an audit finds.

Room:      peer.audit   (imports peer.ledger.api; used by everything in it, and by cli)
Loop:      none
Lifetime:  a report of a block until it has been told; that of a chain to the end
Fabric:    none
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from peer.ledger.api import ValidationCode


class Check(StrEnum):
    """What is checked; the value is the name of a count of passed checks."""

    BLOCK_FILES = "block files"
    HEADER_LINK = "header links"
    DATA_HASH = "data hashes"
    BLOCK_SIGNATURE = "block signatures"
    CONFIGURATION = "configurations"
    CREATOR_SIGNATURE = "creator signatures"
    TRANSACTION_ID = "transaction ids"
    PROPOSAL_HASH = "proposal hashes"
    ENDORSEMENT = "endorsements"
    READ_SET = "read sets"
    VALIDATION_CODE = "validation codes"
    COMMIT_HASH = "commit hashes"


class Count(NamedTuple):
    """How many of how many passed."""

    passed: int = 0
    made: int = 0

    def __str__(self) -> str:
        return f"{self.passed}/{self.made}" if self.made else "-"


class Finding(NamedTuple):
    """One check that was made; without a problem it passed.

    Attributes:
        transaction: index of the one it is about, None where it is about the block.
    """

    check: Check
    problem: str = ""
    transaction: int | None = None


class Difference(NamedTuple):
    """What is not as it must be, and where; the block is None where there is none to name."""

    check: Check
    block: int | None
    transaction: int | None
    problem: str

    def __str__(self) -> str:
        place = "" if self.block is None else f"block {self.block}, "
        if self.transaction is not None:
            place += f"transaction {self.transaction}, "
        return f"{place}{self.check}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionReport:
    """One transaction.

    Attributes:
        type: name of its header's type, empty where that cannot be read.
        tx_id: as its header has it.
        recorded: the verdict in the block's metadata, None where there is none.
        computed: that of the replay, None without one.
    """

    type: str
    tx_id: str
    recorded: ValidationCode | None
    computed: ValidationCode | None


@dataclass(slots=True, kw_only=True)
class BlockReport:
    """One block, with every check that was made on it.

    Attributes:
        recorded_hash, computed_hash: commit hashes; empty where there is none.
    """

    number: int
    header_hash: bytes
    recorded_hash: bytes = b""
    computed_hash: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    transactions: list[TransactionReport] = field(default_factory=list)

    def count(self, check: Check) -> Count:
        """Count the checks of one kind."""
        made = [finding.problem for finding in self.findings if finding.check is check]
        return Count(made.count(""), len(made))

    def differences(self) -> Iterator[Difference]:
        """Yield what did not pass."""
        for check, problem, transaction in self.findings:
            if problem:
                yield Difference(check, self.number, transaction, problem)


@dataclass(slots=True, kw_only=True)
class ChainReport:
    """All blocks of one chain, summed up.

    Attributes:
        channel_id: empty where no block tells.
        repeated: how many blocks were committed again.
        unchecked: why some checks were not made.
        damage: why the files end elsewhere than between two blocks; empty if they do not.
        difference_count: how many checks did not pass, that of the files included.
        first: the first of those.
    """

    path: Path
    channel_id: str = ""
    blocks: int = 0
    transactions: int = 0
    repeated: int = 0
    counts: dict[Check, Count] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    damage: str = ""
    difference_count: int = 0
    first: Difference | None = None

    def add(self, block: BlockReport) -> None:
        """Add a block's findings."""
        self.blocks += 1
        self.transactions += len(block.transactions)
        for finding in block.findings:
            passed, made = self.counts.get(finding.check, Count())
            self.counts[finding.check] = Count(passed + (not finding.problem), made + 1)
        for difference in block.differences():
            self._differ(difference)

    def add_damage(self, problem: str) -> None:
        """Add what is wrong with the files."""
        self.damage = problem
        self._differ(Difference(Check.BLOCK_FILES, None, None, problem))

    def _differ(self, difference: Difference) -> None:
        self.first = self.first or difference
        self.difference_count += 1
