"""Chaincode as a plain process."""
