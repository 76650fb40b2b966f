"""The test chaincodes do what their table says, in every library and both modes.

The peer is `tests.fakes.mini_peer`; what fails here is a chaincode or its library.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from fabric_protos.protos import ChaincodeMessageType
from tests.chaincodes.prepare import Counterpart, counterpart
from tests.fakes.mini_peer import COLLECTION, CREATOR, MiniPeer
from tests.integration.behaviour import cases_for
from tests.integration.driver import Case, Result, Site

START_LIMIT_S = 30.0
RUNS = [
    ("golang", "unix"),
    ("golang", "tcp"),
    ("golang", "service"),
    ("node", "tcp"),
    ("node", "service"),
    ("official_python", "service"),
    ("ours", "unix"),
    ("ours", "tcp"),
    ("ours", "service"),
    ("ours_sync", "unix"),
]


class Process:
    """One chaincode process, started again when it has died."""

    def __init__(
        self, peer: MiniPeer, chaincode: Counterpart, ccid: str, output: Path, dial: str | None
    ) -> None:
        self._peer = peer
        self._chaincode = chaincode
        self._ccid = ccid
        self._output = output
        self._dial = dial
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._connection: asyncio.Task[None] | None = None

    async def started(self) -> None:
        if self._peer.is_ready(self._ccid):
            return
        try:
            async with asyncio.timeout(START_LIMIT_S):
                if self._dial is None:
                    await self._connect()
                else:
                    if self._process is not None:
                        await self._process.wait()
                    await self._spawn()
                await self._peer.ready(self._ccid)
        except TimeoutError:
            pytest.fail(f"not registered: {self._output.read_text(errors='replace')[-2000:]}")

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.cancel()
            await asyncio.wait([self._connection])
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def _spawn(self) -> None:
        command = [*self._chaincode.command]
        env = {**os.environ, "CORE_CHAINCODE_ID_NAME": self._ccid, "CORE_PEER_TLS_ENABLED": "false"}
        if self._dial is None:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self._port = probe.getsockname()[1]
            env["CHAINCODE_SERVER_ADDRESS"] = f"127.0.0.1:{self._port}"
        else:
            command += ["--peer.address", self._dial]
        with self._output.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._chaincode.path,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _connect(self) -> None:
        while not self._peer.is_ready(self._ccid):
            if self._process is None or self._process.returncode is not None:
                await self._spawn()
            self._connection = asyncio.create_task(self._peer.connect("127.0.0.1", self._port))
            ready = asyncio.create_task(self._peer.ready(self._ccid))
            await asyncio.wait([self._connection, ready], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if self._connection.done():
                await asyncio.sleep(0.02)  # a service says nowhere that it listens now


class Bench:
    """A mini peer as a driver, with a chaincode under test and its callee."""

    def __init__(self) -> None:
        self._peer = MiniPeer(execute_timeout_s=5)
        self._processes: list[Process] = []
        self._listener = AsyncExitStack()

    async def open(self, chaincode: Counterpart, mode: str, directory: Path) -> Site:
        for channel, name in [("one", "cc"), ("one", "new"), ("one", "callee"), ("two", "callee")]:
            self._peer.define(channel, name, "callee:1.0" if name == "callee" else "cc:1.0")
        dial = None
        if mode != "service":
            path = directory / "peer.sock" if mode == "unix" else None
            dial = await self._listener.enter_async_context(self._peer.listening(path))
        self._processes = [
            Process(self._peer, chaincode, ccid, directory / ccid, dial)
            for ccid in ("cc:1.0", "callee:1.0")
        ]
        return Site(
            driver=self,
            channel="one",
            other_channel="two",
            chaincode="cc",
            callee="callee",
            uninitialised="new",
            collection=COLLECTION,
            creator=CREATOR,
        )

    async def close(self) -> None:
        for process in self._processes:
            await process.close()
        await self._listener.aclose()

    async def invoke(
        self,
        channel: str,
        chaincode: str,
        args: Sequence[bytes],
        *,
        transient: Mapping[str, bytes] | None = None,
        is_init: bool = False,
    ) -> Result:
        await self._started()
        kind = ChaincodeMessageType.INIT if is_init else ChaincodeMessageType.TRANSACTION
        return await self._peer.execute(channel, chaincode, args, transient=transient, kind=kind)

    async def query(
        self,
        channel: str,
        chaincode: str,
        args: Sequence[bytes],
        *,
        transient: Mapping[str, bytes] | None = None,
    ) -> Result:
        await self._started()
        return await self._peer.execute(channel, chaincode, args, transient=transient, commit=False)

    async def invoke_all(
        self, channel: str, chaincode: str, calls: Sequence[Sequence[bytes]]
    ) -> list[Result]:
        await self._started()
        return await asyncio.gather(
            *(self._peer.execute(channel, chaincode, args) for args in calls)
        )

    async def _started(self) -> None:
        for process in self._processes:
            await process.started()


class Benches:
    """Keeps the bench of the last library and mode; pytest would make one for every case."""

    def __init__(self, directories: pytest.TempPathFactory) -> None:
        self._directories = directories
        self._key: tuple[str, str] | None = None
        self._open: tuple[asyncio.Runner, Bench, Site] | None = None

    def get(self, library: str, mode: str) -> tuple[asyncio.Runner, Site]:
        if self._open is None or self._key != (library, mode):
            self.close()
            chaincode = counterpart(library)
            runner, bench = asyncio.Runner(), Bench()
            site = runner.run(bench.open(chaincode, mode, self._directories.mktemp("bench")))
            self._key, self._open = (library, mode), (runner, bench, site)
        runner, _, site = self._open
        return runner, site

    def close(self) -> None:
        if self._open is not None:
            runner, bench, _ = self._open
            self._open = None
            runner.run(bench.close())
            runner.close()


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Benches]:
    benches = Benches(tmp_path_factory)
    yield benches
    benches.close()


@pytest.mark.parametrize(
    ("library", "mode", "case"),
    [
        pytest.param(
            library,
            mode,
            *case.values,
            id=f"{library}-{mode}-{case.id}",
            marks=[*case.marks, *([] if "ours" in library else [getattr(pytest.mark, library)])],
        )
        for library, mode in RUNS
        for case in cases_for(library)
    ],
)
def test_behaviour(benches: Benches, library: str, mode: str, case: Case) -> None:
    runner, site = benches.get(library, mode)
    runner.run(case.run(site))
