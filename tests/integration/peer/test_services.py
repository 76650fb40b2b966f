"""Chaincodes the peer does not start: services it dials, and development mode."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from peer import Peer, open_peer
from peer.errors import (
    ConfigError,
    ConnectError,
    LaunchError,
    PackageError,
    RegistrationRefused,
    StreamTerminated,
)
from tests.integration.peer.scene import CHANNEL, SOON_S, Code, config, soon, watched_peer


def connection(code: Code, port: int, **more: object) -> Path:
    """Return the directory of a service's package, outside of what the service itself runs in."""
    path = code.files({})
    (path / "wire.py").unlink()
    document = {"address": f"127.0.0.1:{port}", "dial_timeout": "1s", **more}
    (path / "connection.json").write_text(json.dumps(document))
    return path


@asynccontextmanager
async def chaincode(directory: Path, *args: str, ccid: str = "") -> AsyncIterator[trio.Process]:
    """Run chaincode.py by hand until the end of the block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "chaincode.py", *args],
        cwd=directory,
        env={**os.environ, "CORE_CHAINCODE_ID_NAME": ccid},
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


@asynccontextmanager
async def service(directory: Path, name: str, port: int = 0) -> AsyncIterator[tuple[int, int]]:
    """Run a service; yields its port and pid once it listens."""
    async with chaincode(directory, "--port", str(port), name) as process:
        with trio.fail_after(SOON_S):
            line = await process.stdout.receive_some()
        yield int(line), process.pid


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ask(peer: Peer, name: str, *args: str) -> str:
    result = await peer.query(CHANNEL, name, args)
    assert (result.status, result.message) == (200, "")
    return result.payload.decode()


async def test_a_service_is_dialled_again_after_it_died(code: Code) -> None:
    book = code.book("service")
    port = free_port()
    source = connection(code, port)
    async with watched_peer() as (peer, _):
        package = await peer.install(source)
        assert package.type == "ccaas"
        pids = set()
        for _ in range(2):
            async with service(book, package.ccid, port) as (_, pid):
                assert await ask(peer, source.name, "pid") == str(pid)
                assert (await peer.invoke(CHANNEL, source.name, ["add", "n"])).committed
                pids.add(pid)
                with soon(), pytest.raises(StreamTerminated):
                    await peer.query(CHANNEL, source.name, ["exit", "0"])
        assert len(pids) == 2
        async with service(book, package.ccid, port):
            assert await ask(peer, source.name, "get", "n") == "2"


async def test_a_service_that_starts_later_is_waited_for(code: Code) -> None:
    book, port = code.book("service"), free_port()
    source = connection(code, port)
    async with watched_peer() as (peer, watch):
        package = await peer.install(source)
        async with trio.open_nursery() as callers:
            callers.start_soon(ask, peer, source.name, "get", "key")
            await watch.stage(source.name, "connect")
            async with service(book, package.ccid, port):
                await watch.stage(source.name, "ready")
                callers.cancel_scope.cancel()


async def test_a_service_that_is_down(code: Code) -> None:
    port = free_port()
    source = connection(code, port)
    async with watched_peer(startup_s=2) as (peer, _):
        await peer.install(source)
        with soon(), pytest.raises(ConnectError) as caught:
            await ask(peer, source.name, "get", "key")
    assert f"127.0.0.1:{port}: " in caught.value.reason
    assert "Connect call failed" in caught.value.reason
    assert caught.value.evidence is not None
    assert caught.value.evidence.stage == "connect"


async def test_a_service_that_accepts_and_says_nothing(code: Code) -> None:
    """It is no gRPC server: the start-up limit ends the wait."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        source = connection(code, silent.getsockname()[1])
        async with watched_peer(startup_s=2) as (peer, _):
            await peer.install(source)
            with soon(), pytest.raises(LaunchError):
                await ask(peer, source.name, "get", "key")


async def test_a_service_under_a_wrong_name(code: Code) -> None:
    book = code.book("service")
    async with service(book, "somebody-else:1") as (port, _):
        source = connection(code, port)
        async with watched_peer() as (peer, _):
            package = await peer.install(source)
            with soon(), pytest.raises(RegistrationRefused) as caught:
                await ask(peer, source.name, "get", "key")
            assert caught.value.reason == (
                f"it registered as somebody-else:1, but was launched as {package.ccid}"
            )


async def test_the_end_of_the_peer_hangs_up_and_spares_the_service(code: Code) -> None:
    book, port = code.book("service"), free_port()
    source = connection(code, port)
    pids = []
    async with watched_peer() as (first, _):
        ccid = (await first.install(source)).ccid
        async with service(book, ccid, port):
            pids.append(await ask(first, source.name, "pid"))
            async with watched_peer() as (second, _):  # one service, two peers
                await second.install(source)
                pids.append(await ask(second, source.name, "pid"))
            pids.append(await ask(first, source.name, "pid"))
    assert len(set(pids)) == 1


async def test_a_service_that_cannot_be_understood_is_a_package_error(code: Code) -> None:
    source = code.files({"connection.json": "{}"})
    async with watched_peer() as (peer, _):
        with pytest.raises(PackageError, match="chaincode address not provided"):
            await peer.install(source)


def development(port: int, **limits: float) -> object:
    usual = config(chaincode_listen_address=f"127.0.0.1:{port}")
    return replace(usual, chaincode=replace(usual.chaincode, mode="dev", **limits))


async def test_development_mode_takes_a_chaincode_started_by_hand(code: Code) -> None:
    """Under the id of the installed package, and again after it was restarted."""
    source, port = code.book(), free_port()
    address = f"127.0.0.1:{port}"
    async with open_peer(development(port)) as peer:
        package = await peer.install(source)
        for number in ("1", "2"):
            with pytest.raises(LaunchError, match=f"start it with .*={package.ccid}"):
                await ask(peer, source.name, "get", "n")
            async with chaincode(source, "-peer.address", address, ccid=package.ccid) as process:
                await _registered(peer, package.ccid)
                assert await ask(peer, source.name, "pid") == str(process.pid)
                result = await peer.invoke(CHANNEL, source.name, ["add", "n"])
                assert (result.committed, result.payload) == (True, number.encode())
                with soon(), pytest.raises(StreamTerminated):
                    await ask(peer, source.name, "exit", "0")


async def _registered(peer: Peer, ccid: str) -> None:
    with trio.fail_after(SOON_S):
        while True:
            try:
                await peer.chaincode.launch(ccid)
            except LaunchError:
                await trio.sleep(0.02)
            else:
                return


async def test_development_mode_still_dials_services(code: Code) -> None:
    book, port = code.book("service"), free_port()
    source = connection(code, port)
    async with open_peer(development(free_port())) as peer:
        package = await peer.install(source)
        async with service(book, package.ccid, port) as (_, pid):
            assert await ask(peer, source.name, "pid") == str(pid)


async def test_development_mode_on_an_address_in_use(code: Code) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:\d+.*in use"):
            async with open_peer(development(taken.getsockname()[1])):
                pytest.fail("it opened")
