"""What the tests of a whole peer share: chaincodes to write, messages to wait for, leftovers.

Room:      tests.integration.peer   (imports peer; conftest.py makes fixtures of it)
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import trio

from fabric_protos.stream import ChaincodeMessage
from peer import Peer, PeerConfig, open_peer

HERE = Path(__file__).parent
CHANNEL = "mychannel"
SOON_S = 5.0
"""How quickly trouble must be noticed, while every configured limit is `LONG_S`."""
LONG_S = 60.0


class Code:
    """Writes chaincodes into directories of one test.

    Attributes:
        label: starts the package id of every one; unique on this machine.
    """

    def __init__(self, directory: Path, label: str) -> None:
        self.directory = directory
        self.label = label

    def book(self, name: str = "") -> Path:
        """Return a directory with the chaincode of ledgerbook.py."""
        path = self._directory(name)
        shutil.copy(HERE / "ledgerbook.py", path / "chaincode.py")
        return path

    def python(self, main: str, name: str = "") -> Path:
        """Return a directory whose chaincode.py runs `main`, the body of a coroutine."""
        path = self._directory(name)
        body = textwrap.indent(textwrap.dedent(main), "    ")
        (path / "chaincode.py").write_text(
            "import asyncio, os, signal, sys\nimport wire\nfrom wire import CCID, T, dial\n\n"
            f"async def main():\n{body}\n\nwire.run(main())\n"
        )
        return path

    def node(self, main: str, name: str = "") -> Path:
        """The same as what a Node package is to the peer: a program that dials over TCP."""
        path = self.python(main, name)
        (path / "package.json").write_text("{}")
        (path / "start.sh").write_text(f'#!/bin/sh\n"{sys.executable}" chaincode.py "$@"\n')
        (path / "start.sh").chmod(0o755)
        return path

    def files(self, contents: dict[str, str], name: str = "", *, mode: int = 0o644) -> Path:
        """Return a directory with these files."""
        path = self._directory(name)
        for file, content in contents.items():
            (path / file).write_text(content)
            (path / file).chmod(mode)
        return path

    def _directory(self, name: str) -> Path:
        path = self.directory / f"{self.label}{name}"
        path.mkdir()
        shutil.copy(HERE / "wire.py", path)
        return path


class Watch:
    """Sees every message and every launch stage, and waits for some of them."""

    def __init__(self) -> None:
        self._seen: deque[object] = deque()
        self._changed = trio.Event()

    def trace(self, ccid: str, from_chaincode: bool, message: ChaincodeMessage) -> None:
        if from_chaincode:
            self._note(message)

    def on_stage(self, ccid: str, stage: str, elapsed_s: float) -> None:
        self._note(f"{ccid.partition(':')[0]} {stage}")

    def _note(self, what: object) -> None:
        self._seen.append(what)
        self._changed.set()
        self._changed = trio.Event()

    async def stage(self, name: str, stage: str) -> None:
        """Wait until a launch of the package labelled `name` enters `stage`."""
        await self._until(lambda seen: seen == f"{name} {stage}")

    async def message(self, kind: int, payload: bytes = b"") -> ChaincodeMessage:
        """Wait for a chaincode's message whose payload holds `payload`, and take it out."""
        found = await self._until(
            lambda seen: (
                isinstance(seen, ChaincodeMessage) and seen.type == kind and payload in seen.payload
            )
        )
        assert isinstance(found, ChaincodeMessage)
        return found

    async def _until(self, wanted: Callable[[object], bool]) -> object:
        with trio.fail_after(SOON_S):
            while True:
                for seen in self._seen:
                    if wanted(seen):
                        self._seen.remove(seen)
                        return seen
                await self._changed.wait()


def config(*, startup_s: float = LONG_S, execute_s: float = LONG_S, **node: object) -> PeerConfig:
    """Return a configuration whose limits only the test's subject can be quicker than."""
    default = PeerConfig()
    chaincode = replace(default.chaincode, startup_timeout_s=startup_s, execute_timeout_s=execute_s)
    return replace(default, chaincode=chaincode, peer=replace(default.peer, **node))


@asynccontextmanager
async def watched_peer(**settings: object) -> AsyncIterator[tuple[Peer, Watch]]:
    """Open a peer and see what happens in it; `settings` go to `config`."""
    watch = Watch()
    async with open_peer(config(**settings), trace=watch.trace, on_stage=watch.on_stage) as peer:
        yield peer, watch


@contextmanager
def soon(limit_s: float = SOON_S) -> Iterator[None]:
    """Assert that what happens inside is over in time."""
    began = time.monotonic()
    yield
    elapsed_s = time.monotonic() - began
    assert elapsed_s < limit_s, f"took {elapsed_s:.1f} s"


def processes(start: str, variable: str = "CORE_CHAINCODE_ID_NAME") -> dict[int, str]:
    """Return pid → command of every live process whose environment variable starts so.

    By default: what was launched under an id that starts so.
    """
    mark = f"{variable}={start}".encode()
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            if any(entry.startswith(mark) for entry in environ.split(b"\0")):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[pid] = command.replace(b"\0", b" ").decode()
        except OSError:  # it has gone, or belongs to somebody else
            continue
    return found


async def vanished(start: str, variable: str = "CORE_CHAINCODE_ID_NAME") -> None:
    """Wait until none of these processes is left."""
    with trio.move_on_after(SOON_S):
        while processes(start, variable):  # noqa: ASYNC110 - /proc announces nothing
            await trio.sleep(0.01)
    assert processes(start, variable) == {}
