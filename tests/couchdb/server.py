"""Hold a server that speaks CouchDB's protocol: PouchDB's, on Node.js, its data in memory.

Room:      tests.couchdb   (imports tests.chaincodes.prepare)
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import trio

from tests.chaincodes.prepare import couchdb, prepared


@dataclass
class CouchServer:
    """A running server.

    Attributes:
        address: host and port.
    """

    address: str
    _process: trio.Process

    async def get(self, *path: str) -> Any:
        """Return what is at a path, as anybody sees it."""
        async with httpx.AsyncClient() as client:
            place = "/".join(quote(part, safe="") for part in path)
            return (await client.get(f"http://{self.address}/{place}")).json()

    def stop(self) -> None:
        """Let it answer nothing, until it goes on."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again, with all its data."""
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def couch_server(port: int = 0) -> AsyncIterator[CouchServer]:
    """Start one; skips the test where there is none."""
    command = await trio.to_thread.run_sync(prepared, "node", couchdb)
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            [*command, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            check=False,
        )
        process = await nursery.start(start)
        try:
            line = b""
            while not line.endswith(b"\n"):
                line += (chunk := await process.stdout.receive_some())
                assert chunk, "the server ended before it listened"
            yield CouchServer(f"127.0.0.1:{int(line)}", process)
        finally:
            process.kill()
