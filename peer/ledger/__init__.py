"""State, versions and history: what a simulation reads and a commit writes."""

from peer.ledger.kvledger import open_ledger as open_ledger

__all__ = ["open_ledger"]
