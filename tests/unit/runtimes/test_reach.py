"""The address given to a chaincode, looked at from inside its container."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from runtimes.api import PEER_HOST, PEER_PORT, InstanceSpec, RuntimeUnavailable, StartFailed
from runtimes.containers.engine import EngineRefused
from runtimes.containers.reach import PROBE_LIMIT_S
from tests.contract.containers import FakeEngineHarness
from tests.contract.harness import SERVES


@pytest.fixture
def harness(tmp_path: Path) -> FakeEngineHarness:
    return FakeEngineHarness(tmp_path)


def dialling(harness: FakeEngineHarness, address: str, ccid: str = "asset:1.0") -> InstanceSpec:
    spec = harness.spec(SERVES, ccid)
    assert spec.package.image is not None
    plan = replace(spec.package.image, probe=("probe", PEER_HOST, PEER_PORT))
    return replace(spec, peer_address=address, package=replace(spec.package, image=plan))


async def test_the_first_start_on_a_network_looks(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:
        await backend.start(dialling(harness, "127.0.0.1:7052"))
        await backend.start(dialling(harness, "127.0.0.1:7052", "b:1"))
        await backend.start(dialling(harness, "127.0.0.1:9", "c:1"))
        assert harness.engine.executed == [["probe", "127.0.0.1", "7052"]]
        await backend.start(dialling(harness, "[::1]:7052", "d:1"))
        assert harness.engine.executed[1] == ["probe", "::1", "7052"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [("Traceback\nOSError: no route to host\n\n", "OSError: no route to host"), ("", "refused")],
)
async def test_an_address_that_cannot_be_reached(
    harness: FakeEngineHarness, said: str, reason: str
) -> None:
    harness.engine.probe = (1, said)
    async with harness.open() as backend:
        text = f"cannot reach the peer at 127.0.0.1:7052 from its network own: {reason}"
        for _ in range(2):  # a failure is not remembered
            with pytest.raises(StartFailed, match=f"{text}$"):
                await backend.start(harness.spec(SERVES))
            assert not harness.left()
        harness.engine.probe = (0, "")
        await backend.start(harness.spec(SERVES))
        assert len(harness.left()) == 1


@pytest.mark.parametrize("code", [126, 127, 137, None])
async def test_what_cannot_be_told_stops_nobody(
    harness: FakeEngineHarness, code: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    harness.engine.probe = (code, "bash: not found")
    async with harness.open() as backend:
        await backend.start(harness.spec(SERVES))
        await backend.start(harness.spec(SERVES, "b:1"))
        assert len(harness.engine.executed) == 2  # not remembered
    assert ("exit code" in caplog.text) == (code is not None)


async def test_an_engine_that_refuses_to_look(
    harness: FakeEngineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """As it does when the chaincode has ended: its exit tells more."""
    caplog.set_level(logging.DEBUG)
    harness.engine.failures["execute"] = EngineRefused(409, "it is not running")
    async with harness.open() as backend:
        await backend.start(harness.spec(SERVES))
        assert "cannot look from inside dev-peer0-asset-1.0: it is not running" in caplog.text
        harness.engine.failures["execute"] = RuntimeUnavailable("gone")
        with pytest.raises(RuntimeUnavailable, match="gone"):
            await backend.start(harness.spec(SERVES))
        assert not harness.left()


async def test_no_answer(
    harness: FakeEngineHarness, autojump_clock: trio.testing.MockClock
) -> None:
    harness.engine.hanging.add("execute")
    async with harness.open() as backend:
        before = trio.current_time()
        with pytest.raises(StartFailed, match=r"127\.0\.0\.1:7052.*no answer within 5 s"):
            await backend.start(harness.spec(SERVES))
        assert trio.current_time() - before == PROBE_LIMIT_S
        assert not harness.left()


@pytest.mark.parametrize("by", ["stop", "cancellation"])
async def test_a_start_that_is_ended_while_it_looks(harness: FakeEngineHarness, by: str) -> None:
    harness.engine.hanging.add("execute")
    async with harness.open() as backend, trio.open_nursery() as nursery:
        await backend.build(harness.spec(SERVES).package)

        async def start() -> None:
            with pytest.raises(StartFailed, match="was stopped while it was starting"):
                await backend.start(harness.spec(SERVES))

        nursery.start_soon(start)
        await trio.testing.wait_all_tasks_blocked()
        assert harness.engine.calls[-1] == "execute"
        if by == "stop":
            await backend._instances["asset:1.0"].stop()
        else:
            nursery.cancel_scope.cancel()
    assert not harness.left()


async def test_a_socket_is_looked_at_from_here(harness: FakeEngineHarness, tmp_path: Path) -> None:
    path = tmp_path / "peer.sock"
    spec = replace(harness.spec(SERVES), peer_address=f"unix://{path}")
    async with harness.open() as backend:
        with pytest.raises(StartFailed, match=rf"at unix://{path}: .*No such file"):
            await backend.start(spec)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            path.chmod(0o600)
            with pytest.raises(StartFailed, match=r"no socket that every user may write to \(mode"):
                await backend.start(spec)
            assert not harness.left()
            path.chmod(0o666)
            await backend.start(spec)
        path.unlink()
        path.touch(0o666)
        os.chmod(path, 0o666)
        with pytest.raises(StartFailed, match=r"mode -rw-rw-rw-"):
            await backend.start(spec)
        assert harness.engine.executed == []
