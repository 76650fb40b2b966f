"""Write chaincode in Python."""
