"""Audit a ledger that lies somewhere: ours or a Fabric peer's, with nothing but its block files."""

from peer.audit.chain import audit_chain as audit_chain
from peer.audit.chain import find_chains as find_chains
from peer.audit.scratch import final_state as final_state

__all__ = ["audit_chain", "final_state", "find_chains"]
