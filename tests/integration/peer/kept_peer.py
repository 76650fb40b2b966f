"""A peer in a process of its own, to be killed: launches one chaincode and tells how far it is.

Usage: kept_peer.py DATA_DIRECTORY CODE_DIRECTORY

One line per launch stage, one when the chaincode has connected and sent KEEPALIVE, and one when it
has asked for a key.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import trio

from fabric_protos.stream import ChaincodeMessage, ChaincodeMessageType
from peer import PeerConfig, open_peer

SAID = {
    ChaincodeMessageType.KEEPALIVE: "connected",
    ChaincodeMessageType.GET_STATE: "executing",
}


def on_stage(ccid: str, stage: str, elapsed_s: float) -> None:
    print(ccid.partition(":")[0], stage, flush=True)


def trace(ccid: str, from_chaincode: bool, message: ChaincodeMessage) -> None:
    if from_chaincode and message.type in SAID:
        print(SAID[message.type], flush=True)


async def main(data: str, code: str) -> None:
    config = PeerConfig()
    config = replace(config, peer=replace(config.peer, file_system_path=data))
    async with open_peer(config, on_stage=on_stage, trace=trace) as peer:
        package = await peer.install(code)
        await peer.query("mychannel", package.label, ["hold"])


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
