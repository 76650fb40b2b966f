"""Which peers and orderers there are, and which peers together satisfy an endorsement policy."""
