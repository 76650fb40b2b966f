package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/hyperledger/fabric-chaincode-go/v2/shim"
	"github.com/hyperledger/fabric-protos-go-apiv2/ledger/queryresult"
	"github.com/hyperledger/fabric-protos-go-apiv2/msp"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// listLimit is the number of records up to which a range is listed in full.
const listLimit = 10

type behaviour struct{}

type function func(stub shim.ChaincodeStubInterface, args []string) ([]byte, error)

var functions = map[string]function{
	"noop":            noop,
	"put":             put,
	"get":             get,
	"gets":            gets,
	"del":             del,
	"fill":            fill,
	"range":           stateRange,
	"range_page":      rangePage,
	"page_then_put":   pageThenPut,
	"composite_put":   compositePut,
	"composite_range": compositeRange,
	"history":         history,
	"event":           event,
	"big":             big,
	"big_get":         bigGet,
	"throw":           throw,
	"sleep":           sleep,
	"private_put":     privatePut,
	"private_get":     privateGet,
	"private_del":     privateDel,
	"private_hash":    privateHash,
	"metadata_put":    metadataPut,
	"metadata_get":    metadataGet,
	"creator":         creator,
	"transient":       transient,
	"txid":            txID,
	"channel":         channel,
	"timestamp":       timestamp,
	"args":            arguments,
}

func (*behaviour) Init(stub shim.ChaincodeStubInterface) *peer.Response {
	if name, args := stub.GetFunctionAndParameters(); name == "fail" {
		return fail(args)
	}
	return respond(nil, stub.PutState("init", encode(stub.GetStringArgs())))
}

func (*behaviour) Invoke(stub shim.ChaincodeStubInterface) *peer.Response {
	name, args := stub.GetFunctionAndParameters()
	switch name {
	case "call":
		return call(stub, args)
	case "fail":
		return fail(args)
	}
	run, known := functions[name]
	if !known {
		return shim.Error("unknown function: " + name)
	}
	return respond(run(stub, args))
}

func respond(payload []byte, err error) *peer.Response {
	if err != nil {
		return shim.Error(err.Error())
	}
	return shim.Success(payload)
}

func fail(args []string) *peer.Response {
	status := shim.ERROR
	if len(args) > 1 {
		status = number(args[1])
	}
	return &peer.Response{Status: int32(status), Message: args[0]}
}

func call(stub shim.ChaincodeStubInterface, args []string) *peer.Response {
	response := stub.InvokeChaincode(args[0], stub.GetArgs()[3:], args[1])
	if response.Status < shim.ERRORTHRESHOLD {
		return shim.Success(response.Payload)
	}
	text := response.Message
	if text == "" { // the library puts the text of a refused call into the payload
		text = string(response.Payload)
	}
	return shim.Error(fmt.Sprintf("call returned %d: %s", response.Status, text))
}

func noop(shim.ChaincodeStubInterface, []string) ([]byte, error) {
	return nil, nil
}

func put(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	return nil, stub.PutState(args[0], []byte(args[1]))
}

func get(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	return stub.GetState(args[0])
}

func gets(stub shim.ChaincodeStubInterface, args []string) (value []byte, err error) {
	for range number(args[0]) {
		if value, err = stub.GetState(args[1]); err != nil {
			return nil, err
		}
	}
	return value, nil
}

func del(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	return nil, stub.DelState(args[0])
}

func fill(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	for i := range number(args[0]) {
		if err := stub.PutState(fmt.Sprintf("k%03d", i), fmt.Appendf(nil, "v%03d", i)); err != nil {
			return nil, err
		}
	}
	return []byte(args[0]), nil
}

func stateRange(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	results, err := stub.GetStateByRange(args[0], args[1])
	if err != nil {
		return nil, err
	}
	records, err := collect(results)
	if err != nil {
		return nil, err
	}
	if len(records) > listLimit {
		return encode(summarise(records)), nil
	}
	list := [][]string{}
	for _, record := range records {
		list = append(list, []string{record.Key, string(record.Value)})
	}
	return encode(list), nil
}

func rangePage(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	results, page, err := stub.GetStateByRangeWithPagination(args[0], args[1], int32(number(args[2])), args[3])
	if err != nil {
		return nil, err
	}
	records, err := collect(results)
	if err != nil {
		return nil, err
	}
	return encode(struct {
		summary
		Fetched  int32  `json:"fetched"`
		Bookmark string `json:"bookmark"`
	}{summarise(records), page.FetchedRecordsCount, page.Bookmark}), nil
}

func pageThenPut(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	results, _, err := stub.GetStateByRangeWithPagination("", "", 1, "")
	if err != nil {
		return nil, err
	}
	if err := results.Close(); err != nil {
		return nil, err
	}
	return put(stub, args)
}

func compositePut(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	key, err := stub.CreateCompositeKey(args[0], args[1:3])
	if err != nil {
		return nil, err
	}
	return nil, stub.PutState(key, []byte(args[3]))
}

func compositeRange(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	results, err := stub.GetStateByPartialCompositeKey(args[0], args[1:])
	if err != nil {
		return nil, err
	}
	records, err := collect(results)
	if err != nil {
		return nil, err
	}
	list := [][]string{}
	for _, record := range records {
		objectType, attributes, err := stub.SplitCompositeKey(record.Key)
		if err != nil {
			return nil, err
		}
		list = append(list, append(append([]string{objectType}, attributes...), string(record.Value)))
	}
	return encode(list), nil
}

func history(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	results, err := stub.GetHistoryForKey(args[0])
	if err != nil {
		return nil, err
	}
	defer results.Close()
	list := [][]any{}
	for results.HasNext() {
		entry, err := results.Next()
		if err != nil {
			return nil, err
		}
		list = append(list, []any{entry.TxId, string(entry.Value), entry.IsDelete, instant(entry.Timestamp)})
	}
	return encode(list), nil
}

func event(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	if err := stub.PutState(args[0], []byte(args[1])); err != nil {
		return nil, err
	}
	return nil, stub.SetEvent(args[0], []byte(args[1]))
}

func big(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	value := make([]byte, number(args[0]))
	for i := range value {
		value[i] = byte(i % 251)
	}
	return []byte(args[0]), stub.PutState("big", value)
}

func bigGet(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	value, err := stub.GetState(args[0])
	return fmt.Appendf(nil, "%d %x", len(value), sha256.Sum256(value)), err
}

func throw(_ shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	panic(args[0])
}

func sleep(_ shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	time.Sleep(time.Duration(number(args[0])) * time.Millisecond)
	return []byte(args[0]), nil
}

func privatePut(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	return nil, stub.PutPrivateData(args[0], args[1], []byte(args[2]))
}

func privateGet(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	return stub.GetPrivateData(args[0], args[1])
}

func privateDel(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	return nil, stub.DelPrivateData(args[0], args[1])
}

func privateHash(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	hash, err := stub.GetPrivateDataHash(args[0], args[1])
	return []byte(hex.EncodeToString(hash)), err
}

func metadataPut(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	return nil, stub.SetStateValidationParameter(args[0], []byte(args[1]))
}

func metadataGet(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	return stub.GetStateValidationParameter(args[0])
}

func creator(stub shim.ChaincodeStubInterface, _ []string) ([]byte, error) {
	serialized, err := stub.GetCreator()
	if err != nil {
		return nil, err
	}
	identity := &msp.SerializedIdentity{}
	err = proto.Unmarshal(serialized, identity)
	return fmt.Appendf(nil, "%s %x", identity.Mspid, sha256.Sum256(identity.IdBytes)), err
}

func transient(stub shim.ChaincodeStubInterface, args []string) ([]byte, error) {
	values, err := stub.GetTransient()
	return values[args[0]], err
}

func txID(stub shim.ChaincodeStubInterface, _ []string) ([]byte, error) {
	return []byte(stub.GetTxID()), nil
}

func channel(stub shim.ChaincodeStubInterface, _ []string) ([]byte, error) {
	return []byte(stub.GetChannelID()), nil
}

func timestamp(stub shim.ChaincodeStubInterface, _ []string) ([]byte, error) {
	when, err := stub.GetTxTimestamp()
	return []byte(instant(when)), err
}

func arguments(stub shim.ChaincodeStubInterface, _ []string) ([]byte, error) {
	list := []string{}
	for _, argument := range stub.GetArgs() {
		list = append(list, hex.EncodeToString(argument))
	}
	return encode(list), nil
}

type summary struct {
	Count int    `json:"count"`
	First string `json:"first"`
	Last  string `json:"last"`
}

func summarise(records []*queryresult.KV) summary {
	if len(records) == 0 {
		return summary{}
	}
	return summary{len(records), records[0].Key, records[len(records)-1].Key}
}

func collect(results shim.StateQueryIteratorInterface) ([]*queryresult.KV, error) {
	defer results.Close()
	var records []*queryresult.KV
	for results.HasNext() {
		record, err := results.Next()
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}

func instant(when *timestamppb.Timestamp) string {
	return fmt.Sprintf("%d.%09d", when.GetSeconds(), when.GetNanos())
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return value
}

// encode writes compact JSON without the escapes that only Go uses.
func encode(value any) []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}
