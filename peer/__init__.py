"""A Hyperledger-Fabric-compatible peer on Trio."""
