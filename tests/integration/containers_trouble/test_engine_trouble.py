"""An engine that fails under a whole peer: a typed error, soon, and the next call works."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from fabric_protos.stream import ChaincodeMessageType as Type
from peer import Peer, open_peer
from peer.chaincode import registry
from peer.errors import InstanceExited, PackageError, StartError, StartupTimeout, StreamTerminated
from tests.engines.engine import Engine
from tests.integration.containers.code import ImageCode
from tests.integration.containers_trouble.own_engine import IMAGE, Ballast
from tests.integration.peer.scene import CHANNEL, LONG_S, Watch, config, processes

pytestmark = pytest.mark.usefixtures("engine")

NO_ANSWER = "no answer from the engine at unix://"
NO_SPACE = "(?i)no space left on device"
SOON_S = 20.0
"""How long trouble may take to be noticed where the peer's own limits are a minute."""

WAITS_TO_BE_TOLD = """
    while not os.path.exists("/tmp/told"):
        await asyncio.sleep(0.02)

    async def answer(stub, args):
        return b"here"

    await wire.chaincode(answer)
"""
EATS_MEMORY = """
    async def answer(stub, args):
        if args == [b"eat"]:
            await stub.get("eating")
            return b"x" * (1 << 30)
        return b"alive"

    await wire.chaincode(answer)
"""


class Station(Watch):
    """Acts as a stage begins; the launch waits meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, Callable[[], object]] = {}

    def on_stage(self, ccid: str, stage: str, elapsed_s: float) -> None:
        super().on_stage(ccid, stage, elapsed_s)
        if act := self.at.pop(stage, None):
            act()


@asynccontextmanager
async def peer_on(
    engine: Engine,
    data: Path,
    *,
    tls: bool = False,
    host: dict[str, object] | None = None,
    startup_s: float = LONG_S,
) -> AsyncIterator[tuple[Peer, Station]]:
    chosen = config(startup_s=startup_s, file_system_path=str(data), tls_enabled=tls)
    options = {"endpoint": engine.endpoint, engine.name: {"hostConfig": host or {}}}
    chosen = replace(
        chosen,
        chaincode=replace(chosen.chaincode, python_runtime=IMAGE),
        vm=replace(chosen.vm, runtime=engine.name, endpoint=engine.endpoint, options=options),
    )
    station = Station()
    async with open_peer(chosen, trace=station.trace, on_stage=station.on_stage) as peer:
        yield peer, station


async def ask(peer: Peer, name: str, *args: str) -> str:
    with trio.fail_after(SOON_S):
        result = await peer.query(CHANNEL, name, args)
    assert (result.status, result.message) == (200, "")
    return result.payload.decode()


def pid_of(code: ImageCode) -> int:
    """Return the chaincode's process, as this machine counts."""
    return max(processes(code.label))


def tell(code: ImageCode) -> None:
    """Make the file that the chaincode waits for."""
    Path(f"/proc/{pid_of(code)}/root/tmp/told").touch()


@pytest.mark.parametrize("stage", ["create", "upload", "start"])
async def test_an_engine_that_stops_in_mid_launch(
    engine: Engine, code: ImageCode, tmp_path: Path, stage: str
) -> None:
    source = code.book()
    async with peer_on(engine, tmp_path / "data", tls=True) as (peer, station):
        await peer.install(source)
        station.at[stage] = engine.stop
        with trio.fail_after(SOON_S), pytest.raises(StartError, match=NO_ANSWER) as caught:
            await peer.query(CHANNEL, source.name, ["pid"])
        assert caught.value.evidence.stage == stage
        with trio.fail_after(SOON_S), pytest.raises(StartError, match=NO_ANSWER):
            await peer.query(CHANNEL, source.name, ["pid"])
        engine.start()
        assert await ask(peer, source.name, "pid")


async def test_an_engine_that_restarts_while_a_chaincode_registers(
    engine: Engine, code: ImageCode, tmp_path: Path
) -> None:
    source = code.python(WAITS_TO_BE_TOLD)
    async with peer_on(engine, tmp_path / "data") as (peer, station):
        await peer.install(source)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call() -> None:
                if engine.name == "docker":
                    with pytest.raises(InstanceExited, match="it ended before it was READY"):
                        await ask(peer, source.name)
                else:
                    assert await ask(peer, source.name) == "here"

            await station.stage(code.label, "connect")
            engine.stop()
            engine.start()
            if engine.name == "podman":
                tell(code)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call_again() -> None:
                assert await ask(peer, source.name) == "here"

            if engine.name == "docker":
                await station.stage(code.label, "connect")
                tell(code)


async def test_an_engine_that_goes_away_while_a_chaincode_registers(
    engine: Engine, code: ImageCode, tmp_path: Path
) -> None:
    """The start-up limit holds; what cannot be removed then, the next peer removes."""
    source, data = code.python(WAITS_TO_BE_TOLD), tmp_path / "data"
    async with peer_on(engine, data, startup_s=8.0) as (peer, station):
        await peer.install(source)
        station.at["connect"] = engine.stop
        with trio.fail_after(SOON_S), pytest.raises(StartupTimeout, match="not READY within 8 s"):
            await peer.query(CHANNEL, source.name, [])
    engine.start()
    assert len(containers(engine)) == 1
    async with peer_on(engine, data):
        assert containers(engine) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
async def test_an_engine_that_restarts_under_a_running_chaincode(
    engine: Engine, code: ImageCode, tmp_path: Path, how: signal.Signals
) -> None:
    """Docker ends its containers, at the latest when it is back; Podman lets them run."""
    source = code.book()
    async with peer_on(engine, tmp_path / "data") as (peer, station):
        await peer.install(source)
        await ask(peer, source.name, "pid")
        first = pid_of(code)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call() -> None:
                if engine.name == "docker":
                    with trio.fail_after(SOON_S), pytest.raises(StreamTerminated):
                        await peer.query(CHANNEL, source.name, ["hold"])
                else:
                    await ask(peer, source.name, "add_when", "key", "told")

            wanted = b"holding" if engine.name == "docker" else b"key"
            await station.message(Type.GET_STATE, wanted)
            engine.stop(how)
            if engine.name == "podman" or how == signal.SIGKILL:
                assert await ask(peer, source.name, "get", "key") == ""  # without an engine
            engine.start()
            if engine.name == "podman":
                await ask(peer, source.name, "release", "told")
        assert await ask(peer, source.name, "pid")
        assert (pid_of(code) == first) == (engine.name == "podman")


async def test_a_container_removed_by_hand_under_a_transaction(
    engine: Engine, code: ImageCode, tmp_path: Path
) -> None:
    source = code.book()
    async with peer_on(engine, tmp_path / "data") as (peer, station):
        await peer.install(source)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call() -> None:
                with trio.fail_after(SOON_S), pytest.raises(StreamTerminated) as caught:
                    await peer.query(CHANNEL, source.name, ["hold"])
                assert "chaincode stream terminated" in str(caught.value)

            await station.message(Type.GET_STATE, b"holding")
            (container,) = containers(engine)
            assert engine.request("DELETE", f"/containers/{container}?force=true")[0] < 300
        assert await ask(peer, source.name, "pid")
        assert container not in containers(engine)


def containers(engine: Engine) -> list[str]:
    return [found["Id"] for found in engine.request("GET", "/containers/json?all=true")[1]]


async def test_a_chaincode_that_runs_out_of_memory(
    engine: Engine,
    code: ImageCode,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "EXIT_GRACE_S", SOON_S)  # this machine may be slow
    source = code.python(EATS_MEMORY)
    limits = {"Memory": 128 << 20, "MemorySwap": 128 << 20}
    async with peer_on(engine, tmp_path / "data", host=limits) as (peer, _):
        await peer.install(source)
        with trio.fail_after(SOON_S), pytest.raises(StreamTerminated):
            await peer.query(CHANNEL, source.name, ["eat"])
        assert await ask(peer, source.name) == "alive"
    # Podman itself does not tell on version 1 of control groups
    reason = "killed: out of memory" if engine.name == "docker" else "killed"
    assert f"ended: {reason}" in caplog.text


async def test_a_chaincode_that_runs_out_of_memory_as_it_starts(
    engine: Engine, code: ImageCode, tmp_path: Path
) -> None:
    source = code.python("x = b'x' * (1 << 30)")
    limits = {"Memory": 64 << 20, "MemorySwap": 64 << 20}
    async with peer_on(engine, tmp_path / "data", host=limits) as (peer, _):
        await peer.install(source)
        reason = "killed: out of memory" if engine.name == "docker" else "killed"
        with trio.fail_after(SOON_S), pytest.raises(InstanceExited, match=reason):
            await peer.query(CHANNEL, source.name, [])


async def test_a_disk_that_is_full_during_a_build(
    engine: Engine, code: ImageCode, tmp_path: Path, ballast: Ballast
) -> None:
    source = code.book()
    (source / "large").write_bytes(os.urandom(16 << 20))
    async with peer_on(engine, tmp_path / "data") as (peer, _):
        ballast.fill(leave_bytes=4 << 20)
        with trio.fail_after(SOON_S), pytest.raises(PackageError, match=NO_SPACE) as caught:
            await peer.install(source)
        assert "could not build chaincode" in str(caught.value)
        ballast.drop()
        with trio.fail_after(SOON_S):
            await peer.install(source)
        assert await ask(peer, source.name, "pid")


async def test_a_disk_that_is_full_during_an_upload(
    engine: Engine, code: ImageCode, tmp_path: Path, ballast: Ballast
) -> None:
    source = code.book()
    async with peer_on(engine, tmp_path / "data", tls=True) as (peer, station):
        await peer.install(source)
        station.at["upload"] = ballast.fill
        with trio.fail_after(SOON_S), pytest.raises(StartError, match=NO_SPACE) as caught:
            await peer.query(CHANNEL, source.name, ["pid"])
        assert "cannot upload files to container" in str(caught.value)
        assert containers(engine) == []
        ballast.drop()
        assert await ask(peer, source.name, "pid")
