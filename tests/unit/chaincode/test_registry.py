"""The registry under every order of events: one handler per id, nobody left waiting."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabric_protos.stream import ChaincodeId, ChaincodeInput
from peer.chaincode.launcher import LaunchLimits
from peer.chaincode.registry import HandlerRegistry, LaunchState
from peer.chaincode.stream import StreamClosed
from peer.errors import (
    ExecuteError,
    LaunchError,
    StartupTimeout,
)
from runtimes.api import ExitStatus
from tests.fakes.runtime import FakeRuntime
from tests.fakes.stream import Type

from .conftest import params
from .house import Call, Caller, House, open_house

CCID = "asset:1"


async def test_only_the_first_outcome_counts() -> None:
    state = LaunchState(CCID)
    state.notify(None)
    state.notify(LaunchError(CCID, "too late"))
    await state.outcome()
    assert not state.is_ending


async def test_a_failure_ends_what_was_started() -> None:
    state = LaunchState(CCID)
    state.notify(StartupTimeout(CCID, "slow"))
    state.notify(None)
    state.gone.set()
    with pytest.raises(StartupTimeout) as first:
        await state.outcome()
    with pytest.raises(StartupTimeout) as second:
        await state.outcome()
    assert first.value is not second.value
    assert first.value.evidence == second.value.evidence is not None
    assert state.scope.cancel_called


async def test_a_launch_exists_once_and_until_it_is_forgotten() -> None:
    registry = HandlerRegistry()
    state, already = registry.launching(CCID)
    assert not already
    assert registry.launching(CCID) == (state, True)
    assert registry.launch(CCID) is state
    registry.forget(state)
    assert state.gone.is_set()
    assert registry.launch(CCID) is None
    registry.ready(CCID)  # nobody waits, and that is fine


class Storm:
    """Callers, chaincodes and accidents in random order; invariants after every step."""

    def __init__(self, house: House, call: Caller, rng: random.Random) -> None:
        self.house = house
        self.call = call
        self.rng = rng
        self.calls: list[Call] = []
        self.count = 0

    async def run(self, steps: int) -> None:
        actions = [
            self.launch,
            self.launch,
            self.execute,
            self.give_up,
            self.register,
            self.register,
            self.register_wrongly,
            self.complete,
            self.close_stream,
            self.exit,
            self.stop,
            self.wait,
        ]
        for _ in range(steps):
            self.rng.choice(actions)()
            if self.rng.random() < 0.5:
                await wait_all_tasks_blocked()
            else:
                await trio.lowlevel.checkpoint()
            self.check()

    def check(self) -> None:
        registry = self.house.registry
        ready = [handler for handler in registry._handlers.values() if handler.is_ready]
        assert len(ready) == len({handler.ccid for handler in ready})
        for ccid, handler in registry._handlers.items():
            assert handler.ccid == ccid
        assert len(self.house.runtime.running) <= 1

    def launch(self) -> None:
        self.calls.append(self.call(self.house.support.launch, CCID))

    def execute(self) -> None:
        self.count += 1
        handler = self.house.registry.handler(CCID)
        if handler is not None:
            arguments = (Type.TRANSACTION, params(f"tx{self.count}"), ChaincodeInput(), 20.0)
            self.calls.append(self.call(handler.execute, *arguments))

    def give_up(self) -> None:
        if self.calls:
            self.rng.choice(self.calls).scope.cancel()

    def register(self, name: str = CCID) -> None:
        for instance in list(self.house.runtime.running):
            if any(
                endpoint.address == instance.spec.peer_address and endpoint.accepting
                for endpoint in self.house.listeners.open_now
            ):
                chaincode = self.house.connect(instance)
                chaincode.send(Type.REGISTER, ChaincodeId(name=name).encode())

    def register_wrongly(self) -> None:
        if self.rng.random() < 0.3:
            self.register("other:1")

    def complete(self) -> None:
        chaincode = self.house.chaincodes.get(CCID)
        if chaincode is not None and not chaincode.ended.is_set():
            with suppress(StreamClosed):
                chaincode.complete(tx=f"tx{self.rng.randint(0, self.count)}")

    def close_stream(self) -> None:
        chaincode = self.house.chaincodes.get(CCID)
        if chaincode is not None:
            chaincode.close()

    def exit(self) -> None:
        for instance in list(self.house.runtime.running):
            instance.exit(ExitStatus(code=self.rng.randint(0, 3)))

    def stop(self) -> None:
        if self.rng.random() < 0.3:
            self.calls.append(self.call(self.house.support.stop, CCID))

    def wait(self) -> None:
        self.calls.append(self.call(trio.sleep, self.rng.random() * 3))


@pytest.mark.parametrize("seed", range(40))
async def test_random_interleavings(call: Caller, autojump_clock: MockClock, seed: int) -> None:
    runtime = FakeRuntime()
    limits = LaunchLimits(startup_s=5.0, stop_s=1.0)
    async with open_house(runtime, limits=limits) as house:
        storm = Storm(house, call, random.Random(seed))
        await storm.run(120)
        await trio.sleep(30)  # past every limit: launches 5 s, executions 20 s
        assert [each for each in storm.calls if not each.done.is_set()] == []
        storm.check()
        # Whatever happened, the next launch works.
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        if not launch.done.is_set():
            storm.register()
        assert (await launch.value()).is_ready
    failures = [each.failure for each in storm.calls if each.failure is not None]
    assert all(isinstance(failure, LaunchError | ExecuteError) for failure in failures), failures
    assert runtime.running == set()
