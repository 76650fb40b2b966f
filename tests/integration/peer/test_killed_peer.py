"""SIGKILL of the peer: what it launched dies with it, and its data can be used again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.integration.peer.scene import (
    CHANNEL,
    HERE,
    SOON_S,
    Code,
    processes,
    vanished,
    watched_peer,
)

NEVER_CONNECTS = "await asyncio.Event().wait()"
NEVER_REGISTERS = """
    async with dial() as call:
        await call.send(type=T.KEEPALIVE)
        await asyncio.Event().wait()
"""
HOLDS = """
    async def answer(stub, args):
        await stub.get("holding")
        await asyncio.Event().wait()

    await wire.chaincode(answer)
"""


@asynccontextmanager
async def kept_peer(
    data: Path, source: Path
) -> AsyncIterator[tuple[trio.Process, Callable[[str], Awaitable[None]]]]:
    """Run a peer that launches `source`; yields it and a wait for one of its lines."""
    temporary = tempfile.mkdtemp()  # a killed peer leaves its sockets
    process = await trio.lowlevel.open_process(
        [sys.executable, str(HERE / "kept_peer.py"), str(data), str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2]), "TMPDIR": temporary},
    )
    seen = bytearray()

    async def line(wanted: str) -> None:
        with trio.fail_after(10):
            while f"{wanted}\n".encode() not in seen:
                chunk = await process.stdout.receive_some()
                assert chunk, f"the peer ended with {await process.wait()}: {seen.decode()}"
                seen.extend(chunk)

    try:
        yield process, line
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
            await vanished(temporary, "TMPDIR")  # peer and keeper
        shutil.rmtree(temporary)


@pytest.mark.parametrize("wrapped", [False, True], ids=["directly", "through sh"])
@pytest.mark.parametrize(
    ("main", "stage"),
    [
        (NEVER_CONNECTS, "start"),
        (NEVER_CONNECTS, "connect"),
        (NEVER_REGISTERS, "connected"),
        (HOLDS, "ready"),
        (HOLDS, "executing"),
    ],
    ids=["starting", "spawned", "connected", "registered", "executing"],
)
async def test_a_killed_peer_leaves_no_chaincode(
    code: Code, tmp_path: Path, main: str, stage: str, wrapped: bool
) -> None:
    source = code.node(main) if wrapped else code.python(main)
    async with kept_peer(tmp_path / "data", source) as (peer, line):
        await line(stage if stage in ("connected", "executing") else f"{code.label} {stage}")
        if stage != "start":
            assert len(processes(code.label)) >= 1
        peer.kill()
        assert await peer.wait() == -signal.SIGKILL
        await vanished(tempfile.gettempdir(), "TMPDIR")  # the keeper: nobody can launch any more
        await vanished(code.label)


async def test_grandchildren_that_ignore_signals_die_too(code: Code, tmp_path: Path) -> None:
    main = """
        import subprocess
        stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)"
        subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

        async def answer(stub, args):
            await stub.get("holding")
            await asyncio.Event().wait()

        await wire.chaincode(answer)
    """
    async with kept_peer(tmp_path / "data", code.node(main)) as (peer, line):
        await line("executing")
        assert len(processes(code.label)) == 3  # shell, chaincode, stubborn child
        peer.kill()
        await vanished(code.label)


async def test_the_data_of_a_killed_peer_can_be_used_again(code: Code, tmp_path: Path) -> None:
    data = tmp_path / "data"
    source = code.book()
    async with watched_peer(file_system_path=str(data)) as (peer, _):
        await peer.install(source)
        await peer.invoke(CHANNEL, source.name, ["put", "key", "kept"])
    async with kept_peer(data, source) as (peer, line):
        await line("executing")
        peer.kill()
        await peer.wait()
        await vanished(code.label)
    instances = data / "runtimes" / "process" / "instances"
    left = set(instances.iterdir())
    assert len(left) == 2  # its own and its zygote's; nobody removed them
    with trio.fail_after(SOON_S):
        async with watched_peer(file_system_path=str(data)) as (peer, _):
            assert left.isdisjoint(instances.iterdir())
            await peer.install(source)
            result = await peer.query(CHANNEL, source.name, ["get", "key"])
            assert result.payload == b"kept"
