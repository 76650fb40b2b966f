"""Validation of transactions at commit, all but the conflicts between them."""
