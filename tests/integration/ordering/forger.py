"""An orderer that sends every peer a block that no orderer signed.

    python -m tests.integration.ordering.forger NETWORK HOST:PORT

Room:      tests.integration.ordering   (imports peer; started by test_following)
Loop:      Trio, with an asyncio loop inside for gRPC
Lifetime:  until it is killed
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from fabric_protos.codec import encode
from fabric_protos.orderer import DeliverResponse
from peer.channel import network
from peer.config.values import split_address
from peer.ordering.calls import DELIVER
from peer.ordering.writer import BlockWriter
from peer.rpc.loop import open_loop
from peer.rpc.server import Server
from peer.services.api import Caller, Requests, Send, Streaming
from tests.integration.ordering.programs import something, user


async def main(directory: str, address: str) -> None:
    made = network.load(Path(directory))
    who = user(made)
    forged = BlockWriter(who.identity, made.genesis_block()).next_block([something(who)])

    async def deliver(requests: Requests, send: Send, _: Caller) -> None:
        async for _request in requests:
            await send(DeliverResponse(block=forged))

    method = Streaming(path=DELIVER, decode=bytes, call=deliver, encode=encode, is_endless=True)
    async with open_loop(), Server([method]).listen(*split_address(address)) as bound:
        print(f"forger started at {bound}; Ctrl-C ends it", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
