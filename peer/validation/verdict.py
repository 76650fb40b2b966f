"""A verdict against a transaction.

Room:      peer.validation   (used by everything in it)
Loop:      none
"""

from __future__ import annotations

from peer.ledger.api import ValidationCode


class Invalid(Exception):
    """A transaction is not valid; the validator turns it into the transaction's code."""

    def __init__(self, code: ValidationCode, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(code, reason)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.reason}"
