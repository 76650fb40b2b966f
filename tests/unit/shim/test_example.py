"""The asset transfer example, against a peer with a dictionary for a ledger."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fabric_protos import protos as p
from fabric_protos.stream import (
    ChaincodeInput,
    ChaincodeMessage,
    DelState,
    GetHistoryForKey,
    GetState,
    GetStateByRange,
    KeyModification,
    PutState,
    Timestamp,
)
from fabric_protos.stream import ChaincodeMessageType as T
from tests.unit.shim.scripted_peer import ScriptedPeer, play
from tests.unit.shim.test_context import signed_proposal
from tests.unit.shim.test_stub_wire import kv, results

PATH = Path(__file__).parents[3] / "examples" / "asset_transfer" / "chaincode.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("asset_transfer", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Ledger:
    """Just enough of a peer: every write is committed at once."""

    def __init__(self) -> None:
        self.state: dict[tuple[str, str], bytes] = {}
        self.history: dict[str, list[bytes]] = {}

    def write(self, collection: str, key: str, value: bytes) -> None:
        if value:
            self.state[collection, key] = value
        else:
            self.state.pop((collection, key), None)
        version = KeyModification(
            tx_id="tx", value=value, timestamp=Timestamp(seconds=60), is_delete=not value
        )
        self.history.setdefault(key, []).insert(0, version.encode())

    def answer(self, request: ChaincodeMessage) -> bytes:
        match request.type:
            case T.GET_STATE:
                get = GetState.decode(request.payload)
                return self.state.get((get.collection, get.key), b"")
            case T.PUT_STATE:
                put = PutState.decode(request.payload)
                self.write(put.collection, put.key, put.value)
                return b""
            case T.DEL_STATE:
                self.write("", DelState.decode(request.payload).key, b"")
                return b""
            case T.GET_STATE_BY_RANGE:
                bounds = GetStateByRange.decode(request.payload)
                found = sorted(
                    (key, value)
                    for (collection, key), value in self.state.items()
                    if not collection
                    and bounds.start_key <= key
                    and (key < bounds.end_key or not bounds.end_key)
                )
                return results(*(kv(*record) for record in found))
            case T.GET_HISTORY_FOR_KEY:
                key = GetHistoryForKey.decode(request.payload).key
                return results(
                    *(p.QueryResultBytes(result_bytes=v) for v in self.history.get(key, []))
                )
        raise AssertionError(request)


class Client:
    """Calls functions of the example on one ledger."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.chaincode = example().AssetTransfer()
        self.event: Any = None

    def call(self, *args: str) -> p.Response:
        answers: list[ChaincodeMessage] = []

        async def script(peer: ScriptedPeer) -> None:
            message = ChaincodeMessage(
                type=T.TRANSACTION,
                payload=ChaincodeInput(args=[arg.encode() for arg in args]).encode(),
                txid="tx",
                channel_id="ch",
                proposal=signed_proposal(),
            )
            peer.stream.send(message.encode())
            while (answer := await peer.receive()).type != T.COMPLETED:
                peer.answer(answer, self.ledger.answer(answer))
            answers.append(answer)

        play(self.chaincode, script)
        self.event = answers[0].chaincode_event
        return p.Response.parse(answers[0].payload)

    def result(self, *args: str) -> str:
        response = self.call(*args)
        assert response.status == 200, response.message
        return response.payload.decode()

    def json(self, *args: str) -> Any:
        return json.loads(self.result(*args))


@pytest.fixture
def client() -> Client:
    client = Client()
    client.result("InitLedger")
    return client


def ids(assets: Any) -> list[str]:
    return [asset["ID"] for asset in assets]


def test_keys_and_values(client: Client) -> None:
    client.result("put", "a", "1")
    assert client.result("get", "a") == "1"
    assert client.call("get", "b").status == 404


def test_the_life_of_an_asset(client: Client) -> None:
    client.result("CreateAsset", "asset9", "white", "2", "Max", "90")
    assert client.result("ReadAsset", "asset9") == (
        '{"AppraisedValue":90,"Color":"white","ID":"asset9","Owner":"Max","Size":2}'
    )
    client.result("UpdateAsset", "asset9", "black", "3", "Ann", "91")
    assert client.json("ReadAsset", "asset9")["Color"] == "black"
    assert ids(client.json("GetAssetsByOwner", "Ann")) == ["asset9"]
    assert client.json("GetAssetsByOwner", "Max") == []
    client.result("DeleteAsset", "asset9")
    assert client.call("ReadAsset", "asset9").status == 404
    history = client.json("GetAssetHistory", "asset9")
    assert [version["Asset"] and version["Asset"]["Color"] for version in history] == [
        None,
        "black",
        "white",
    ]
    assert history[0]["Timestamp"] == "1970-01-01T00:01:00+00:00"


def test_transfer_tells_the_world(client: Client) -> None:
    assert client.result("TransferAsset", "asset1", "Ann") == "Tomoko"
    assert (client.event.event_name, client.event.payload) == (
        "AssetTransferred",
        b'{"From":"Tomoko","ID":"asset1","To":"Ann"}',
    )
    assert ids(client.json("GetAssetsByOwner", "Ann")) == ["asset1"]


def test_ranges(client: Client) -> None:
    client.result("put", "zz", "not an asset")
    client.result("put", "zzz", "5")
    assert ids(client.json("GetAllAssets")) == ["asset1", "asset2", "asset3"]
    assert ids(client.json("GetAssetsByRange", "asset2", "asset3")) == ["asset2"]


def test_private_details(client: Client) -> None:
    assert client.call("GetPrivateDetails", "asset1").status == 404
    refused = client.call("PutPrivateDetails", "asset1")
    assert refused.message == "send the details in the transient map, as 'details'"
    module = example()
    client.ledger.state[module.PRIVATE_DETAILS, "asset1"] = b"secret"
    assert client.result("GetPrivateDetails", "asset1") == "secret"


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["nosuch"], 500, "unknown function 'nosuch'; there are put, get, InitLedger"),
        ([], 500, "unknown function ''"),
        (["get"], 500, "get takes 1 arguments: key"),
        (["ReadAsset", "none"], 404, "the asset none does not exist"),
        (["CreateAsset", "asset1", "c", "1", "o", "1"], 409, "the asset asset1 already exists"),
        (["CreateAsset", "n", "c", "x", "o", "1"], 400, "size must be a whole number, not 'x'"),
        (["CreateAsset", "n", "c", "1", "", "1"], 400, "owner must not be empty"),
        (["TransferAsset", "asset1", ""], 400, "owner must not be empty"),
    ],
)
def test_refusals(client: Client, args: list[str], status: int, message: str) -> None:
    response = client.call(*args)
    assert response.status == status
    assert response.message.startswith(message)
