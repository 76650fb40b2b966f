"""What a peer or orderer tells of its blocks."""
