"""The end of a peer: by whatever way, nothing is left, and another one can be opened.

What is left is looked for after every test of this directory; see conftest.py.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from peer import PeerConfig, open_peer
from peer.errors import ConfigError, LedgerError, PeerError, RuntimeNotUsable
from tests.integration.peer.scene import (
    CHANNEL,
    HERE,
    SOON_S,
    Code,
    config,
    processes,
    soon,
    watched_peer,
)

ROOT = HERE.parents[2]


async def test_normally(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source)
        assert (await peer.query(CHANNEL, source.name, ["pid"])).status == 200
        leaving = trio.current_time()
    assert trio.current_time() - leaving < SOON_S
    assert processes(source.name) == {}


async def test_a_peer_that_launched_nothing() -> None:
    with soon(2):
        async with open_peer() as peer:
            assert peer.channels == [CHANNEL]


class Trouble(Exception):
    """Something of the application."""


@pytest.mark.parametrize("kind", [Trouble, KeyboardInterrupt, SystemExit])
async def test_by_an_exception_of_the_body(code: Code, kind: type[BaseException]) -> None:
    """The very exception comes out, not a group around it."""
    source = code.book()
    trouble = kind("of the application")
    with pytest.raises(kind) as caught:  # noqa: PT012 - the block is the subject
        async with watched_peer() as (peer, _):
            await peer.install(source)
            await peer.query(CHANNEL, source.name, ["pid"])
            raise trouble
    assert caught.value is trouble
    assert processes(source.name) == {}


async def test_by_a_group_of_the_body() -> None:
    """A nursery of the application makes groups; they come out as they are."""
    group = ExceptionGroup("several", [Trouble(), ValueError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_peer():
            raise group
    assert caught.value is group


async def test_by_cancellation_while_executing(code: Code) -> None:
    source = code.book()
    with trio.CancelScope() as scope, trio.fail_after(SOON_S):
        async with watched_peer() as (peer, watch):
            await peer.install(source)
            async with trio.open_nursery() as callers:
                callers.start_soon(peer.query, CHANNEL, source.name, ["hold"])
                await watch.stage(source.name, "ready")
                scope.cancel()
    assert scope.cancelled_caught
    assert processes(source.name) == {}


@pytest.mark.parametrize("stage", ["build", "start", "connect"])
async def test_by_cancellation_during_a_launch(code: Code, stage: str) -> None:
    source = code.python("await asyncio.Event().wait()")
    with trio.CancelScope() as scope, trio.fail_after(SOON_S):
        async with watched_peer() as (peer, watch):
            await peer.install(source)
            async with trio.open_nursery() as callers:
                callers.start_soon(peer.query, CHANNEL, source.name, ["anything"])
                await watch.stage(source.name, stage)
                scope.cancel()
    assert scope.cancelled_caught
    assert processes(source.name) == {}


async def test_by_cancellation_while_opening() -> None:
    """Early, late, and at many points between."""
    opened = 0
    for exponent in range(20):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, 2**exponent - 1, scope)
                async with open_peer():
                    opened += 1
                    scope.cancel()
        assert scope.cancel_called
    assert 0 < opened < 20


async def _cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_chaincode_that_will_not_end_is_killed(code: Code) -> None:
    source = code.python("""
        async def answer(stub, args):
            return b"ok"

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        await wire.chaincode(answer)
        await asyncio.Event().wait()
    """)
    with soon():
        async with watched_peer() as (peer, _):
            await peer.install(source)
            await peer.query(CHANNEL, source.name, ["anything"])
    assert processes(source.name) == {}


async def test_another_peer_can_be_opened_afterwards_and_inside(code: Code) -> None:
    source = code.book()
    for _ in range(3):
        async with watched_peer() as (outer, _):
            async with open_peer() as inner:
                for peer in (outer, inner):
                    await peer.install(source)
                    await peer.invoke(CHANNEL, source.name, ["put", "key", "value"])
            result = await outer.query(CHANNEL, source.name, ["get", "key"])
            assert result.payload == b"value"


async def test_data_is_kept_where_a_directory_is_given(code: Code, tmp_path: Path) -> None:
    data, source = str(tmp_path / "data"), code.book()
    # the genesis block, then the definition's two and the first invoke's, then one for each invoke
    for number, height in ((1, 1), (2, 4), (3, 5)):
        async with watched_peer(file_system_path=data) as (peer, _):
            assert peer.ledger(CHANNEL).height == height
            await peer.install(source)
            result = await peer.invoke(CHANNEL, source.name, ["add", "count"])
            assert (result.committed, result.payload) == (True, str(number).encode())
    assert not list((tmp_path / "data" / "runtimes" / "process" / "instances").iterdir())


async def test_data_is_kept_when_the_body_fails_and_not_what_was_under_way(
    code: Code, tmp_path: Path
) -> None:
    data, source = str(tmp_path / "data"), code.book()
    with pytest.raises(Trouble):  # noqa: PT012 - the block is the subject
        async with watched_peer(file_system_path=data) as (peer, _):
            await peer.install(source)
            await peer.invoke(CHANNEL, source.name, ["put", "count", "1"])
            async with trio.open_nursery() as callers:
                callers.start_soon(peer.invoke, CHANNEL, source.name, ["add_when", "count", "x"])
                await trio.testing.wait_all_tasks_blocked()
                callers.cancel_scope.cancel()
            raise Trouble
    async with watched_peer(file_system_path=data) as (peer, _):
        await peer.install(source)
        assert (await peer.query(CHANNEL, source.name, ["get", "count"])).payload == b"1"
        assert peer.ledger(CHANNEL).height == 4


async def test_a_data_directory_in_use_is_refused(code: Code, tmp_path: Path) -> None:
    data, source = str(tmp_path / "data"), code.book()
    async with watched_peer(file_system_path=data) as (peer, _):
        with soon(2), pytest.raises(PeerError, match="in use by another peer") as caught:
            async with watched_peer(file_system_path=data):
                pytest.fail("it opened")
        assert type(caught.value) is RuntimeNotUsable
        assert str(tmp_path / "data") in str(caught.value)
        await peer.install(source)  # the one that has it is not disturbed
        assert (await peer.query(CHANNEL, source.name, ["get", "key"])).status == 200


async def test_a_data_directory_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="the directory cannot be used") as caught:
        async with open_peer(config(file_system_path=str(tmp_path / "file" / "data"))):
            pytest.fail("it opened")
    assert str(tmp_path / "file" / "data") in str(caught.value)


async def test_a_runtime_that_does_not_exist_is_refused() -> None:
    wrong = replace(config(), vm=replace(config().vm, runtime="proces"))
    with pytest.raises(RuntimeNotUsable, match=r"installed are: .*process"):
        async with open_peer(wrong):
            pytest.fail("it opened")


ANY_PORT = {
    "CORE_PEER_LISTENADDRESS": "127.0.0.1:0",
    "CORE_ORDERER_LISTENADDRESS": "127.0.0.1:0",
}


def node(tmp_path: Path, *args: str, env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
    """Start `python -m peer node start`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    temporary = tmp_path / "t"
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "peer", "node", "start", *args],
        env={**kept, **ANY_PORT, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_node_start_ends_by_a_signal(tmp_path: Path, signum: int, status: int) -> None:
    process = node(tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    started = rf"peer jdoe started at 127\.0\.0\.1:\d+; joined {CHANNEL}; Ctrl-C ends it\n"
    assert re.fullmatch(started, line)
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    assert len(children) == 1  # the keeper
    with soon():
        process.send_signal(signum)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert list((tmp_path / "t").iterdir()) == []


async def test_development_mode_with_tls_is_refused() -> None:
    """A chaincode started by hand could not get in."""
    usual = PeerConfig()
    wanted = replace(
        usual,
        chaincode=replace(usual.chaincode, mode="dev"),
        peer=replace(usual.peer, tls_enabled=True, chaincode_listen_address="127.0.0.1:0"),
    )
    with pytest.raises(ConfigError, match=r"mode is dev and peer\.tls\.enabled is true"):
        async with open_peer(wanted):
            pass


def test_node_start_ends_its_chaincodes(code: Code, tmp_path: Path) -> None:
    """One started by hand sees its stream end; nobody can reach the address any more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    env = {"CORE_PEER_CHAINCODELISTENADDRESS": address, "CORE_CHAINCODE_MODE": "dev"}
    process = node(tmp_path, env=env)
    assert process.stdout is not None
    process.stdout.readline()
    chaincode = subprocess.Popen(
        [sys.executable, "chaincode.py", "-peer.address", address],
        cwd=code.book(),
        env={**os.environ, "CORE_CHAINCODE_ID_NAME": f"{code.label}:1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "is ready" not in (line := process.stderr.readline()) or code.label not in line:
        assert line
    with soon():
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        _, errors = chaincode.communicate(timeout=10)
    assert (process.returncode, chaincode.returncode) == (0, 0), errors
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
