"""System chaincodes: they run inside the peer, on streams of their own."""
