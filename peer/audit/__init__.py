"""Audit a ledger that lies somewhere: ours or a Fabric peer's, with nothing but its block files."""

from peer.audit.chain import audit_chain as audit_chain
from peer.audit.chain import find_chains as find_chains

__all__ = ["audit_chain", "find_chains"]
