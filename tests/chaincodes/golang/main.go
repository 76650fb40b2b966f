// Command chaincode is the behaviour of ../README.md on the official Go library.
package main

import (
	"log"
	"os"

	"github.com/hyperledger/fabric-chaincode-go/v2/shim"
)

func main() {
	log.Fatal(start(&behaviour{}))
}

// start serves when CHAINCODE_SERVER_ADDRESS is set and dials -peer.address otherwise.
func start(chaincode shim.Chaincode) error {
	address := os.Getenv("CHAINCODE_SERVER_ADDRESS")
	if address == "" {
		return shim.Start(chaincode)
	}
	server := shim.ChaincodeServer{
		CCID:     os.Getenv("CORE_CHAINCODE_ID_NAME"),
		Address:  address,
		CC:       chaincode,
		TLSProps: shim.TLSProperties{Disabled: true},
	}
	return server.Start()
}
