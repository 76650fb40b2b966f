"""Assets that are created, read, changed and handed over.

Run it by hand against a peer in development mode:

    CORE_CHAINCODE_ID_NAME=assets:1.0 python chaincode.py --peer.address localhost:7052

or as a service that peers dial:

    CORE_CHAINCODE_ID_NAME=assets:1.0 CHAINCODE_SERVER_ADDRESS=:9999 python chaincode.py

Three rules of every chaincode. All endorsing peers run it and must compute the same: no clocks
(`stub.tx_timestamp` is the client's), no random numbers, JSON with sorted keys. A transaction reads
what was committed before it, never what it wrote itself. Whatever raises, writes nothing.
"""

import json

import shim
from shim import ChaincodeError, ChaincodeStub

OWNER_INDEX = "owner~id"
PRIVATE_DETAILS = "assetPrivateDetails"
FIRST_ASSETS = (
    ("asset1", "blue", 5, "Tomoko", 300),
    ("asset2", "red", 5, "Brad", 400),
    ("asset3", "green", 10, "Jin Soo", 500),
)


class AssetTransfer(shim.Chaincode):
    """One method per function; each gets the stub and the client's arguments as text."""

    async def invoke(self, stub: ChaincodeStub) -> bytes | None:
        function, arguments = stub.get_function_and_parameters()
        if function not in FUNCTIONS:
            raise ChaincodeError(f"unknown function '{function}'; there are {', '.join(FUNCTIONS)}")
        method, *names = FUNCTIONS[function]
        if len(arguments) != len(names):
            raise ChaincodeError(f"{function} takes {len(names)} arguments: {' '.join(names)}")
        result = await method(self, stub, *arguments)
        return None if result is None else as_json(result)

    # A key and its value, the least a chaincode can do

    async def put(self, stub: ChaincodeStub, key: str, value: str) -> None:
        await stub.put_state(key, value)

    async def get(self, stub: ChaincodeStub, key: str) -> str:
        value = await stub.get_state(key)
        if value is None:
            raise ChaincodeError(f"there is no '{key}'", status=404)
        return value.decode()

    # Assets

    async def init_ledger(self, stub: ChaincodeStub) -> None:
        for asset_id, color, size, owner, value in FIRST_ASSETS:
            await save(stub, new_asset(asset_id, color, str(size), owner, str(value)))

    async def create(
        self, stub: ChaincodeStub, asset_id: str, color: str, size: str, owner: str, value: str
    ) -> None:
        if await stub.get_state(asset_id) is not None:
            raise ChaincodeError(f"the asset {asset_id} already exists", status=409)
        await save(stub, new_asset(asset_id, color, size, owner, value))

    async def read(self, stub: ChaincodeStub, asset_id: str) -> dict:
        return await load(stub, asset_id)

    async def update(
        self, stub: ChaincodeStub, asset_id: str, color: str, size: str, owner: str, value: str
    ) -> None:
        before = await load(stub, asset_id)
        await stub.del_state(owner_key(stub, before))
        await save(stub, new_asset(asset_id, color, size, owner, value))

    async def delete(self, stub: ChaincodeStub, asset_id: str) -> None:
        asset = await load(stub, asset_id)
        await stub.del_state(asset_id)
        await stub.del_state(owner_key(stub, asset))

    async def transfer(self, stub: ChaincodeStub, asset_id: str, new_owner: str) -> str:
        """Change the owner, tell listening clients, and return the old owner."""
        asset = await load(stub, asset_id)
        old_owner = asset["Owner"]
        await stub.del_state(owner_key(stub, asset))
        await save(stub, asset | {"Owner": required("owner", new_owner)})
        event = {"ID": asset_id, "From": old_owner, "To": new_owner}
        stub.set_event("AssetTransferred", as_json(event))
        return old_owner

    # Queries

    async def get_all(self, stub: ChaincodeStub) -> list[dict]:
        """Every asset, in the order of keys: empty bounds mean all simple keys."""
        return await self.get_range(stub, "", "")

    async def get_range(self, stub: ChaincodeStub, first: str, end: str) -> list[dict]:
        async with stub.get_state_by_range(first, end) as records:
            found = [as_asset(record.value) async for record in records]
        return [asset for asset in found if asset is not None]

    async def get_by_owner(self, stub: ChaincodeStub, owner: str) -> list[dict]:
        """Walk the index, whose composite keys hold owner and id, then read the assets."""
        async with stub.get_state_by_partial_composite_key(OWNER_INDEX, [owner]) as entries:
            ids = [stub.split_composite_key(entry.key)[1][1] async for entry in entries]
        return [await load(stub, asset_id) for asset_id in ids]

    async def query_by_owner(self, stub: ChaincodeStub, owner: str) -> list[dict]:
        """Ask for the field itself: no index to keep, but a state database that knows JSON."""
        query = {"selector": {"Owner": owner, "ID": {"$exists": True}}}
        async with stub.get_query_result(json.dumps(query)) as records:
            return [json.loads(record.value) async for record in records]

    async def get_history(self, stub: ChaincodeStub, asset_id: str) -> list[dict]:
        history = []
        async for version in stub.get_history_for_key(asset_id):
            when = version.timestamp.isoformat() if version.timestamp else None
            asset = None if version.is_delete else as_asset(version.value)
            history.append({"TxID": version.tx_id, "Timestamp": when, "Asset": asset})
        return history

    # Private data: seen by the members of the collection only

    async def put_private_details(self, stub: ChaincodeStub, asset_id: str) -> None:
        """Keep what the client sent in the transient map, which never reaches the ledger."""
        await load(stub, asset_id)
        if "details" not in stub.transient:
            raise ChaincodeError("send the details in the transient map, as 'details'")
        await stub.put_private_data(PRIVATE_DETAILS, asset_id, stub.transient["details"])

    async def get_private_details(self, stub: ChaincodeStub, asset_id: str) -> str:
        details = await stub.get_private_data(PRIVATE_DETAILS, asset_id)
        if details is None:
            raise ChaincodeError(f"the asset {asset_id} has no private details", status=404)
        return details.decode()


ASSET = ("id", "color", "size", "owner", "value")
FUNCTIONS = {
    "put": (AssetTransfer.put, "key", "value"),
    "get": (AssetTransfer.get, "key"),
    "InitLedger": (AssetTransfer.init_ledger,),
    "CreateAsset": (AssetTransfer.create, *ASSET),
    "ReadAsset": (AssetTransfer.read, "id"),
    "UpdateAsset": (AssetTransfer.update, *ASSET),
    "DeleteAsset": (AssetTransfer.delete, "id"),
    "TransferAsset": (AssetTransfer.transfer, "id", "owner"),
    "GetAllAssets": (AssetTransfer.get_all,),
    "GetAssetsByRange": (AssetTransfer.get_range, "first", "end"),
    "GetAssetsByOwner": (AssetTransfer.get_by_owner, "owner"),
    "QueryAssetsByOwner": (AssetTransfer.query_by_owner, "owner"),
    "GetAssetHistory": (AssetTransfer.get_history, "id"),
    "PutPrivateDetails": (AssetTransfer.put_private_details, "id"),
    "GetPrivateDetails": (AssetTransfer.get_private_details, "id"),
}
"""What clients may call: name -> method and its arguments."""


def new_asset(asset_id: str, color: str, size: str, owner: str, value: str) -> dict:
    """Check a client's words and make an asset of them."""
    return {
        "ID": required("id", asset_id),
        "Color": color,
        "Size": whole_number("size", size),
        "Owner": required("owner", owner),
        "AppraisedValue": whole_number("value", value),
    }


def required(name: str, text: str) -> str:
    if not text:
        raise ChaincodeError(f"{name} must not be empty", status=400)
    return text


def whole_number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ChaincodeError(f"{name} must be a whole number, not '{text}'", status=400)
    return int(text)


async def load(stub: ChaincodeStub, asset_id: str) -> dict:
    value = await stub.get_state(asset_id)
    asset = None if value is None else as_asset(value)
    if asset is None:
        raise ChaincodeError(f"the asset {asset_id} does not exist", status=404)
    return asset


async def save(stub: ChaincodeStub, asset: dict) -> None:
    await stub.put_state(asset["ID"], as_json(asset))
    await stub.put_state(owner_key(stub, asset), b"\0")  # an empty value would delete the key


def owner_key(stub: ChaincodeStub, asset: dict) -> str:
    return stub.create_composite_key(OWNER_INDEX, [asset["Owner"], asset["ID"]])


def as_json(value: object) -> bytes:
    """Text stays as it is; anything else becomes JSON, the same bytes on every peer."""
    if isinstance(value, str):
        return value.encode()
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def as_asset(value: bytes) -> dict | None:
    """Read an asset; None for what `put` stored under a key of its own."""
    try:
        asset = json.loads(value)
    except ValueError:
        return None
    return asset if isinstance(asset, dict) and "ID" in asset else None


if __name__ == "__main__":
    shim.start(AssetTransfer())
