"""Begin a stream with nobody at the other end, so that the real beginning is quicker.

Room:      shim   (imports client and handler; for a fork that is to be a chaincode later)
Loop:      an asyncio loop of its own, which is closed again
Lifetime:  one call; what stays is memory that has become this process's own
Fabric:    none

A fork shares its parent's memory until it writes there, and Python writes a reference count almost
wherever it reads. Half of what a forked chaincode does until it is registered is copying pages.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from .chaincode import Chaincode
from .client import Connection, call
from .errors import StreamClosed
from .handler import Handler

CCID = "rehearsal"


def rehearse() -> None:
    """Connect, register and be left alone.

    A chaincode that runs here afterwards finds no file, thread, signal handler, event loop or
    policy, and its first task is number one.
    """
    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(loop.create_task(_register(), name=CCID))
    finally:
        loop.close()


async def _register() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        _, protocol = await loop.create_unix_connection(Connection, sock=ours)
        with suppress(StreamClosed):
            async with call(protocol, "http", "localhost") as stream:
                loop.call_soon(theirs.close)  # as soon as the handler waits
                await Handler(Chaincode(), CCID, stream).run()
