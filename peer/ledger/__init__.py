"""Blocks and the state they lead to: what a simulation reads and a commit writes."""

from peer.ledger.joining import StagedLedger as StagedLedger
from peer.ledger.joining import remove_staged as remove_staged
from peer.ledger.joining import staged_ledger as staged_ledger
from peer.ledger.kvledger import open_ledger as open_ledger
from peer.ledger.offline import is_paused as is_paused
from peer.ledger.offline import ledger_ids as ledger_ids
from peer.ledger.offline import pause as pause
from peer.ledger.offline import public_state as public_state
from peer.ledger.offline import rebuild_databases as rebuild_databases
from peer.ledger.offline import reset as reset
from peer.ledger.offline import resume as resume
from peer.ledger.offline import rollback as rollback
from peer.ledger.offline import unjoin as unjoin

__all__ = [
    "StagedLedger",
    "is_paused",
    "ledger_ids",
    "open_ledger",
    "pause",
    "public_state",
    "rebuild_databases",
    "remove_staged",
    "reset",
    "resume",
    "rollback",
    "staged_ledger",
    "unjoin",
]
