"""Chaincodes as the peer sees them: launch, stream, transactions."""
