"""Stand between a peer and an engine, and make trouble at a chosen point of a chosen request.

Room:      tests.engines
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

Moment = Literal["before", "within", "after"]
"""Of a request: nothing of it has reached the engine; it works on it; it is done, and the peer does
not know."""

_BUILD = "/containers/triopeer-build-"
_CHAINCODE = "/containers/(?!triopeer-build-)"

REQUESTS = {
    "network": r"POST \S+/networks/create ",
    "remove": rf"DELETE \S+{_CHAINCODE}",
    "build_create": r"POST \S+/containers/create\?name=triopeer-build-",
    "build_upload": rf"PUT \S+{_BUILD}\S+/archive\?",
    "build_start": rf"POST \S+{_BUILD}\S+/start ",
    "build_run": rf"POST \S+{_BUILD}\S+/attach\?",
    "build_fetch": rf"GET \S+{_BUILD}\S+/archive\?",
    "build_commit": r"POST \S+/commit\?",
    "create": r"POST \S+/containers/create\?name=(?!triopeer-build-)",
    "attach": rf"POST \S+{_CHAINCODE}\S+/attach\?",
    "upload": rf"PUT \S+{_CHAINCODE}\S+/archive\?",
    "start": rf"POST \S+{_CHAINCODE}\S+/start ",
    "register": rf"POST \S+{_CHAINCODE}\S+/wait\S* ",
}
"""Step of a start → how its request begins; the last one is sent once the chaincode runs."""

BUILD_BEGAN = b"begun"
"""What a build writes when trouble may come within its run."""

REFUSAL = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b'Content-Length: 23\r\nConnection: close\r\n\r\n{"message":"disk full"}'
)
"""An answer of an engine that cannot do it."""

Act = Callable[[], Awaitable[bytes | None]]
"""Makes trouble; what it returns is the answer, then the connection ends. None: go on as if
nothing had been."""

_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Where to make which trouble, every time until it is lifted."""

    step: str
    moment: Moment
    act: Act

    def concerns(self, head: bytes) -> bool:
        return re.match(REQUESTS[self.step].encode(), head) is not None


class Relay:
    """An engine's door; made by `open_relay`.

    Attributes:
        trouble: what is to be made; None for none.
    """

    def __init__(self, path: Path, target: str, nursery: trio.Nursery) -> None:
        self.endpoint = f"unix://{path}"
        self.trouble: Trouble | None = None
        self._path = path
        self._target = target
        self._nursery = nursery
        self._open = trio.CancelScope()

    async def open(self) -> None:
        """Let peers in."""
        await self._nursery.start(self._serve)

    def shut(self) -> None:
        """Let nobody in, and throw out who is there."""
        self._path.unlink()
        self._open.cancel()

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self._path))
        sock.listen(100)
        with trio.CancelScope() as self._open, sock:
            task_status.started()
            await trio.serve_listeners(self._carry, [trio.SocketListener(sock)])

    async def _carry(self, peer: trio.SocketStream) -> None:
        try:
            async with await trio.open_unix_socket(self._target) as engine:
                await _Connection(self, peer, engine).run()
        except* (OSError, *_BROKEN, _Cut):  # OSError: the engine is not there
            pass


class _Cut(Exception):
    """The connection ends here."""


class _Connection:
    def __init__(self, relay: Relay, peer: trio.SocketStream, engine: trio.SocketStream) -> None:
        self._relay = relay
        self._peer = peer
        self._engine = engine
        self._trouble: Trouble | None = None
        """What concerns the present request."""

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answers)
            await self._requests()
            nursery.cancel_scope.cancel()

    async def _requests(self) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                if not (chunk := await self._peer.receive_some()):
                    return
                data += chunk
            head, _, data = data.partition(b"\r\n\r\n")
            trouble = self._relay.trouble
            self._trouble = trouble if trouble and trouble.concerns(head) else None
            await self._at("before")
            await self._engine.send_all(head + b"\r\n\r\n")
            size = _size(head)
            half = size // 2 if self._trouble else size
            for part in (half, size - half):
                while len(data) < part:
                    if not (chunk := await self._peer.receive_some()):
                        return
                    data += chunk
                await self._engine.send_all(data[:part])
                data = data[part:]
                if not self._awaits_build():
                    await self._at("within")

    async def _answers(self) -> None:
        while chunk := await self._engine.receive_some():
            if not self._awaits_build():
                await self._at("after")
            elif BUILD_BEGAN in chunk:
                await self._at("within")
            await self._peer.send_all(chunk)
        await self._peer.send_eof()

    def _awaits_build(self) -> bool:
        return self._trouble is not None and self._trouble.step == "build_run"

    async def _at(self, moment: Moment) -> None:
        trouble = self._trouble
        if trouble is None or trouble.moment != moment:
            return
        self._trouble = None
        answer = await trouble.act()
        if answer is None:
            return
        if answer:
            await self._peer.send_all(answer)
        raise _Cut


def _size(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    assert found is not None or b"chunked" not in head, head
    return int(found[1]) if found else 0


@asynccontextmanager
async def open_relay(path: Path, endpoint: str) -> AsyncIterator[Relay]:
    """Hold a door to the engine at `endpoint`."""
    async with trio.open_nursery() as nursery:
        relay = Relay(path, endpoint.removeprefix("unix://"), nursery)
        await relay.open()
        yield relay
        nursery.cancel_scope.cancel()
