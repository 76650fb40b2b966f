"""Channels: configuration, updates, genesis blocks, block verification, development networks."""
