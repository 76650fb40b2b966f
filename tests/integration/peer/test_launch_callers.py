"""A launch belongs to the peer: what its callers do, and what the peer's end does to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from fabric_protos.stream import ChaincodeMessageType as Type
from peer import Peer
from peer.errors import (
    ChaincodeError,
    InstanceExited,
    LaunchError,
    PeerClosing,
    StreamTerminated,
)
from tests.integration.peer.scene import CHANNEL, SOON_S, Code, processes, soon, watched_peer

GATED = """
    async def answer(stub, args):
        return str(os.getpid()).encode()

    open("gate").read()
    await wire.chaincode(answer)
"""


def gated(code: Code, main: str = GATED) -> Path:
    """Return a chaincode that registers when the test opens its gate."""
    source = code.python(main)
    os.mkfifo(source / "gate")
    return source


async def open_gate(source: Path) -> None:
    await trio.to_thread.run_sync((source / "gate").write_text, "go")


class Callers:
    """Calls that run at the same time, and what came of each: its answer or its error."""

    def __init__(self, peer: Peer, name: str) -> None:
        self.outcomes: list[bytes | ChaincodeError] = []
        self._peer = peer
        self._name = name

    async def call(self) -> None:
        try:
            result = await self._peer.query(CHANNEL, self._name, ["anything"])
        except ChaincodeError as exc:
            self.outcomes.append(exc)
        else:
            self.outcomes.append(result.payload)


async def test_fifty_callers_share_one_launch(code: Code) -> None:
    source = gated(code)
    async with watched_peer() as (peer, watch):
        await peer.install(source)
        callers = Callers(peer, source.name)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(callers.call)
            await watch.stage(source.name, "connect")
            await open_gate(source)
        [pid] = processes(source.name)
        assert callers.outcomes == [str(pid).encode()] * 50


async def test_fifty_callers_share_one_failure(code: Code) -> None:
    source = gated(code, 'open("gate").read(); sys.exit(5)')
    async with watched_peer() as (peer, watch):
        await peer.install(source)
        callers = Callers(peer, source.name)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(callers.call)
            await watch.stage(source.name, "connect")
            await open_gate(source)
        assert {type(outcome) for outcome in callers.outcomes} == {InstanceExited}
        assert len({str(outcome) for outcome in callers.outcomes}) == 1
        assert len({id(outcome) for outcome in callers.outcomes}) == 50  # tracebacks do not mix


async def test_a_cancelled_caller_leaves_the_launch_to_the_others(code: Code) -> None:
    source = gated(code)
    async with watched_peer() as (peer, watch):
        await peer.install(source)
        callers = Callers(peer, source.name)
        async with trio.open_nursery() as staying:
            async with trio.open_nursery() as leaving:
                leaving.start_soon(callers.call)  # this one began the launch
                await watch.stage(source.name, "connect")
                staying.start_soon(callers.call)
                await trio.testing.wait_all_tasks_blocked()
                leaving.cancel_scope.cancel()
            await open_gate(source)
        [pid] = processes(source.name)
        assert callers.outcomes == [str(pid).encode()]


async def test_a_launch_whose_callers_are_all_cancelled_goes_on(code: Code) -> None:
    source = gated(code)
    async with watched_peer() as (peer, watch):
        await peer.install(source)
        callers = Callers(peer, source.name)
        async with trio.open_nursery() as leaving:
            for _ in range(3):
                leaving.start_soon(callers.call)
            await watch.stage(source.name, "connect")
            leaving.cancel_scope.cancel()
        [pid] = processes(source.name)
        await open_gate(source)
        await watch.stage(source.name, "ready")
        await callers.call()
        assert callers.outcomes == [str(pid).encode()]


async def test_stop_during_a_launch_fails_its_callers(code: Code) -> None:
    source = gated(code)
    async with watched_peer() as (peer, watch):
        package = await peer.install(source)
        callers = Callers(peer, source.name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(callers.call)
            await watch.stage(source.name, "connect")
            with soon():
                await peer.chaincode.stop(package.ccid)
            assert processes(source.name) == {}
        [outcome] = callers.outcomes
        assert type(outcome) is LaunchError
        assert outcome.reason == "it was stopped"


@pytest.mark.parametrize("stage", ["build", "create", "start", "connect"])
async def test_a_peer_that_closes_during_a_launch_fails_its_callers(code: Code, stage: str) -> None:
    source = gated(code)
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery, watched_peer() as (peer, watch):
            await peer.install(source)
            callers = Callers(peer, source.name)
            nursery.start_soon(callers.call)
            await watch.stage(source.name, stage)
        [outcome] = callers.outcomes
        assert type(outcome) is PeerClosing
        assert outcome.evidence is not None
        reached = ["build", "create", "start", "connect"]
        assert reached.index(outcome.evidence.stage) >= reached.index(stage)


async def test_a_peer_that_closes_during_an_execution_fails_its_caller(code: Code) -> None:
    source = code.python("""
        async def answer(stub, args):
            await stub.get("running")
            await asyncio.Event().wait()

        await wire.chaincode(answer)
    """)
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery, watched_peer() as (peer, watch):
            await peer.install(source)
            callers = Callers(peer, source.name)
            nursery.start_soon(callers.call)
            await watch.message(Type.GET_STATE, b"running")
        [outcome] = callers.outcomes
        assert type(outcome) is StreamTerminated
