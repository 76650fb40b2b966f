"""Blocks and the state they lead to: what a simulation reads and a commit writes."""

from peer.ledger.kvledger import open_ledger as open_ledger
from peer.ledger.kvledger import rebuild_databases as rebuild_databases

__all__ = ["open_ledger", "rebuild_databases"]
