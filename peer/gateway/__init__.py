"""The Gateway: finds endorsers and orderers for clients that know one peer only."""
