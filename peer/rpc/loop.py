"""The asyncio loop inside the peer's Trio run.

Room:      peer.rpc   (used by ground, orderer and cli)
Loop:      both; this is where they meet
Lifetime:  peer
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio_asyncio

log = logging.getLogger("peer.rpc")


@asynccontextmanager
async def open_loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
    """Run an asyncio loop for as long as the context is held.

    Without a handler of its own trio-asyncio would end the peer with any error that asyncio code
    lets escape, down to an odd HTTP/2 frame on one connection.
    """
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_log_escaped)
        yield loop


def _log_escaped(_: asyncio.AbstractEventLoop, details: dict[str, object]) -> None:
    exc = details.get("exception")
    error = exc if isinstance(exc, BaseException) else None
    log.error("asyncio: %s", details.get("message", "error"), exc_info=error)
