"""What a client of the network does, for calls made in this program."""
