"""Chaincode in containers: what the Docker and the Podman backend share."""
