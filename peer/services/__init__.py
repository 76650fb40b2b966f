"""What the peer serves: methods on typed messages, without any gRPC in them."""
