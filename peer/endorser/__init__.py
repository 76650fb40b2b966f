"""Proposals: how a request to simulate is made and read."""
