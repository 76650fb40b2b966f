"""The floor of a round trip: two asyncio processes that send each other 150 bytes over TCP.

Room:      benchmarks   (a program of its own; run by roundtrip.py)
Loop:      asyncio
Lifetime:  one sample
Fabric:    none

Prints wall time and the CPU time of the asking and of the answering side, in seconds, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from typing import cast

from measure import Meter

MESSAGE = bytes(150)
WARM_UP = 200


class Answering(asyncio.Protocol):
    """Sends back whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write

    def data_received(self, data: bytes) -> None:
        self._write(data)


class Asking(asyncio.Protocol):
    """Keeps a number of messages on the way until enough have come back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write

    async def ask(self, trips: int, outstanding: int) -> None:
        """Return when `trips` messages have come back."""
        self._to_send, self._missing = trips - outstanding, trips * len(MESSAGE)
        self._done = asyncio.get_running_loop().create_future()
        self._write(MESSAGE * outstanding)
        await self._done

    def data_received(self, data: bytes) -> None:
        before, self._missing = self._missing, self._missing - len(data)
        size = len(MESSAGE)
        whole = min(-(-before // size) - -(-self._missing // size), self._to_send)
        if whole:
            self._to_send -= whole
            self._write(MESSAGE * whole)
        elif not self._missing:
            self._done.set_result(None)


async def answer(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, sock=listener)
    await server.serve_forever()


async def ask(address: tuple[str, int], child: int, trips: int, outstanding: int) -> list[float]:
    loop = asyncio.get_running_loop()
    _, asking = await loop.create_connection(Asking, *address)
    await asking.ask(max(WARM_UP, outstanding), outstanding)
    meter = Meter(os.getpid(), child)
    await asking.ask(trips, outstanding)
    return list(meter.lap())


def main(trips: int, outstanding: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if child == 0:
            asyncio.run(answer(listener))
        try:
            print(json.dumps(asyncio.run(ask(listener.getsockname(), child, trips, outstanding))))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
