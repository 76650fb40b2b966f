"""An application on the official Node library, over TLS, against this peer and nothing else.

The application is the same as for a network of Fabric's; see `tests/application`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from peer import PeerConfig, open_peer
from peer.channel import network
from peer.config.values import split_address
from tests.chaincodes import prepare

EXAMPLE = Path(__file__).parents[3] / "examples" / "asset_transfer"
CHANNEL, CHAINCODE, ORGANISATION = "mychannel", "assets", "Org1MSP"
ADDRESS = "peer0.org1.example.com:7051"
LIMIT_S = 240.0

pytestmark = pytest.mark.node


@asynccontextmanager
async def connection(directory: Path) -> AsyncIterator[Path]:
    """Open a peer with the example on it, and yield the file that tells how to reach it."""
    data = directory / "data"
    config = PeerConfig()
    node = replace(
        config.peer,
        local_msp_id=ORGANISATION,
        address=ADDRESS,
        listen_address="127.0.0.1:0",
        tls_enabled=True,
        file_system_path=str(data),
    )
    async with open_peer(replace(config, peer=node)) as peer:
        await peer.install(EXAMPLE, name=CHAINCODE, collections=["assetPrivateDetails"])
        [organisation] = network.load(data / "network").organisations
        user = organisation.users[1]
        [certificate] = (user.msp / "signcerts").iterdir()
        [key] = (user.msp / "keystore").iterdir()
        _, port = split_address(peer.address)
        file = directory / "connection.json"
        settings = {
            "endpoint": f"localhost:{port}",
            "tlsRoot": str(organisation.nodes[0].tls / "ca.crt"),
            "mspId": ORGANISATION,
            "certificate": str(certificate),
            "key": str(key),
            "channel": CHANNEL,
            "chaincode": CHAINCODE,
        }
        file.write_text(json.dumps(settings))
        yield file


def failed(error: str, code: int, message: str, detail: str = "") -> dict[str, Any]:
    """Return what an application sees of a failure."""
    details = [{"address": ADDRESS, "mspId": ORGANISATION, "message": detail}] if detail else []
    return {
        "error": error,
        "code": code,
        "message": f"{code} {message}",
        "details": details,
        "transactionId": error != "GatewayError",
    }


def transferred(block: int, asset: str, old: str, new: str) -> dict[str, Any]:
    return {
        "block": block,
        "chaincodeName": CHAINCODE,
        "eventName": "AssetTransferred",
        "payload": {"ID": asset, "From": old, "To": new},
    }


def check_calls(steps: Mapping[str, Any], first: int) -> None:
    """Check what was evaluated and submitted; *first* is the block of the first transaction."""
    assert steps["evaluate"] == []
    assert steps["submit"]["Owner"] == "Tomoko"
    assert steps["submitAsync"] == {
        "oldOwner": "Tomoko",
        "code": 0,
        "successful": True,
        "block": first + 1,
        "sameId": True,
    }
    assert steps["transient"] == "secret"
    assert steps["conflict"] == [
        {"code": 0, "successful": True},
        {"code": 11, "successful": False},
    ]
    assert steps["commitFails"] == {"code": 11, "successful": False}
    assert steps["manyAtOnce"] == 50


def check_events(steps: Mapping[str, Any], first: int) -> None:
    """Check the events of the transactions that `check_calls` is about."""
    ann = transferred(first + 1, "asset1", "Tomoko", "Ann")
    bob = transferred(first + 3, "asset2", "Brad", "Bob")
    cid = transferred(first + 4, "asset3", "Jin Soo", "Cid")
    assert steps["eventsFromNowOn"] == [bob]
    assert steps["eventsFromACheckpoint"] == {"before": [ann], "after": [bob, cid]}
    assert steps["blockEvents"] == {"whole": [0, 1, 2], "filtered": [1, 2], "privately": [1, 2]}


def check_errors(steps: Mapping[str, Any]) -> None:
    """Check what the application was told when something went wrong."""
    missing = "chaincode response 404, the asset missing does not exist"
    assert steps["evaluateFails"] == failed(
        "GatewayError",
        2,
        f"UNKNOWN: evaluate call to endorser returned error: {missing}",
        missing,
    )
    assert steps["endorseFails"] == failed(
        "EndorseError",
        10,
        "ABORTED: failed to endorse transaction, see attached details for more info",
        missing,
    )
    assert steps["organisationMissing"] == failed(
        "EndorseError", 14, "UNAVAILABLE: failed to find any endorsing peers for org(s): Org7MSP"
    )
    assert steps["chaincodeMissing"] == failed(
        "GatewayError",
        9,
        "FAILED_PRECONDITION: no peers available to evaluate chaincode nothing in channel "
        "mychannel",
    )
    assert steps["channelMissing"]["code"] == 9
    denied = "error validating proposal: access denied: channel [mychannel] creator org [Org1MSP]"
    assert steps["strangerRefused"]["evaluate"] == failed(
        "GatewayError",
        9,
        f"FAILED_PRECONDITION: evaluate call to endorser returned error: {denied}",
        denied,
    )
    events = steps["strangerRefused"]["events"]
    assert (events["error"], events["code"]) == ("GatewayError", 7)
    unknown = steps["statusOfTheUnknown"]
    assert (unknown["error"], unknown["code"]) == ("CommitStatusError", 4)


async def test_an_application(tmp_path: Path) -> None:
    command = await trio.to_thread.run_sync(prepare.prepared, "node", prepare.application)
    async with connection(tmp_path) as file:
        with trio.fail_after(LIMIT_S):
            done = await trio.run_process(
                [*command, str(file)], capture_stdout=True, capture_stderr=True, check=False
            )
    assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    steps = {line["step"]: line["result"] for line in lines}
    first = steps["submitAsync"]["block"] - 1
    check_calls(steps, first)
    check_events(steps, first)
    check_errors(steps)
