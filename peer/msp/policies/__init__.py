"""Policies over signatures: what they are, and the tree of a channel's."""

from peer.msp.policies.evaluation import Policy as Policy
from peer.msp.policies.evaluation import PrincipalSet as PrincipalSet
from peer.msp.policies.evaluation import SignedData as SignedData
from peer.msp.policies.signature import from_bytes as from_bytes
from peer.msp.policies.signature import from_envelope as from_envelope
from peer.msp.policies.tree import PolicyManager as PolicyManager

__all__ = ["Policy", "PolicyManager", "PrincipalSet", "SignedData", "from_bytes", "from_envelope"]
