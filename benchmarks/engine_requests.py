"""What a launch asks of a container engine: watched on its way, and sent again without a peer.

Room:      benchmarks   (standard library only; used by containers, and run by it as a program)
Loop:      the program asyncio; a replay blocks
Lifetime:  the program as long as the subject; a replay one container
Fabric:    none

``engine_requests.py ENGINE PLACE JOURNAL`` listens on the socket PLACE, passes everything on to the
socket ENGINE and writes a line per request. It is a process of its own, so that its work is not in
the way of those it watches.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from http.client import HTTPResponse
from itertools import pairwise
from pathlib import Path
from typing import IO

LIMIT_S = 60.0
STEPS = {
    "create": "POST .*/containers/create",
    "attach": "POST .*/attach",
    "upload": "PUT .*/archive",
    "start": "POST .*/start",
}
"""What no start can do without → the requests that do it."""
_REMOVE = "DELETE .*/containers/.*"
_DIAL = "-peer.address="
_IP_FREEBIND = 15


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        action: method and path, ``POST /v1.41/containers/create``.
        raw: all of it, as it was on the wire; empty where the body came in chunks.
        began, answered: seconds of the monotonic clock, at the watcher.
    """

    action: str
    raw: str = field(repr=False)
    began: float = 0.0
    answered: float = 0.0


class Watcher:
    """Stands between an engine and those who dial `place`."""

    def __init__(self, journal: IO[str]) -> None:
        self._journal = journal

    @classmethod
    @contextmanager
    def running(cls, engine: Path, place: Path) -> Iterator[Watcher]:
        """Run the program of this module."""
        path = place.with_suffix(".journal")
        path.touch()
        command = [sys.executable, __file__, str(engine), str(place), str(path)]
        with (
            open(path) as journal,
            subprocess.Popen(command, stdout=subprocess.PIPE) as program,
        ):
            try:
                assert program.stdout is not None
                program.stdout.readline()  # it listens
                yield cls(journal)
            finally:
                program.terminate()

    def seen(self) -> list[Request]:
        """Return the requests that have been answered since the last look."""
        return [Request(**json.loads(line)) for line in self._journal]


def spent(requests: Sequence[Request]) -> dict[str, float]:
    """Return how long the engine worked on each step of a launch, in seconds."""
    return {
        step: sum(request.answered - request.began for request in _like(action, requests))
        for step, action in STEPS.items()
    }


class Replay:
    """Makes the container of a launch again, and waits until it has dialled.

    Each request is sent as it was, on a connection that is open already. Where the chaincode dials
    there is a socket and nobody speaks.

    Args:
        requests: of one launch.
    """

    def __init__(self, engine: Path, requests: Sequence[Request]) -> None:
        self._engine = engine
        self._steps = {step: _like(action, requests) for step, action in STEPS.items()}
        self._remove = _like(_REMOVE, requests)[0]
        (create,) = self._steps["create"]
        self._config = json.loads(create.raw.partition("\r\n\r\n")[2])

    def run(self) -> dict[str, float]:
        """Return seconds of each step, and of `dial`: from the last answer until it has dialled."""
        with ExitStack() as held:
            engine = held.enter_context(_connected(self._engine))
            attached = held.enter_context(_connected(self._engine))
            listener = held.enter_context(self._listening())
            held.callback(_send, engine, self._remove)
            times = [time.monotonic()]
            for step, requests in self._steps.items():
                for request in requests:
                    _send(attached if step == "attach" else engine, request)
                times.append(time.monotonic())
            chaincode, _ = listener.accept()
            times.append(time.monotonic())
            _send(engine, self._remove)  # before the chaincode finds itself left alone
            chaincode.close()
        laps = [after - before for before, after in pairwise(times)]
        return dict(zip((*self._steps, "dial"), laps, strict=True))

    def remove_image(self) -> None:
        """Remove the image of the container."""
        url = f"/v1.41/images/{self._config['Image']}?force=1"
        with _connected(self._engine) as engine:
            _send(
                engine, Request(f"DELETE {url}", f"DELETE {url} HTTP/1.1\r\nHost: engine\r\n\r\n")
            )

    @contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        """Listen where the container has been told that the peer does."""
        with ExitStack() as held:
            if mounts := self._config["HostConfig"].get("Mounts"):
                path = mounts[0]["Source"]
                listener = held.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(path)
                held.callback(os.unlink, path)
                os.chmod(path, 0o666)
            else:
                told = next(word for word in self._config["Cmd"] if word.startswith(_DIAL))
                host, _, port = told.removeprefix(_DIAL).rpartition(":")
                listener = held.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                listener.bind((host, int(port)))
            listener.settimeout(LIMIT_S)
            listener.listen()
            yield listener


def _like(action: str, requests: Sequence[Request]) -> list[Request]:
    return [request for request in requests if re.fullmatch(action, request.action)]


def _connected(engine: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(LIMIT_S)
    connection.connect(str(engine))
    return connection


def _send(engine: socket.socket, request: Request) -> None:
    """Send a request and read its answer; of an attachment only the head, the rest is a stream."""
    engine.sendall(request.raw.encode("latin-1"))
    with HTTPResponse(engine, method=request.action.partition(" ")[0]) as response:
        response.begin()
        answer = b"" if request.action.endswith("/attach") else response.read()
    if response.status >= 300 and response.status != 404:
        raise OSError(f"{request.action}: {response.status} {answer.decode()}")


async def watch(engine: str, place: str, journal: IO[str]) -> None:
    """Pass everything on, and write down each request once its answer begins."""
    relay = partial(_relay, engine, journal)
    async with await asyncio.start_unix_server(relay, place) as server:
        print("listening", flush=True)
        await server.serve_forever()


async def _relay(
    engine: str, journal: IO[str], client: asyncio.StreamReader, back: asyncio.StreamWriter
) -> None:
    answers, far = await asyncio.open_unix_connection(engine)
    asked: deque[Request] = deque()

    async def answer() -> None:
        while piece := await answers.read(1 << 16):
            if asked:
                request = asked.popleft()
                line = {**asdict(request), "answered": time.monotonic()}
                journal.write(json.dumps(line) + "\n")
                journal.flush()
            back.write(piece)
        back.close()

    answering = asyncio.create_task(answer())
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            asked.append(await _pass_on(client, far))
    far.close()
    with suppress(OSError):
        await answering


async def _pass_on(client: asyncio.StreamReader, far: asyncio.StreamWriter) -> Request:
    """Pass on the next request of a connection; its end raises IncompleteReadError."""
    head = await client.readuntil(b"\r\n\r\n")
    began = time.monotonic()
    method, url, _ = head.decode().split(maxsplit=2)
    action = f"{method} {url.partition('?')[0]}"
    if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        far.write(head)
        size = -1
        while size:
            line = await client.readline()
            size = int(line, 16)
            far.write(line + await client.readexactly(size + 2))
            await far.drain()
        return Request(action, "", began)
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    raw = head + await client.readexactly(int(length[1]) if length else 0)
    far.write(raw)
    return Request(action, raw.decode("latin-1"), began)


if __name__ == "__main__":
    with open(sys.argv[3], "a") as file:
        asyncio.run(watch(sys.argv[1], sys.argv[2], file))
