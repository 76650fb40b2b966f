"""Blocks and the state they lead to: what a simulation reads and a commit writes."""

from peer.ledger.kvledger import open_ledger as open_ledger
from peer.ledger.kvledger import rebuild_databases as rebuild_databases
from peer.ledger.offline import public_state as public_state

__all__ = ["open_ledger", "public_state", "rebuild_databases"]
